"""Reductions: a network cut down to smaller axes, as a start for training it at that size.

On every axis the units go that cost least, one after the other, and the layers that read them get the least-squares
weights with which what stays stands in for what goes; see `outgrow.grow.losing`. Axes are decided on by themselves, and
the weights are for all that goes together. An axis that can't be judged so loses its newest units. (Half of a
convolutional network that had 87.5 % on Fashion-MNIST kept 86.1 % before any training; benchmarks/NOTES.md, "Saved
sizes".)

With f the forward FLOPs of an example, n examples take

    n f A_PASSES + sum over layers (2 r (a^2 + s^2) + TRIED (a^3 + s^3) / 3)

for the passes and the factors of each layer of a features and s outputs from its r rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.grow.effort import A_PASSES, Effort, Passes, Workload, loads_of
from outgrow.grow.losing import cheapest, readers_of, stand_ins
from outgrow.grow.moments import Moments, take_moments
from outgrow.grow.objective import Objective
from outgrow.grow.removal import can_lose
from outgrow.grow.sample import chunk_of, device_of, draw
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.cost import flops
from outgrow.net.inputs import Example
from outgrow.net.remove import Removal, shrink_

EXAMPLES = (128, 4_096)  # that a reduction reads, at least and at most, where there are as many
NOTHING = Effort(0, {}, 0)


class Reduction:
    """Cuts a network down to smaller axes.

    Args:
        model: Edited in place by `apply_`.
        sizes: Units that axes shall have, by name; others stay as they are.
        example: One input of the model.
        known: All axes of the model as it is, where they were found before; finding them takes an export.

    Attributes:
        axes: All axes of the model as it is, before and after `apply_`.

    Raises:
        GrowthError: There is no such axis, or it has fewer units.
    """

    def __init__(
        self, model: nn.Module, sizes: Mapping[str, int], example: Example, known: Sequence[Axis] = ()
    ) -> None:
        self._model, self._example, self.axes = model, example, known or axes(model, example)
        found = {axis.name: axis for axis in self.axes}
        if unknown := [name for name in sizes if name not in found]:
            raise GrowthError(f"expected axes among {', '.join(found)}, got '{unknown[0]}'")
        self._gone = {found[name]: found[name].size - size for name, size in sizes.items() if found[name].size != size}
        for axis, count in self._gone.items():
            if not 0 < count < axis.size:
                raise GrowthError(f"{axis.name} has {axis.size} units, got {axis.size - count} as fewer of them")
        self._judged = [axis for axis in self._gone if not can_lose(model, axis)]
        layers = dict.fromkeys(member.module for axis in self._judged for member in axis.consumers)
        forward = flops(model, example)
        self._work = Workload(loads_of(model, layers, example), forward, Passes(a=A_PASSES * forward))

    def effort(self, budget: float, examples: int) -> Effort:
        """Return what it reads and takes.

        Args:
            budget: Floating-point operations that it may take; the least that makes sense where that is more.
            examples: How many there are.
        """
        if not self._gone:
            return NOTHING
        fewest, most = (min(bound, examples) for bound in EXAMPLES)
        found = self._work.affordable(budget, fewest, most)
        return found if found.examples >= fewest else self._work.effort(fewest, 0)

    def apply_(self, loader: Iterable[Any], effort: Effort, objective: Objective, generator: torch.Generator) -> None:
        """Cut the network down.

        Args:
            loader: Yields (inputs, target) of the training part, shuffled.
            effort: How much of it to read.
            objective: What the network is trained for.
            generator: Draws positions and Fisher noise.
        """
        if not self._gone:
            return
        model = self._model.eval()
        sample = draw(loader, -(-effort.examples // 2), device_of(model), chunk_of(self._work.forward))
        moments = take_moments(
            model,
            [*self._work.loads],
            [*sample.a, *sample.b],
            objective,
            generator,
            positions=effort.positions,
        )
        removals = [Removal.of(axis, self._cheapest(axis, moments)) for axis in self._gone]
        values = stand_ins(model, moments, [removal for removal in removals if removal.axis in self._judged])
        self.axes = shrink_(model, self.axes, removals, values, inputs=self._example).axes

    def _cheapest(self, axis: Axis, moments: Mapping[str, Moments]) -> Tensor:
        """The units of an axis that go: the newest ones where no layer tells what they are worth."""
        readers = readers_of(self._model, moments, axis) if axis in self._judged else []
        return cheapest(readers, self._gone[axis]) if readers else torch.arange(axis.size)[-self._gone[axis] :]
