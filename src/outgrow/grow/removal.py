"""The panel of removals: units really taken out of a copy, with compensation, and the loss measured without them.

Axes are on trial one by one, and a policy decides by these losses. What it decides on goes in one edit, which moves the
loss by more or less than their sum. That is measured, too, before the edit: `realised` of each axis is its part of it.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from outgrow.grow.effort import A_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.losing import cheapest, readers_of, stand_ins
from outgrow.grow.losses import Losses, losses
from outgrow.grow.moments import Moments, take_moments
from outgrow.grow.policy import Present
from outgrow.grow.sample import examples_in
from outgrow.grow.setup import Setup
from outgrow.grow.trial import can_try
from outgrow.grow.weights import weights_of
from outgrow.net.axis import Axis
from outgrow.net.remove import Removal, Values, remove
from outgrow.net.twin import duplicate


@dataclass(frozen=True)
class Losing:
    """Units to do without.

    Args:
        removal: Which.
        gain: Drop of the mean loss on part B without them, with compensation; mostly below zero [nats].
        se: Standard error of the gain over examples [nats].
        realised: Its part of the drop of that loss without all that goes together; the gain where it goes alone [nats].
        predicted: What the quadratic model on part A says that they cost [nats].
    """

    removal: Removal
    gain: float
    se: float
    realised: float
    predicted: float


class RemovalPanel:
    """Removals on trial on several axes, each by itself.

    Args:
        setup: What the check goes by. Moments are expand's, whatever its convention: least squares is over positions.
        units: How many units would go, by axis; at least one of an axis stays.

    Attributes:
        candidates: Of kind `remove`; parameters and FLOPs are negative, being freed, and the gain mostly is.
        present: The loss with all units; nothing else is known of the weights that are there.
    """

    def __init__(self, setup: Setup, units: Mapping[Axis, int]) -> None:
        self._setup, self._passes = setup, 0
        self._axes = {axis.name: axis for axis in units}
        self._model = _resting(setup.model)
        self._moments = self._moments_of(self._model)
        self._before = self._losses()
        self.present = Present(math.nan, math.nan, math.nan, math.nan, loss=self._before.mean)
        self._tried = {axis.name: self._try(axis, count) for axis, count in units.items()}
        self.candidates = [self._candidate(one) for one in self._tried.values()]

    @property
    def flops(self) -> int:
        """What it cost so far, about."""
        sample, forward = self._setup.sample, sum(self._setup.counts.values())
        inverses = sum(2 * len(one.A) ** 3 for one in self._moments.values())
        factors = sum(one.flops for one in self._moments.values()) + inverses
        return forward * (A_PASSES * examples_in(sample.a) + self._passes * examples_in(sample.b)) + factors

    def chosen(self, units: Mapping[str, int]) -> tuple[tuple[Losing, ...], Callable[[nn.Module], Values]]:
        """Return the removals that were decided on, and what makes up for all of them together.

        Args:
            units: How many units go, by axis; where they are not as many as were on trial, they are judged anew.

        Returns:
            The removals, with what they do together, and a function that gives the compensating values of the model,
            or of an average of it by that one's own features, in the shapes that they have before the edit.
        """
        chosen = [self._tried[name] for name in units]
        chosen = [
            one if len(one.removal.units) == count else self._try(one.removal.axis, count)
            for one, count in zip(chosen, units.values(), strict=True)
        ]
        removals = [one.removal for one in chosen]
        if len(chosen) > 1:
            together, _ = self._drop(removals)
            parts = shared([one.gain for one in chosen], together)
            chosen = [replace(one, realised=part) for one, part in zip(chosen, parts, strict=True)]
        return tuple(chosen), partial(self._values, removals)

    def _values(self, removals: Sequence[Removal], model: nn.Module) -> Values:
        if model is self._setup.model:
            return stand_ins(model, self._moments, removals)
        average = _resting(model)
        return stand_ins(average, self._moments_of(average), removals)

    def _try(self, axis: Axis, count: int) -> Losing:
        """The cheapest units of an axis, taken out of the copy and put back."""
        readers = readers_of(self._model, self._moments, axis)
        units = cheapest(readers, count) if readers else torch.arange(axis.size)[-count:]
        removal = Removal.of(axis, units)
        gain, se = self._drop([removal])
        return Losing(removal, gain, se, gain, sum(reader.cost(removal.units) for reader in readers))

    def _drop(self, removals: Sequence[Removal]) -> tuple[float, float]:
        """How much less the loss of the copy is without some units, and its standard error; they are put back."""
        values = stand_ins(self._model, self._moments, removals)
        edit = remove(self._model, self._setup.axes, removals, values)
        try:
            return self._before.drop_to(self._losses())
        finally:
            edit.undo()

    def _candidate(self, one: Losing) -> Candidate:
        axis, count = one.removal.axis, len(one.removal.units)
        params, flops = self._setup.added({axis.name: -count})
        return Candidate(
            kind="remove",
            where=axis.name,
            units=count,
            params=params,
            flops=flops,
            gain=one.gain,
            se=one.se,
            realised=one.realised,
            alone=one.gain,
            alone_se=one.se,
            score=-2 * one.predicted,
            bound=math.nan,
            gradient=math.nan,
        )

    def _losses(self) -> Losses:
        self._passes += 1
        return losses(self._model, self._setup.sample.b, self._setup.objective)

    def _moments_of(self, model: nn.Module) -> dict[str, Moments]:
        setup = self._setup
        layers = dict.fromkeys(member.module for axis in self._axes.values() for member in axis.consumers)
        return take_moments(
            model,
            [*layers],
            setup.sample.a,
            setup.objective,
            setup.generator,
            fisher=setup.fisher,
            positions=setup.positions,
        )


def can_lose(model: nn.Module, axis: Axis) -> str:
    """Return why an axis can't be tried without some of its units, or an empty string."""
    if axis.size < 2:
        return "it has one unit only"
    owned = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    for member in () if (reason := can_try(model, axis)) else axis.consumers:
        if any(owned[id(tensor)] > 1 for tensor in weights_of(model.get_submodule(member.module))):
            return f"{member.module}, which reads it, has a weight or a bias that another layer has too"
    return reason


def losable(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> list[Axis]:
    """Return the axes that can be tried without the units that `units` has for them."""
    return [axis for axis in found if 0 < units.get(axis.name, 0) < axis.size and not can_lose(model, axis)]


def shared(alone: Sequence[float], together: float) -> list[float]:
    """Share out a joint drop of the loss: what it is beyond the sum goes to each in proportion to its own size.

    Args:
        alone: The drops of each by itself [nats].
        together: That of all of them [nats].

    Returns:
        Parts of the joint drop, in proportion to the drops where these have one sign.

    Examples:
        >>> shared([-1.0, -3.0], -2.0), shared([0.0, 0.0], 1.0)
        ([-0.5, -1.5], [0.5, 0.5])
    """
    whole, more = sum(map(abs, alone)), together - sum(alone)
    return [drop + more * (abs(drop) / whole if whole else 1 / len(alone)) for drop in alone]


def _resting(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients."""
    model = duplicate(model).eval()
    model.zero_grad(set_to_none=True)
    return model
