"""Splitting: copies of existing units with noise, drawn where the loss asks most for change.

A unit is copied with probability in proportion to the norm of the gradient of its outgoing weights (Firefly, Wu et al.,
arXiv 2102.08574); the copies differ from it by noise (Net2Net, Chen et al., arXiv 1511.05641), or they would add
nothing beside it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.gradient import mean_gradients
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch
from outgrow.net.axis import Axis, Member
from outgrow.net.surgery import tensors_of
from outgrow.net.widening import Widening

NOISE = 0.5  # expected norm of what is added to a row of weights, as a share of that row's norm


def split(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose noisy copies: one pass over the sample for all axes."""
    norms = gradient_norms(model, [*units], batches, objective)
    tensors = tensors_of(model)
    found = []
    for (axis, count), norm in zip(units.items(), norms, strict=True):
        chances = norm if bool(norm.isfinite().all()) and float(norm.sum()) > 0 else torch.ones(axis.size)
        several = torch.multinomial(chances, max(count, 1), replacement=True, generator=generator)
        chosen = several[:count]
        rows = {m.tensor: noisy(_copies(tensors[m.tensor], m, chosen), m.dim, generator) for m in axis.producers}
        channels = {m.tensor: _copies(tensors[m.tensor], m, chosen) for m in axis.with_role("channel")}
        found.append(Widening(axis, count, rows, channels))
    return found


def noisy(rows: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Return rows that lie along a dimension with noise of `NOISE` times their norm; a vector stays as it is."""
    if rows.ndim < 2:
        return rows
    others = [d for d in range(rows.ndim) if d != dim]
    scale = NOISE * rows.square().mean(others, keepdim=True).sqrt()
    return rows + scale * torch.randn(rows.shape, generator=generator).to(rows)


def gradient_norms(
    model: nn.Module, found: Sequence[Axis], batches: Sequence[Batch], objective: Objective
) -> list[Tensor]:
    """Return, for each axis, the norm of the mean gradient of each unit's outgoing weights [units].

    Args:
        model: Run as it is.
        found: The axes.
        batches: The examples; one forward and one backward pass.
        objective: What the model is trained for.

    Returns:
        The norms; zeros where all that reads an axis is frozen.
    """
    names = dict.fromkeys(member.tensor for axis in found for member in axis.consumers)
    gradients = mean_gradients(model, names, batches, objective)
    return [_unit_norms(axis, gradients) for axis in found]


def _unit_norms(axis: Axis, gradients: Mapping[str, Tensor]) -> Tensor:
    squares = torch.zeros(axis.size, dtype=torch.float64)
    for member in axis.consumers:
        if member.tensor in gradients:
            columns = gradients[member.tensor].movedim(member.dim, 0).flatten(1).square().sum(1).cpu()
            squares = squares + columns[member.index].sum(1)
    return squares.sqrt()


def _copies(tensor: Tensor, member: Member, chosen: Tensor) -> Tensor:
    return tensor.detach().index_select(member.dim, member.index[chosen].flatten().to(tensor.device))
