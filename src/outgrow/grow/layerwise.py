"""Directions judged layer by layer, by back-propagation: their number hardly matters to what they cost.

A direction V moves what a layer writes by V a, a what it reads. With u the gradient of an example's loss at what the
layers write,

    slope = - sum_layers sum_positions u . (V a)                                       exact

and with u_v back-propagated from a draw v at the outputs, whose covariance is the Hessian H of the loss there,

    p = sum_layers sum_positions u_v . (V a),      E[p_i p_j] = dz_i^T H dz_j          unbiased

for every pair of directions at once. A forward-mode product a direction gives the same curvatures without noise, and
costs a pass and a half through the model each. `DRAWS` draws leave the curvature of a mean over n examples uncertain by
about sqrt(2 / (n * DRAWS)) of itself where p is near to normal, and by some times that where few examples have most of
it: 5 to 13 % were measured at some hundred examples. Standard errors count it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from outgrow.grow.moments import hooked
from outgrow.grow.objective import Answer, Expansion, Objective, Tangent, pulled_back
from outgrow.grow.patches import has_rows
from outgrow.grow.precision import full_precision
from outgrow.grow.sample import Batch

DRAWS = 2
ROUNDING = 1e-3  # between slopes by layers and by weights, relative to the root of the sum of squares


def can_split(model: nn.Module, directions: Sequence[Tangent]) -> bool:
    """Whether directions move nothing but weights and biases of linear layers and convolutions."""
    return all(
        has_rows(model.get_submodule(name.rpartition(".")[0])) and name.rpartition(".")[2] in ("weight", "bias")
        for direction in directions
        for name in direction
    )


@torch.enable_grad()
@full_precision()
def expand_by_layers(
    model: nn.Module,
    directions: Sequence[Tangent],
    batch: Batch,
    objective: Objective,
    generator: torch.Generator,
    draws: int = DRAWS,
    checked: bool = False,
) -> Expansion | None:
    """Expand the loss of a batch along directions of layers' weights, by one forward and `1 + draws` backward passes.

    Args:
        model: Run as it is.
        directions: For which `can_split` holds.
        batch: The examples.
        objective: What the model is trained for; its draws must have the Hessian as covariance.
        generator: Draws.
        draws: How many.
        checked: Whether it is known that layers are called on examples along their first dimension.

    Returns:
        The terms of every example; None where they can't be had so: a layer's weights are also used without calling
        it, or it is called on something else than examples along its first dimension.
    """
    paths = list(dict.fromkeys(name.rpartition(".")[0] for direction in directions for name in direction))
    modules = {path: model.get_submodule(path) for path in paths}
    weights = [parameter for module in modules.values() for parameter in module.parameters(recurse=False)]
    calls: list[tuple[str, Tensor, GradientEdge]] = []

    def keep(path: str, read: Tensor, written: Tensor) -> None:
        if written.requires_grad:  # else it leads nowhere, as in a part without gradients
            calls.append((path, read.detach(), get_gradient_edge(written)))

    with _learning(weights):
        with hooked(modules, keep):
            answer = objective.answer(model, batch)
        if not calls or any(not _by_example(read, batch.size) for _, read, _ in calls):
            return None
        edges = [edge for *_, edge in calls]
        inputs: list[Any] = [*edges, *weights]
        first = pulled_back(answer, inputs, answer.gradient(), keep=True)
        if not checked and not _apart(answer, edges, batch.size, generator):
            return None
        gradients = (
            first[: len(edges)],
            *(pulled_back(answer, edges, answer.draw(generator), keep=True) for _ in range(draws)),
        )
    terms = _terms(modules, directions, calls, gradients, batch.size)
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}
    exact = {names[id(w)]: g for w, g in zip(weights, first[len(edges) :], strict=True) if g is not None}
    if not _agree(terms[0].sum(0), directions, exact):
        return None
    p = terms[1:]
    return Expansion(
        slopes=-terms[0],
        own=p.square().mean(0),
        first=(p * p[:, :, :1]).mean(0),
        matrix=torch.einsum("kni,knj->ij", p, p) / (draws * batch.size),
    )


def _terms(
    modules: Mapping[str, nn.Module],
    directions: Sequence[Tangent],
    calls: Sequence[tuple[str, Tensor, GradientEdge]],
    gradients: Sequence[Sequence[Tensor | None]],
    size: int,
) -> Tensor:
    """Return the sum over layers and positions of u . (V a) [us, examples, directions]."""
    some = calls[0][1]
    terms = torch.zeros(len(gradients), size, len(directions), dtype=torch.float64, device=some.device)
    with torch.no_grad():
        for i, (path, read, _) in enumerate(calls):
            for d, direction in enumerate(directions):
                if not any(name.rpartition(".")[0] == path for name in direction):
                    continue
                moved = _written(modules[path], path, direction, read)
                for k, us in enumerate(gradients):
                    u = us[i]
                    if u is not None:
                        wide = torch.promote_types(u.dtype, torch.float32)
                        terms[k, :, d] += (u * moved).reshape(size, -1).sum(1, dtype=wide).double()
    return terms


def _written(module: nn.Module, path: str, direction: Tangent, read: Tensor) -> Tensor:
    """What the layer would write with the direction for weights."""
    values = {
        key: direction.get(f"{path}.{key}", torch.zeros_like(parameter)).to(parameter)
        for key, parameter in module.named_parameters(recurse=False)
    }
    return torch.func.functional_call(module, values, read)


def _by_example(read: Tensor, size: int) -> bool:
    """Whether the rows of what a layer reads are examples, or the tokens of one after the other."""
    return len(read) == size or (read.ndim == 2 and len(read) % size == 0)


def _apart(answer: Answer, edges: Sequence[GradientEdge], size: int, generator: torch.Generator) -> bool:
    """Whether what leaves every other example in peace at the outputs leaves its rows in peace at every layer."""
    drawn = []
    for v in answer.draw(generator):
        rows = v.reshape(size, -1).clone()
        rows[::2] = 0.0
        drawn.append(rows.view(v.shape))
    found = pulled_back(answer, edges, drawn, keep=True)
    return not any(bool(u.reshape(size, -1)[::2].any()) for u in found if u is not None)


def _agree(slopes: Tensor, directions: Sequence[Tangent], gradients: Mapping[str, Tensor]) -> bool:
    """Whether what the layers say is the whole derivative of the loss."""
    for slope, direction in zip(slopes.tolist(), directions, strict=True):
        products = [
            gradients[name] * value.to(gradients[name]) for name, value in direction.items() if name in gradients
        ]
        whole = sum(float(product.sum(dtype=torch.float64)) for product in products)
        scale = sum(float(product.double().square().sum()) for product in products) ** 0.5
        if abs(slope - whole) > ROUNDING * scale + 1e-12:
            return False
    return True


@contextmanager
def _learning(weights: Sequence[Tensor]) -> Iterator[None]:
    """Let weights require gradients, so that what is written has a graph."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
