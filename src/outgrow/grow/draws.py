"""Draws with the Hessian of a loss at the outputs as covariance, without sampled labels.

Only Hessian-vector products are known, of n * L at outputs z [examples, ...]; examples don't mix. A form of the Hessian
is guessed from one product and believed only if it also gives a second one:

    diagonal          d                            sqrt(d) e
    softmax           w (diag p - p p^T)           sqrt(w) (sqrt(p) e - p (sqrt(p) . e)),   p = softmax(z / T)
    blocks            H along one dimension        U sqrt(Lambda) e of each block
    anything else     up to MAX_DENSE_OUTPUTS      the same, of each example
                      beyond                       Lanczos's square root, an approximation

with e standard normal. Softmax and blocks stand along the classes: dimension 1 or the last. Negative curvature, which a
loss that is convex in the output does not have, counts as none.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

MAX_DENSE_OUTPUTS = 128  # in a block, or in an example
DENSE_NUMBERS = 2**27  # in all dense blocks together: 1 GiB
LANCZOS_NUMBERS = 2**27  # in the vectors of the Lanczos process: 1 GiB
LANCZOS_STEPS = 16


def draw_root(product: Product, z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw v with E[v v^T] = H for each example.

    Args:
        product: v -> H v, both in the shape of z.
        z: The outputs [examples, ...].
        generator: Random source, on the CPU.

    Returns:
        The draws, in the shape of z.

    Examples:
        >>> z = torch.zeros(4000, 2)
        >>> v = draw_root(lambda v: torch.tensor([1.0, 9.0]) * v, z, torch.Generator().manual_seed(0))
        >>> v.square().mean(0).round()
        tensor([1., 9.])
    """
    if z.ndim == 1:
        return draw_root(lambda v: product(v[:, 0])[:, None], z[:, None], generator)[:, 0]
    noise = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
    pairs = [(v, product(v)) for v in (_probe(z, seed) for seed in (0, 1))]
    diagonal = product(torch.ones_like(z))
    if _agree(diagonal * pairs[1][0], pairs[1][1], z.ndim - 1):
        return diagonal.clamp_min(0).sqrt() * noise
    dims = [dim for dim in dict.fromkeys((1, z.ndim - 1)) if z.shape[dim] > 1]
    for dim in dims:
        if (weight := _softmax_weight(z, dim, pairs)) is not None:
            return _softmax_root(z, dim, weight, noise)
    for dim in dims if z.ndim > 2 else []:
        if _fits(z, z.shape[dim]) and (blocks := _blocks(product, z, dim, pairs[1])) is not None:
            return _dense_root(blocks, noise.movedim(dim, -1)).movedim(-1, dim)
    flat = z[0].numel()
    if _fits(z, flat):
        columns = _columns(lambda v: product(v.view_as(z)).reshape(len(z), flat), z.reshape(len(z), flat), 1)
        return _dense_root(columns, noise.view(len(z), flat)).view_as(z)
    for dim in dims:
        scaled = z / _temperature(z, dim, pairs[0])
        if (weight := _softmax_weight(scaled, dim, pairs)) is not None:
            return _softmax_root(scaled, dim, weight, noise)
    return lanczos_root(product, noise)


def lanczos_root(product: Product, noise: Tensor, steps: int = LANCZOS_STEPS) -> Tensor:
    """Return about H^1/2 noise, by the Lanczos process of each example: |e| Q T^1/2 e_1.

    Exact once there are as many steps as H has different eigenvalues that the noise sees; otherwise off by what a
    polynomial of that degree leaves of the square root over the spectrum. Every vector is kept and made orthogonal to
    those before, in float64; memory bounds the steps, to no less than two.

    (Golub and Van Loan, Matrix Computations, 10.1; Chow and Saad, SIAM J. Sci. Comput. 36, 2014.)

    Args:
        product: v -> H v, both in the shape of the noise.
        noise: Standard normal [examples, ...].
        steps: At most so many products.

    Returns:
        The roots, in the shape of the noise.
    """
    flat = noise.flatten(1).double()
    steps = max(min(steps, flat.shape[1], LANCZOS_NUMBERS // flat.numel()), 2)
    length = flat.norm(dim=1)
    q, basis = flat / length[:, None], list[Tensor]()
    T = flat.new_zeros(len(flat), steps, steps)
    for i in range(steps):
        basis.append(q)
        r = product(q.to(noise).view_as(noise)).flatten(1).double()
        T[:, i, i] = (r * q).sum(1)
        for b in basis * 2:
            r = r - (r * b).sum(1, keepdim=True) * b
        beta = r.norm(dim=1)
        alive = beta > torch.finfo(noise.dtype).eps * 100 * T.diagonal(dim1=1, dim2=2).abs().amax(1)
        q = torch.where(alive[:, None], r / beta[:, None], 0.0)
        if i + 1 < steps:
            T[:, i, i + 1] = T[:, i + 1, i] = beta * alive
    values, vectors = torch.linalg.eigh(T.nan_to_num(0.0, 0.0, 0.0))
    first = length[:, None] * (vectors @ (values.clamp_min(0).sqrt() * vectors[:, 0]).unsqueeze(2)).squeeze(2)
    root = torch.zeros_like(flat)
    for i, b in enumerate(basis):
        root += first[:, i, None] * b.nan_to_num(0.0, 0.0, 0.0)
    return root.to(noise).view_as(noise)


def _probe(z: Tensor, seed: int) -> Tensor:
    return torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype).to(z.device)


def _agree(expected: Tensor, found: Tensor, dim: int) -> bool:
    """Whether products agree in every block along a dimension, but for rounding."""
    eps = torch.finfo(found.dtype).eps
    error, size = (expected - found).norm(dim=dim), found.norm(dim=dim)
    return bool((error <= eps**0.4 * size + 32 * eps * size.max()).all())


def _fits(z: Tensor, size: int) -> bool:
    return size <= MAX_DENSE_OUTPUTS and size * z.numel() <= DENSE_NUMBERS


def _centred(z: Tensor, dim: int, v: Tensor) -> Tensor:
    """Return (diag p - p p^T) v."""
    p = z.softmax(dim)
    return p * (v - (p * v).sum(dim, keepdim=True))


def _softmax_weight(z: Tensor, dim: int, pairs: list[tuple[Tensor, Tensor]]) -> Tensor | None:
    """Return w of each position for which H is w (diag p - p p^T) along a dimension; None where it is not."""
    (v, seen), (check, expected) = pairs
    u = _centred(z, dim, v)
    weight = (seen * u).sum(dim, keepdim=True) / u.square().sum(dim, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    return weight if _agree(weight * _centred(z, dim, check), expected, dim) else None


def _softmax_root(z: Tensor, dim: int, weight: Tensor, noise: Tensor) -> Tensor:
    p = z.softmax(dim)
    root = p.sqrt()
    return weight.clamp_min(0).sqrt() * (root * noise - p * (root * noise).sum(dim, keepdim=True))


def _temperature(z: Tensor, dim: int, pair: tuple[Tensor, Tensor], rows: int = 4) -> float:
    """Return the temperature that fits a product best, in the positions with the most curvature.

    By golden section of the misfit around the best of a grid from 1/32 to 32.
    """
    flat, v, seen = (x.movedim(dim, -1).reshape(-1, z.shape[dim]).double() for x in (z, *pair))
    most = seen.norm(dim=1).topk(min(rows, len(seen))).indices
    flat, v, seen = flat[most], v[most], seen[most]

    def misfit(log: float) -> float:
        u = _centred(flat / 2**log, 1, v)
        weight = (seen * u).sum(1, keepdim=True) / u.square().sum(1, keepdim=True).clamp_min(1e-300)
        return float((seen - weight * u).norm())

    best = min((i / 2 for i in range(-10, 11)), key=misfit)
    low, high, ratio = best - 0.5, best + 0.5, (5**0.5 - 1) / 2
    for _ in range(45):  # to 1e-9 of an octave
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if misfit(left) < misfit(right) else (left, high)
    return 2 ** ((low + high) / 2)


def _columns(product: Product, z: Tensor, dim: int) -> Tensor:
    """Return the columns of every block along a dimension [..., size, size], float64."""
    columns = []
    for i in range(z.shape[dim]):
        unit = torch.zeros_like(z)
        unit.select(dim, i).fill_(1.0)
        columns.append(product(unit).movedim(dim, -1).double())
    return torch.stack(columns, -1)


def _blocks(product: Product, z: Tensor, dim: int, pair: tuple[Tensor, Tensor]) -> Tensor | None:
    """Return the blocks of H along a dimension; None where there is more than the blocks."""
    blocks = _columns(product, z, dim)
    v, seen = (x.movedim(dim, -1) for x in pair)
    expected = (blocks @ v.double().unsqueeze(-1)).squeeze(-1)
    return blocks if _agree(expected.to(seen), seen, seen.ndim - 1) else None


def _dense_root(blocks: Tensor, noise: Tensor) -> Tensor:
    """Return the symmetric square root of every block [..., size, size] times its noise [..., size]."""
    blocks = blocks.nan_to_num(0.0, 0.0, 0.0)  # of a model that has diverged
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    scaled = values.clamp_min(0).sqrt().unsqueeze(-1) * noise.double().unsqueeze(-1)
    return (vectors @ scaled).squeeze(-1).to(noise)
