"""The inventory of a model: where it can grow and what it costs, counted once for each of its sizes."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import nn

from outgrow.grow.block import can_try_place
from outgrow.grow.budget import Cost
from outgrow.grow.effort import START_FLOPS, Workload, loads_of
from outgrow.grow.sample import rows_in
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, flops_by_weight, parameters, parameters_after
from outgrow.net.inputs import Example
from outgrow.net.latency import latency
from outgrow.net.place import Place
from outgrow.net.places import places


class Inventory:
    """What depends on the sizes of a model; made anew once they have changed.

    Args:
        model: The model.
        example: One input, or several.
        axes: Every axis of the model as it is now.
        passes: Further passes over part A of a check's sample, such as a proposal takes.

    Attributes:
        counts: FLOPs of one example, as `flops_by_weight` counts them.
        flops: All of them.
        work: What a check has to do.
    """

    def __init__(self, model: nn.Module, example: Example, axes: Sequence[Axis], passes: float) -> None:
        self._model, self._example = model, example
        rows = rows_in(example)
        self.counts = {name: count // rows for name, count in flops_by_weight(model, example).items()}
        self.flops = sum(self.counts.values())
        growable = [axis for axis in axes if axis.growable]
        layers = [member.module for axis in growable for member in axis.consumers]
        leaves = sum(1 for module in model.modules() if next(module.children(), None) is None)
        loads = loads_of(model, dict.fromkeys(layers), example)
        self.work = Workload(loads, self.flops, 1 + len(growable), START_FLOPS * leaves, passes)

    @cached_property
    def places(self) -> list[Place]:
        """Every place where a block can be tried; looked for when first asked."""
        return [place for place in places(self._model, self._example) if not can_try_place(self._model, place)]

    @cached_property
    def latency(self) -> float:
        """The time of a forward pass [seconds]; measured when first asked."""
        return latency(self._model, self._example)

    def cost(self, timed: bool) -> Cost:
        """Return what the model costs, its latency where it is to be timed."""
        return Cost(parameters(self._model), self.flops, self.latency if timed else None)

    def cost_with(self, cost: Cost, axes: Sequence[Axis], units: Mapping[str, int]) -> Cost:
        """Return what the model would cost with more units.

        Args:
            cost: What it costs now.
            axes: Every axis of it.
            units: How many more, by axis.

        Returns:
            The cost then.
        """
        params = parameters_after(self._model, axes, units)
        return cost.after(params, flops_after(self._model, axes, units, self.counts))
