"""Units that don't fire: nothing reaches the layers that read them, so that they can't learn either."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.moments import hooked
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.selection import DEAD
from outgrow.net.axis import Axis
from outgrow.net.edit import Change, grid
from outgrow.net.fresh import fresh_entries
from outgrow.net.surgery import tensors_of


@torch.no_grad()
def silent(
    model: nn.Module,
    found: Sequence[Axis],
    sizes: Mapping[str, int],
    batches: Sequence[Batch],
    objective: Objective,
) -> list[Tensor]:
    """Return the new units of each axis that don't fire: the mean square of what is read of them is about nothing.

    Args:
        model: Already widened, in eval mode.
        found: Axes that were widened, as they are now.
        sizes: Units that they had before, by name.
        batches: The examples; one forward pass.
        objective: Runs the model.

    Returns:
        Their places among all units of the axis; a unit fires if one of the layers reads something.
    """
    paths = dict.fromkeys(member.module for axis in found for member in axis.consumers)
    powers: dict[str, Tensor] = {}

    def keep(path: str, read: Tensor, _: Tensor) -> None:
        last = isinstance(model.get_submodule(path), nn.Linear)
        rows = (read if last else read.movedim(1, -1)).flatten(0, -2)
        powers[path] = powers.get(path, 0.0) + rows.double().square().mean(0) * (len(read) / examples_in(batches))

    with hooked({path: model.get_submodule(path) for path in paths}, keep):
        for batch in batches:
            objective.mean(model, batch, {})
    return [_silent(axis, sizes[axis.name], powers) for axis in found]


def _silent(axis: Axis, size: int, powers: Mapping[str, Tensor]) -> Tensor:
    dead = torch.ones(axis.size - size, dtype=torch.bool)
    for member in axis.consumers:
        if member.module in powers:
            units = powers[member.module].cpu()[member.index].mean(1)
            dead &= units[size:] <= DEAD * units[:size].median()
    called = any(member.module in powers for member in axis.consumers)
    return size + dead.nonzero().flatten() if called else torch.zeros(0, dtype=torch.long)


@torch.no_grad()
def redraw(
    model: nn.Module, axis: Axis, units: Tensor, changes: Mapping[str, Change], generator: torch.Generator
) -> None:
    """Draw units anew, as a fresh layer's.

    Args:
        model: Already widened; changed in place.
        axis: Their axis, as it is now.
        units: Their places on it [units].
        changes: How the model's tensors were widened, by name.
        generator: Random source.
    """
    tensors = tensors_of(model)
    for role in ("channel", "out"):
        for member in axis.with_role(role):
            tensor, where = tensors[member.tensor], list(changes[member.tensor].keep)
            where[member.dim] = member.index[units].flatten()
            shape, owner = [len(index) for index in where], model.get_submodule(member.module)
            old = changes[member.tensor].old.detach()
            entries = fresh_entries(owner, member.tensor, old, shape, role, member.dim, generator)
            tensor[grid(where)] = entries.to(tensor)
