"""The inventory of a model: where it can grow and what it costs, counted once for each of its sizes."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import nn

from outgrow.errors import InputError
from outgrow.grow.budget import Cost
from outgrow.grow.effort import START_FLOPS, WIDER, Effort, Workload, loads_of, on_trial, passes_of
from outgrow.grow.policy import Plan
from outgrow.grow.sample import rows_in
from outgrow.net.axis import Axis
from outgrow.net.cost import Shapes, flops_by_weight, parameters
from outgrow.net.inputs import Example
from outgrow.net.latency import latency
from outgrow.net.place import BlockCopy, NewLayer, Place
from outgrow.net.places import places

SAMPLE_BOUNDS = (128, 16_384)  # examples of each part of a check, where its cost decides
CHEAP_ROWS = 1.1  # times its least cost, for more positions where a check can't afford the fewest examples


class Inventory:
    """What depends on the sizes of a model; made anew once they have changed.

    Args:
        model: The model.
        example: One input, or several.
        axes: Every axis of the model as it is now.

    Attributes:
        counts: FLOPs of one example, as `flops_by_weight` counts them.
        flops: All of them.
        start: What starting one pass through the model costs, in the FLOPs that could be done meanwhile.
    """

    def __init__(self, model: nn.Module, example: Example, axes: Sequence[Axis]) -> None:
        self._model, self._example, self._axes = model, example, axes
        self._parameters, self._shapes = parameters(model), Shapes(model)
        rows = rows_in(example)
        self.counts = {name: count // rows for name, count in flops_by_weight(model, example).items()}
        self.flops = sum(self.counts.values())
        leaves = sum(1 for module in model.modules() if next(module.children(), None) is None)
        self.start = START_FLOPS * leaves
        self._sizes = {axis.name: axis.size for axis in axes if axis.growable}
        layers = [member.module for axis in axes if axis.growable for member in axis.consumers]
        self._loads = loads_of(model, dict.fromkeys(layers), example)

    def usual(self, proposal: str) -> Plan:
        """Return a plan as large as most are, where none is known."""
        return Plan({axis: math.ceil((WIDER - 1) * size) for axis, size in self._sizes.items()}, "", init=proposal)

    def effort(self, plan: Plan | None, proposal: str, sample: int, flops: float | None) -> Effort:
        """Return how many examples and positions a check reads, and what it costs.

        Args:
            plan: What is on trial; a usual plan where absent.
            proposal: How its units are proposed.
            sample: Examples of each part, where no cost is given.
            flops: Floating-point operations that the check may take, which then decide instead; None for no limit.

        Returns:
            The effort.
        """
        work = self.work(plan or self.usual(proposal), proposal)
        if flops is None:
            return work.effort(sample)
        fewest, most = SAMPLE_BOUNDS
        least = work.effort(fewest, 0).flops
        if flops < least:
            return work.affordable(CHEAP_ROWS * least, fewest, fewest)
        return work.affordable(flops, fewest, most)

    def work(self, plan: Plan, proposal: str) -> Workload:
        """Return what a check of a plan has to do, its units proposed by a name."""
        units = {a: count for a, count in on_trial(plan.units, proposal).items() if a in self._sizes}
        wide = self._shapes.flops_after(self._axes, units, self.counts)
        deep = self.flops + sum(
            self._block_flops(place) for place in (self.places if plan.blocks else ()) if place.name in plan.blocks
        )
        factored = plan.evidence != "none" and (plan.units or plan.removals)
        return Workload(
            self._loads if factored else {},
            self.flops,
            passes_of(plan, proposal, self.flops, wide, deep),
            max((1 + count / self._sizes[axis] for axis, count in units.items()), default=1.0),
            1 if plan.evidence == "gain" or plan.removals else 2,
            self.start,
        )

    def _block_flops(self, place: Place) -> int:
        """Forward FLOPs of one example that a block at a place adds."""
        if isinstance(place.recipe, BlockCopy):
            return sum(count for name, count in self.counts.items() if name.startswith(f"{place.name}."))
        assert isinstance(place.recipe, NewLayer)
        like = f"{place.recipe.like}.weight"
        weight = place.recipe.channels**2 * math.prod(place.recipe.kernel)
        return self.counts.get(like, 0) * weight // self._model.get_parameter(like).numel()

    @cached_property
    def found(self) -> list[Place]:
        """Every place of the model, also where no block can go; looked for when first asked."""
        return places(self._model, self._example)

    @cached_property
    def places(self) -> list[Place]:
        """Every place where a block can be tried."""
        return [place for place in self.found if place.growable]

    @cached_property
    def latency(self) -> float:
        """The time of a forward pass [seconds]; measured when first asked."""
        return latency(self._model, self._example)

    def cost(self, timed: bool) -> Cost:
        """Return what the model costs, its latency where it is to be timed."""
        return Cost(self._parameters, self.flops, self.latency if timed else None)

    def cost_with(self, cost: Cost, axes: Sequence[Axis], units: Mapping[str, int]) -> Cost:
        """Return what the model would cost with more units.

        Args:
            cost: What it costs now.
            axes: Every axis of it.
            units: How many more, by axis.

        Returns:
            The cost then.

        Raises:
            InputError: There is no such axis.
        """
        names = [axis.name for axis in axes]
        if unknown := [axis for axis in units if axis not in names]:
            raise InputError(f"expected axes among {', '.join(names)}, received '{unknown[0]}'")
        params = self._shapes.parameters_after(axes, units)
        return cost.after(params, self._shapes.flops_after(axes, units, self.counts))
