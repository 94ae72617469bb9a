"""Growing: what a check decided on, done to a model with its optimizers and averages."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import EditError, GrowthError
from outgrow.grow.block_panel import Block
from outgrow.grow.check import Verdict
from outgrow.grow.event import Growth
from outgrow.grow.removal import Losing
from outgrow.grow.trial import can_try
from outgrow.grow.unit_panel import Units
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.cost import parameters_after
from outgrow.net.deepen import insert_block_, late_first
from outgrow.net.edit import Edit
from outgrow.net.inputs import Example
from outgrow.net.remove import shrink_
from outgrow.net.widen import apply_


def axes_to_try(model: nn.Module, example: Example) -> list[Axis]:
    """Return the axes of a model, those fixed that can't be tried."""
    return [replace(a, growable=not why, reason=why) for a in axes(model, example) for why in [can_try(model, a)]]


class Growing:
    """Does what a check decided on, in place, and keeps what is known of the model in step.

    Args:
        model: The model.
        axes: Every axis of the model as it is now.
        example: One input, on which axes are found anew once blocks have come in.
        inputs: What the function before and after each edit is compared on.
        optimizers: Its optimizers.
        averages: Its averages.
        generator: The source of everything random.

    Attributes:
        axes: Every axis of the model as it is now; frozen where units could not be added.
        failed: Why blocks could not be inserted, by place.
    """

    def __init__(
        self,
        model: nn.Module,
        axes: list[Axis],
        example: Example,
        inputs: Example,
        optimizers: Sequence[Optimizer],
        averages: Sequence[AveragedModel],
        generator: torch.Generator,
    ) -> None:
        self._model, self._example, self._inputs = model, example, inputs
        self._optimizers, self._averages, self._generator = optimizers, averages, generator
        self.axes, self.failed = axes, dict[str, str]()

    def apply(self, verdict: Verdict, jump_start: bool) -> tuple[Growth, ...]:
        """Do what was decided on, but for edits that fail: the model is then as it was before them.

        Args:
            verdict: What to do.
            jump_start: Whether to take the steps that the gains stand for, too, where all of it could be done.

        Returns:
            What was done.
        """
        growths = (*self._widen(verdict.units), *self._insert(verdict.blocks), *self._shrink(verdict))
        if jump_start and len(growths) == len(verdict.units) + len(verdict.blocks):
            _jump_(self._model, verdict)
        return growths

    def _widen(self, chosen: Sequence[Units]) -> tuple[Growth, ...]:
        """Add units in one edit; where that fails, without those that fail alone, whose axes are frozen."""
        if not chosen:
            return ()
        try:
            return self._widened(chosen, self._edit(chosen))
        except EditError as error:
            failed = {one.widening.axis.name: why for one in chosen if (why := self._failure(one))}
            failed = failed or {chosen[-1].widening.axis.name: str(error)}  # each one alone would do, not all together
        self.axes = [
            replace(axis, growable=False, reason=failed[axis.name]) if axis.name in failed else axis
            for axis in self.axes
        ]
        return self._widen([one for one in chosen if one.widening.axis.name not in failed])

    def _failure(self, one: Units) -> str:
        """Why units can't be added by themselves, or an empty string."""
        try:
            self._edit([one]).undo()
        except EditError as error:
            return str(error)
        return ""

    def _edit(self, chosen: Sequence[Units]) -> Edit:
        return apply_(
            self._model,
            self.axes,
            [one.widening for one in chosen],
            inputs=self._inputs,
            optimizer=self._optimizers,
            averages=self._averages,
            generator=self._generator,
        )

    def _widened(self, chosen: Sequence[Units], edit: Edit) -> tuple[Growth, ...]:
        self.axes = edit.axes
        params = _added(self._model, edit, [(one.widening.axis.name, one.widening.units) for one in chosen])
        return tuple(_widening(one, edit, more) for one, more in zip(chosen, params, strict=True))

    def _insert(self, blocks: Sequence[Block]) -> tuple[Growth, ...]:
        """Insert blocks, the last place first; where one fails, go on without it. Axes are found anew."""
        growths = []
        order = [place.name for place in late_first(self._model, [block.place for block in blocks])]
        for block in sorted(blocks, key=lambda block: order.index(block.place.name)):
            try:
                edit = insert_block_(
                    self._model,
                    block.insertion,
                    example=self._inputs,
                    optimizer=self._optimizers,
                    averages=self._averages,
                )
            except GrowthError as error:
                self.failed[block.place.name] = str(error)
            else:
                growths.append(_insertion(block, edit))
        if growths:
            self.axes = axes_to_try(self._model, self._example)
        return tuple(growths)

    def _shrink(self, verdict: Verdict) -> tuple[Growth, ...]:
        """Remove units in one edit, what stays standing in for them."""
        if not verdict.losing:
            return ()
        edit = shrink_(
            self._model,
            self.axes,
            [one.removal for one in verdict.losing],
            verdict.values(self._model),
            inputs=self._inputs,
            optimizer=self._optimizers,
            averages=self._averages,
            own=[verdict.values(average.module) for average in self._averages],
        )
        self.axes = edit.axes
        gone = [(one.removal.axis.name, -len(one.removal.units)) for one in verdict.losing]
        params = _added(self._model, edit, gone)
        return tuple(_removal(one, edit, fewer) for one, fewer in zip(verdict.losing, params, strict=True))


@torch.no_grad()
def _jump_(model: nn.Module, verdict: Verdict) -> None:
    """Take the steps that the gains stand for."""
    for name, step in verdict.step.items():
        model.get_parameter(name).add_(step)
    for block in verdict.blocks:
        for name, value in block.written(model).items():
            model.get_parameter(name).copy_(value)


def _added(model: nn.Module, edit: Edit, units: Sequence[tuple[str, int]]) -> list[int]:
    """The parameters that each axis's units brought, taken in order; both are below zero where units went."""
    sizes = [
        parameters_after(model, edit.axes, {axis: -count for axis, count in units[done:]})
        for done in range(len(units) + 1)
    ]
    return [after - before for before, after in pairwise(sizes)]


def _widening(one: Units, edit: Edit, params: int) -> Growth:
    axis, units = one.widening.axis, one.widening.units
    return Growth(
        kind="widen",
        where=axis.name,
        units=units,
        size_before=axis.size,
        size_after=axis.size + units,
        gain=one.gain.gain,
        se=one.gain.se,
        realised=one.realised,
        moved=edit.moved_by,
        params=params,
    )


def _insertion(block: Block, edit: Edit) -> Growth:
    return Growth(
        kind="insert",
        where=block.place.name,
        units=1,
        size_before=0,
        size_after=1,
        gain=block.gain.gain,
        se=block.gain.se,
        realised=block.realised,
        moved=edit.moved_by,
        params=block.params,
    )


def _removal(one: Losing, edit: Edit, params: int) -> Growth:
    axis, units = one.removal.axis, len(one.removal.units)
    return Growth(
        kind="remove",
        where=axis.name,
        units=units,
        size_before=axis.size,
        size_after=axis.size - units,
        gain=one.gain,
        se=one.se,
        realised=one.realised,
        moved=edit.moved_by,
        params=params,
    )
