"""The panel of removals: units really taken out of a copy, with compensation, and the loss measured without them."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.grow.effort import A_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.losing import cheapest, readers_of, stand_ins
from outgrow.grow.moments import Moments, take_moments
from outgrow.grow.objective import Objective, OutputLoss
from outgrow.grow.precision import full_precision, upcast
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.setup import Setup
from outgrow.grow.trial import can_try
from outgrow.grow.weights import weights_of
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, parameters, parameters_after
from outgrow.net.inputs import call
from outgrow.net.remove import Removal, Values, remove

TERMS = 256  # groups of examples whose differences make a standard error, which is then right to 4 %


@dataclass(frozen=True)
class Losing:
    """Units to do without.

    Args:
        removal: Which.
        gain: Drop of the mean loss on part B without them, with compensation; mostly below zero [nats].
        se: Standard error of the gain over examples [nats].
        predicted: What the quadratic model on part A says that they cost [nats].
    """

    removal: Removal
    gain: float
    se: float
    predicted: float


@dataclass(frozen=True)
class Losses:
    """The loss on some examples.

    Args:
        mean: Over all of them [nats].
        terms: Over each of some groups of nearly the same size [terms].
    """

    mean: float
    terms: Tensor

    def drop_to(self, after: "Losses") -> tuple[float, float]:
        """Return how much less another loss on the same examples is, and its standard error from paired differences."""
        pairs = self.terms - after.terms
        pairs = pairs[pairs.isfinite()]  # a group may have no target that counts
        error = float(pairs.std()) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
        return self.mean - after.mean, error


class RemovalPanel:
    """Removals on trial on several axes, each by itself.

    Args:
        setup: What the check goes by. Moments are expand's, whatever its convention: least squares is over positions.
        units: How many units would go, by axis; at least one of an axis stays.

    Attributes:
        candidates: Of kind `remove`; parameters and FLOPs are negative, being freed, and the gain mostly is.
    """

    def __init__(self, setup: Setup, units: Mapping[Axis, int]) -> None:
        self._setup, self._passes = setup, 0
        self._axes = {axis.name: axis for axis in units}
        self._model = _resting(setup.model)
        self._moments = self._moments_of(self._model)
        self._before = self._losses()
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
            The removals, and a function that gives the compensating values of the model, or of an average of it by
            that one's own features, in the shapes that they have before the edit.
        """
        chosen = [self._tried[name] for name in units]
        chosen = [
            one if len(one.removal.units) == count else self._try(one.removal.axis, count)
            for one, count in zip(chosen, units.values(), strict=True)
        ]
        return tuple(chosen), partial(self._values, [one.removal for one in chosen])

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
        values = stand_ins(self._model, self._moments, [removal])
        edit = remove(self._model, self._setup.axes, [removal], values)
        try:
            gain, se = self._before.drop_to(self._losses())
        finally:
            edit.undo()
        return Losing(removal, gain, se, sum(reader.cost(removal.units) for reader in readers))

    def _candidate(self, one: Losing) -> Candidate:
        setup, axis, count = self._setup, one.removal.axis, len(one.removal.units)
        gone = {axis.name: -count}
        return Candidate(
            kind="remove",
            where=axis.name,
            units=count,
            params=parameters_after(setup.model, setup.axes, gone) - parameters(setup.model),
            flops=flops_after(setup.model, setup.axes, gone, setup.counts) - sum(setup.counts.values()),
            gain=one.gain,
            se=one.se,
            realised=one.gain,
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


def losses(model: nn.Module, batches: Sequence[Batch], objective: Objective) -> Losses:
    """Return the loss on batches, as a whole and in groups of examples; of a user's own step each batch is a group.

    Args:
        model: Run as it is.
        batches: The examples.
        objective: What the model is trained for.
    """
    total, mean, terms = examples_in(batches), 0.0, list[float]()
    for batch in batches:
        groups = max(min(round(TERMS * batch.size / total), batch.size), 1)
        one, parts = _measured(model, batch, objective, groups)
        mean, terms = mean + one * batch.size / total, terms + parts
    return Losses(mean, torch.tensor(terms, dtype=torch.float64))


@torch.no_grad()
@full_precision()
def _measured(model: nn.Module, batch: Batch, objective: Objective, groups: int) -> tuple[float, list[float]]:
    """The mean loss of a batch, and of groups of its examples."""
    if not isinstance(objective, OutputLoss):
        mean = objective.mean(model, batch, {})
        return mean, [mean]
    whole = upcast((call(model, batch.inputs), batch.target))
    stops = [batch.size * i // groups for i in range(groups + 1)]
    parts = [_examples(whole, batch.size, i, j) for i, j in pairwise(stops)]
    return float(objective.loss(*whole)), [float(objective.loss(*part)) for part in parts]


def _examples(tree: Any, size: int, start: int, stop: int) -> Any:
    """Some examples of a nest of tensors, which may have several rows for each."""

    def taken(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.ndim) or len(leaf) % size:
            return leaf
        rows = len(leaf) // size
        return leaf[start * rows : stop * rows]

    return pytree.tree_map(taken, tree)


def _resting(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients."""
    model = copy.deepcopy(model).eval()
    model.zero_grad(set_to_none=True)
    return model
