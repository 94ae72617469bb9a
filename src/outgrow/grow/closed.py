"""Units in the directions in which the gradient at the consumers asks for a feature, both signs of each.

`closed` takes the leading left singular vectors of the whitened residual (TINY, Verbockhaven et al., arXiv 2405.19816),

    A_x^-1/2 E[x u_perp^T] S^-1/2,

x what the producer reads, u_perp the gradient at a consumer's output less what its present inputs explain. How much A_x
is damped is chosen on held-out data. `gradmax` takes those of E[x u^T] (GradMax, Evci et al., arXiv 2201.05125): the
directions that raise the norm of the gradient most.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.grow.cross import Route, cross_moments, route
from outgrow.grow.folds import DAMPINGS, best_on_the_other, drop, folds
from outgrow.grow.moments import Moments, merged, take_moments
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.weights import is_wide
from outgrow.net.axis import Axis
from outgrow.net.widening import Widening

INPUT_DAMPING = 1.0  # of A_x, where a layer is too wide to choose
OUTPUT_DAMPING = 0.01  # of S
TINY = 1e-30  # of an eigenvalue of S: of outputs that nothing is known of
OVERSAMPLING = 8  # of the subspace that holds the leading singular vectors
ITERATIONS = 8

Input = tuple[Tensor, Tensor]  # A_x [inputs, inputs] and the cross moment [inputs, outputs]


def closed(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose the closed form: two passes over the sample for all axes; random units on an axis without a route."""
    routes = {axis: found for axis in units if (found := route(model, axis))}
    layers = list(dict.fromkeys(path for one in routes.values() for path in one.modules))
    if not layers:
        return [Widening(axis, count) for axis, count in units.items()]
    parts = [batches] if any(is_wide(model.get_submodule(path)) for path in layers) else folds(batches)
    moments = [take_moments(model, layers, part, objective, generator) for part in parts]
    whole = merged(moments)
    routes = {axis: one for axis, one in routes.items() if all(path in m for path in one.modules for m in moments)}
    crosses = [cross_moments(model, [*routes.values()], part, objective, whole) for part in parts] if routes else []
    rows: dict[Axis, Tensor] = {}
    for i, (axis, one) in enumerate(routes.items()):
        inputs = [_input(one, m, cross[i], whole) for m, cross in zip(moments, crosses, strict=True) if cross[i]]
        if len(inputs) == len(parts):
            rows[axis] = _directions(inputs, [examples_in(part) for part in parts], units[axis])
    return [_widening(model, routes.get(axis), axis, count, rows.get(axis), generator) for axis, count in units.items()]


def gradmax(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose GradMax's directions: one pass over the sample for all axes; random units on an axis without a route."""
    routes = {axis: found for axis in units if (found := route(model, axis))}
    crosses = cross_moments(model, [*routes.values()], batches, objective) if routes else []
    rows = {}
    for axis, parts in zip(routes, crosses, strict=True):
        if parts:
            cross = torch.cat([part.movedim(1, 0).flatten(1) for part in parts], 1)
            rows[axis] = leading(cross, min((units[axis] + 1) // 2, len(cross)))
    return [_widening(model, routes.get(axis), axis, count, rows.get(axis), generator) for axis, count in units.items()]


def closed_form(A: Tensor, cross: Tensor, count: int, damping: float) -> Tensor:
    """Return the best linear features for a residual: A^-1/2 U of the SVD U s V^T of A^-1/2 cross.

    Args:
        A: Second moment of the inputs [inputs, inputs].
        cross: Cross moment of inputs and whitened residuals [inputs, outputs].
        count: How many, at most the inputs; beyond the rank of the residuals they are any others.
        damping: Added to A's diagonal, as a share of its mean.

    Returns:
        Directions [inputs, count], with unit second moment under the damped A.
    """
    mean = A.diagonal().mean()
    factor = torch.linalg.cholesky(A + damping * mean * torch.eye(len(A), dtype=A.dtype, device=A.device))
    white = torch.linalg.solve_triangular(factor, cross, upper=False)
    return torch.linalg.solve_triangular(factor.mT, leading(white, count), upper=True)


def held_out_value(damping: float, make: Input, test: Input, count: int) -> float:
    """Return what the closed form of one fold saves on the other, as linear features.

    The features x D are read with the weights W = D^T cross that their own fold gives them. Along that step of a linear
    map from x to the whitened residual, K-FAC's quadratic on the other fold is at best

        Tr(W^T D^T cross')^2 / (2 Tr(W^T D^T A' D W)).

    Args:
        damping: Of the closed form.
        make: A and the cross moment on the fold that makes the directions.
        test: A' and the cross moment on the fold that tries them.
        count: How many directions.

    Returns:
        The drop; 0 where the step climbs there.
    """
    directions = closed_form(*make, count, damping)
    weights, A, cross = directions.mT @ make[1], *test
    slope = (weights * (directions.mT @ cross)).sum()
    return drop(float(slope), float((weights @ weights.mT * (directions.mT @ A @ directions)).sum()))


def leading(matrix: Tensor, count: int) -> Tensor:
    """Return the leading left singular vectors [rows, count], by subspace iteration (Halko et al., arXiv 0909.4061).

    Exact where all vectors fit the subspace; beyond the rank of the matrix they are any others, orthonormal.
    """
    rows, columns = matrix.shape
    size = min(count + OVERSAMPLING, rows)
    start = torch.randn(columns, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(matrix)
    basis = torch.linalg.qr(matrix @ start)[0]
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ (matrix.mT @ basis))[0]
    small = torch.linalg.qr(matrix.mT @ basis, mode="r")[1].mT  # basis^T matrix, but for a rotation of the columns
    return (basis @ torch.linalg.svd(small)[0])[:, :count]


def _directions(inputs: Sequence[Input], examples: Sequence[int], units: int) -> Tensor:
    """The directions for half as many units, under the damping that does best on held-out folds, from all of them."""
    weights = torch.tensor(examples) / sum(examples)
    A, cross = (torch.einsum("f,fij->ij", weights.to(xs[0]), torch.stack(xs)) for xs in zip(*inputs, strict=True))
    count = min((units + 1) // 2, len(A))
    if len(inputs) < 2:
        return closed_form(A, cross, count, INPUT_DAMPING)

    def value(damping: float, make: Input, test: Input) -> float:
        return held_out_value(damping, make, test, count)

    return closed_form(A, cross, count, best_on_the_other(DAMPINGS, inputs, value))


def _input(
    one: Route, moments: Mapping[str, Moments], crosses: Sequence[Tensor], whole: Mapping[str, Moments]
) -> Input:
    """A_x of one fold, and its cross moment with the whitened residuals of all readers side by side."""
    white = [
        _whitened(whole[member.module].S.double(), cross).movedim(0, 1).flatten(1)
        for cross, member in zip(crosses, one.readers, strict=True)
    ]
    return moments[one.maker.module].A[: len(white[0]), : len(white[0])].double(), torch.cat(white, 1)


def _whitened(S: Tensor, cross: Tensor) -> Tensor:
    """S^-1/2 times a cross moment [outputs, inputs, kernel], S damped."""
    if S.ndim == 1:
        return cross * (S + OUTPUT_DAMPING * S.mean()).clamp_min(TINY).rsqrt()[:, None, None]
    values, vectors = torch.linalg.eigh(S + OUTPUT_DAMPING * S.diagonal().mean() * torch.eye(len(S)).to(S))
    return torch.tensordot(vectors @ (vectors / values.clamp_min(TINY).sqrt()).mT, cross, 1)


def _widening(
    model: nn.Module, one: Route | None, axis: Axis, units: int, directions: Tensor | None, generator: torch.Generator
) -> Widening:
    """Units in directions [inputs, count] and against them, and others at random, all with the present mean norm."""
    if one is None or directions is None or not directions.isfinite().all():
        return Widening(axis, units)
    weight = model.get_parameter(one.maker.tensor).detach()
    inputs, count = directions.shape
    further = torch.randn(inputs, max(units - 2 * count, 0), generator=generator, dtype=torch.float64)
    rows = torch.cat([directions, -directions, further.to(directions)], 1).mT[:units]
    rows = F.normalize(rows, dim=1).to(weight) * weight.flatten(1).norm(dim=1).mean()
    return Widening(axis, units, {one.maker.tensor: rows.reshape(units, *weight.shape[1:])})
