"""A stage: a copy of a model with pools of new units on several axes at once, ready to be looked at.

The new units of all axes hang on zero columns, so they change nothing and don't see each other; what a consumer reads
from them is what the real network would let it read, through norms, pooling, sums and concatenations.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.firing import redraw, silent
from outgrow.grow.norms import new_channels, settle
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.sample import Batch
from outgrow.net.axis import Axis, Member
from outgrow.net.edit import grid
from outgrow.net.enlargement import widen
from outgrow.net.surgery import tensors_of
from outgrow.net.twin import duplicate
from outgrow.net.widening import Widening

REDRAWS = 3  # of units that don't fire


class Stage:
    """New units beside the present ones.

    Args:
        model: The model as it is; not changed.
        found: All its axes.
        widenings: The units, at most one entry an axis.
        batches: Settle the norms' statistics; on the first batch, units that don't fire are drawn anew.
        objective: Runs the model.
        generator: Draws what the widenings leave open.

    Raises:
        InputError: The columns of new units are not zero, as those of copies and twins are not.

    Attributes:
        model: The copy, in eval mode.
        axes: The axes with new units, by name, as they are in the copy.
        sizes: Units that each had before.
        changes: How the tensors of the copy were widened, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Axis],
        widenings: Sequence[Widening],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
    ) -> None:
        _demand_unread(widenings)
        self._objective = objective
        self.model = duplicate(model).eval()
        self.model.zero_grad(set_to_none=True)
        edit = widen(self.model, found, widenings, generator)
        grown = {axis.name: axis for axis in edit.axes}
        self._before = {one.axis.name: one.axis for one in widenings}
        self.axes = {name: grown[name] for name in self._before}
        self.sizes = {name: axis.size for name, axis in self._before.items()}
        self.changes = {change.name: change for change in edit.changes}
        self._new_channels = new_channels(self.model, self.changes)
        settle(self.model, self._new_channels, batches, objective)
        self._revive(batches, generator)

    def new(self, axis: str, member: Member, units: Tensor | None = None) -> Tensor:
        """Return where new units sit along a member of an axis [units, entries]; all of them where absent."""
        places = member.index[self.sizes[axis] :]
        return places if units is None else places[units]

    def pool(self, axis: str) -> int:
        """Return how many new units an axis has."""
        return self.axes[axis].size - self.sizes[axis]

    def kept(self, path: str) -> tuple[Tensor, Tensor]:
        """Return where the outputs and the input channels that the real model's layer has now are."""
        change = self.changes.get(f"{path}.weight")
        weight = self.model.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        rows, inputs = change.keep[:2] if change else map(torch.arange, weight.shape[:2])
        return rows, inputs

    def widening(self, axis: str, units: Tensor) -> Widening:
        """Return new units of an axis, in that order, as an edit of the real model with all they need."""
        tensors = tensors_of(self.model)
        rows, channels = {}, {}
        for member in self.axes[axis].members:
            where = list(self.changes[member.tensor].keep)
            where[member.dim] = self.new(axis, member, units).flatten()
            if "out" in member.roles:
                rows[member.tensor] = tensors[member.tensor].detach()[grid(where)].clone()
            elif "channel" in member.roles:
                channels[member.tensor] = tensors[member.tensor].detach()[grid(where)].clone()
        return Widening(self._before[axis], len(units), rows, channels)

    def written(self, steps: Sequence[tuple[Tangent, float]], units: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what steps of this model add to the tensors of the real one once it has been widened.

        Args:
            steps: Directions by parameter name, and how far along each.
            units: Which new units the real model got, by axis, each by `widening`.

        Returns:
            The sum of the steps by name, in the shapes that the tensors have after the edit; entries of new units that
            it did not get are left out.
        """
        sums: dict[str, Tensor] = {}
        for tangent, length in steps:
            for name, value in tangent.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + length * value
        return {name: self._placed(name, value, units) for name, value in sums.items()}

    def _placed(self, name: str, value: Tensor, units: Mapping[str, Tensor]) -> Tensor:
        """The entries of a tensor that the real model has, where it has them."""
        change = self.changes.get(name)
        if change is None:
            return value
        where = []
        for dim, keep in enumerate(change.keep):
            places, source = [keep], torch.arange(value.shape[dim])
            for axis, chosen in units.items():
                for member in self.axes[axis].members:
                    if (member.tensor, member.dim) == (name, dim):
                        slots = self.new(axis, member, chosen.sort().values).flatten()
                        source[slots] = self.new(axis, member, chosen).flatten()
                        places.append(slots)
            where.append(source[torch.cat(places).sort().values])
        return value[grid(where)]

    def _revive(self, batches: Sequence[Batch], generator: torch.Generator) -> None:
        """Draw units anew that don't fire on the first batch; what still doesn't is left to the selection."""
        found, anew = list(self.axes.values()), False
        for _ in range(REDRAWS):
            dead = silent(self.model, found, self.sizes, batches[:1], self._objective)
            if not any(len(units) for units in dead):
                break
            for axis, units in zip(found, dead, strict=True):
                redraw(self.model, axis, units, self.changes, generator)
            settle(self.model, self._new_channels, batches[:1], self._objective)
            anew = True
        if anew and len(batches) > 1:
            settle(self.model, self._new_channels, batches, self._objective)


def _demand_unread(widenings: Sequence[Widening]) -> None:
    """Refuse units that something reads: scores take zero columns for granted, and choosing among them breaks pairs."""
    for one in widenings:
        if not one.unread:
            kind = "net2net" if one.copies else "twins"
            raise InputError(
                f"{one.axis.name}: {kind} units can't be put on trial: their columns are not zero; use them with a "
                "policy that adds unjudged"
            )
