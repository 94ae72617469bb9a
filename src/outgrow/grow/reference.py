"""The natural expansion score by dense matrices: the slow and plain reference of every fast one.

With z the outputs of all examples, theta the parameters, J = dz/dtheta [outputs, parameters] and L the mean loss,

    g = J^T dL/dz,    F = J^T M J,    eta = g^T F^+ g <= (dL/dz)^T M^+ dL/dz

The last expression is the ceiling: what no network with these outputs and this M can exceed, however wide. M is a
metric of the outputs; n is the number of examples and u_i the gradient of example i's own loss at its outputs:

    gauss-newton    d2L/dz2, the Fisher matrix of the likelihood that the loss stands for (Martens, arXiv 1412.1193)
    euclidean       I / n; the ceiling is the mean of |u_i|^2, SENN's lambda (Mitchell et al., arXiv 2307.04526)
    empirical       u_i u_i^T / n within each example; the ceiling is 1, whatever the network has learned. SECNN
                    (Appolinary et al., arXiv 2401.05686) uses its diagonal

Everything is dense, [outputs, outputs] and [parameters, parameters]: for some hundreds of either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.curvature import Loss
from outgrow.grow.objective import Tangent
from outgrow.grow.sample import Batch, examples_in
from outgrow.net.inputs import call_arguments

Metric = Literal["gauss-newton", "euclidean", "empirical"]

RANK = 1e-10  # eigenvalues under this share of the mean one count as zero


@dataclass(frozen=True)
class DenseFisher:
    """Gradient and dense Fisher matrix of chosen parameters.

    Args:
        F: Fisher matrix [parameters, parameters].
        g: Gradient of the mean loss [parameters].
        ceiling: The largest natural expansion score that any parameters could have [nats].
        where: Where the entries of each parameter stand in g, in the shape of the parameter.
    """

    F: Tensor
    g: Tensor
    ceiling: float
    where: Mapping[str, Tensor]

    def layer(self, path: str) -> Tensor:
        """Return where a layer's weights stand [outputs, features], the bias as the last feature if it was chosen.

        Args:
            path: Path of the layer; empty for the model itself.

        Returns:
            The places, arranged as `Moments.G` is.
        """
        prefix = f"{path}." if path else ""
        weight, bias = self.where[f"{prefix}weight"], self.where.get(f"{prefix}bias")
        parts = [weight.flatten(1)] + ([] if bias is None else [bias[:, None]])
        return torch.cat(parts, 1)

    def tangent(self, vector: Tensor) -> Tangent:
        """Return a vector over the chosen parameters [parameters] by parameter name, as gains are judged."""
        return {name: vector[index] for name, index in self.where.items()}


@dataclass(frozen=True)
class Score:
    """The natural expansion score before and after new parameters.

    Args:
        present: Of the present parameters, eta_c [nats].
        increase: What the new ones add, Delta eta, from the Schur complement [nats].
        total: Of both together, from the whole matrix [nats]; `present + increase` up to rounding.
        step: Natural-gradient step of both, -F^+ g [parameters]; zero for all other parameters.
    """

    present: float
    increase: float
    total: float
    step: Tensor


@torch.no_grad()
def fisher(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch], loss: Loss, metric: Metric = "gauss-newton"
) -> DenseFisher:
    """Return the dense Fisher matrix of chosen parameters, and the gradient.

    Args:
        model: Run as it is, on the CPU, in float64 where digits matter. Empirical gradients ask for examples that don't
            mix.
        names: Parameters, in the order in which their entries are wanted.
        batches: The examples.
        loss: Mean loss of what the model returns and the target.
        metric: What measures a change of the outputs.

    Returns:
        The matrix, the gradient and the ceiling, in float64.

    Raises:
        InputError: There are no examples, no names, no such parameter or metric, or an output without examples.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double()
        >>> found = fisher(model, ["weight"], [Batch(x, model(x).detach() + 1, 2)], nn.functional.mse_loss)
        >>> found.F, found.g
        (tensor([[1., 0.],
                [0., 9.]], dtype=torch.float64), tensor([-1., -3.], dtype=torch.float64))
        >>> round(found.ceiling, 6)  # twice the loss: squares can save no more than all of it
        2.0
    """
    if metric not in get_args(Metric):
        raise InputError(f"metric: expected one of {', '.join(get_args(Metric))}, received '{metric}'")
    weights, total = _weights(model, names), examples_in(batches)
    if not total:
        raise InputError("batches: expected at least one example, received none")
    sizes = [weight.numel() for weight in weights.values()]
    parts = torch.arange(sum(sizes)).split(sizes)
    where = {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}
    F, g = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64), torch.zeros(sum(sizes), dtype=torch.float64)
    ceiling = 0.0
    for batch in batches:
        J, u, M = _at_outputs(model, weights, batch, loss, metric)
        share = batch.size / total
        F += share * J.mT @ M @ J
        g += share * J.mT @ u
        ceiling += share * float(u @ _pseudo_inverse(M) @ u)
    return DenseFisher(F, g, ceiling, where)


def natural_expansion_score(F: Tensor, g: Tensor, present: Tensor, new: Tensor, damping: float = 0.0) -> Score:
    """Score new parameters p beside the present ones c.

        eta_c     = g_c^T Fcc^+ g_c,             r = g_p - Fpc Fcc^+ g_c
        Delta eta = r^T (Fpp - Fpc Fcc^+ Fcp)^+ r

    Singular matrices have their pseudo-inverse: the score is that of the directions that change the outputs. What is
    singular is decided after scaling every diagonal entry of F to 1, so that the units of the parameters don't matter:
    eigenvalues under `RANK` are zero, also those of the Schur complement, which would otherwise be divided by rounding.

    Args:
        F: Fisher matrix [parameters, parameters].
        g: Gradient [parameters], in the range of F.
        present: Indices of the present parameters.
        new: Indices of the new ones.
        damping: Added to the diagonal, as a share of the mean of that of both. The same damped matrix gives all three
            numbers, so that they add up and are ordered at any damping.

    Returns:
        The scores, and the natural-gradient step of both.

    Raises:
        InputError: An index is in both, or the damping is negative or no number.

    Examples:
        >>> F, g = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([0.2, 0.4]).double()
        >>> found = natural_expansion_score(F, g, torch.tensor([0]), torch.tensor([1]))
        >>> round(found.present, 6), round(found.increase, 6), round(found.total, 6)
        (0.04, 0.12, 0.16)
    """
    if bool(torch.isin(new, present).any()):
        raise InputError("new: expected indices that are not among the present ones, received some that are")
    if not 0 <= damping < torch.inf:
        raise InputError(f"damping: expected a number of at least 0, received {damping}")
    both, step = torch.cat([present, new]), torch.zeros(len(g), dtype=torch.float64)
    F, g = F[both][:, both].double(), g[both].double()
    if len(both):
        F = F + damping * F.diagonal().mean() * torch.eye(len(both), dtype=F.dtype)
    scale = torch.where(F.diagonal() > 0, F.diagonal().rsqrt(), 0.0)
    F, g = scale[:, None] * F * scale, scale * g
    c, p = slice(0, len(present)), slice(len(present), None)
    inverse = _pseudo_inverse(F[c, c], 1.0)
    r = g[p] - F[p, c] @ inverse @ g[c]
    schur = F[p, p] - F[p, c] @ inverse @ F[c, p]
    natural = _pseudo_inverse(F, 1.0) @ g
    step[both] = -scale * natural
    return Score(float(g[c] @ inverse @ g[c]), float(r @ _pseudo_inverse(schur, 1.0) @ r), float(g @ natural), step)


def kronecker(A: Tensor, S: Tensor) -> Tensor:
    """Return the dense block that K-FAC stands for, A (x) S, in the order of `DenseFisher.layer(path).flatten()`.

    Args:
        A: Second moment of what the layer reads [features, features].
        S: Fisher factor of what it writes [outputs, outputs].

    Returns:
        The matrix [outputs * features, outputs * features]; weights are flattened row by row.
    """
    return torch.kron(S, A)


def _weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    known = dict(model.named_parameters(remove_duplicate=False))
    missing = [name for name in names if name not in known]
    if missing or not names:
        received = f"'{missing[0]}'" if missing else "none"
        raise InputError(f"names: expected parameters of {type(model).__name__}, received {received}")
    return {name: known[name].detach() for name in names}


def _at_outputs(
    model: nn.Module, weights: dict[str, Tensor], batch: Batch, loss: Loss, metric: Metric
) -> tuple[Tensor, Tensor, Tensor]:
    """Return J [outputs, parameters], dL/dz [outputs] and M [outputs, outputs] of one batch."""
    args, kwargs = call_arguments(batch.inputs)
    leaves, spec = pytree.tree_flatten(torch.func.functional_call(model, weights, args, kwargs))
    read = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    _demand_examples([leaves[i] for i in read], batch.size)

    def run(values: dict[str, Tensor]) -> Tensor:
        found = pytree.tree_leaves(torch.func.functional_call(model, values, args, kwargs))
        return torch.cat([found[i].reshape(batch.size, -1) for i in read], 1)

    def loss_of(z: Tensor) -> Tensor:
        parts = z.split([leaves[i][0].numel() for i in read], 1)
        full = list(leaves)
        for i, part in zip(read, parts, strict=True):
            full[i] = part.view(leaves[i].shape)
        return loss(pytree.tree_unflatten(full, spec), batch.target)

    z = run(weights).detach()
    blocks = torch.func.jacrev(run)(weights)
    J = torch.cat([block.reshape(z.numel(), -1) for block in blocks.values()], 1)
    u = torch.func.grad(loss_of)(z)
    return J.double(), u.flatten().double(), _metric_of(metric, loss_of, z, u).double()


def _metric_of(metric: Metric, loss_of: Callable[[Tensor], Tensor], z: Tensor, u: Tensor) -> Tensor:
    """Return M of the outputs z [examples, outputs], u = dL/dz."""
    if metric == "gauss-newton":
        return torch.func.jacrev(torch.func.jacrev(loss_of))(z).reshape(z.numel(), z.numel())
    if metric == "euclidean":
        return torch.eye(z.numel(), dtype=z.dtype) / len(z)
    return torch.block_diag(*(len(z) * torch.outer(row, row) for row in u))


def _demand_examples(outputs: Sequence[Tensor], size: int) -> None:
    if not outputs or any(not z.ndim or len(z) != size for z in outputs):
        shapes = ", ".join(str(list(z.shape)) for z in outputs) or "none"
        raise InputError(f"the outputs: expected tensors with {size} examples along dimension 0, received {shapes}")


def _pseudo_inverse(matrix: Tensor, mean: float | None = None) -> Tensor:
    """Return M^+ of a symmetric matrix; eigenvalues under `RANK * mean`, by default its own mean one, are zero."""
    if not len(matrix):
        return matrix
    tolerance = RANK * (float(matrix.diagonal().mean()) if mean is None else mean)
    return torch.linalg.pinv((matrix + matrix.mT) / 2, atol=tolerance, rtol=0.0, hermitian=True)
