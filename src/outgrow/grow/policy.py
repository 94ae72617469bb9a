"""Policies: when to look, and what to add. A policy is a small pure part that sees numbers only."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from outgrow.grow.event import Candidate, Event


@dataclass(frozen=True)
class Situation:
    """What a policy sees.

    Args:
        sizes: Units of every axis that can grow now, by name.
        params: Parameters now.
        params_after: Gives the parameters with some more units on some axes, by name.
        progress: Share of the run that is over, 0 to 1; None where the end isn't known.
        history: Every check so far that looked at candidates.
        places: Gives the names of the places where a block can go.
    """

    sizes: Mapping[str, int]
    params: int
    params_after: Callable[[Mapping[str, int]], int]
    progress: float | None
    history: Sequence[Event]
    places: Callable[[], tuple[str, ...]] = tuple


@dataclass(frozen=True)
class Decision:
    """What to put on trial, or to add: units by axis, blocks by place, and why.

    Units and blocks can be on trial together, but not be added at one event: a block that was judged has the old
    widths. Neither: nothing.
    """

    units: Mapping[str, int]
    reason: str
    blocks: tuple[str, ...] = ()


class Policy(Protocol):
    """When to look at candidates and which of them to add. Both methods are pure."""

    def propose(self, now: Situation) -> Decision | None:
        """Return how many units to put on trial on each axis; None while it is not time for a check."""

    def decide(self, now: Situation, candidates: Sequence[Candidate], gain_now: float) -> Decision:
        """Return how many of the units on trial to add on each axis."""


@dataclass(frozen=True)
class Proportional:
    """Widen all axes in proportion, tilted towards those whose units gain more; outgrow's default.

    Greedy gain per parameter starves the layers whose units are dear and pay later (method.md, section 10), so
    proportion is the prior and the gain tilts it: an axis grows by the common factor to the power of its tilt, which is
    (its gain per cost at the last event / the geometric mean over axes) ^ strength, within `bounds`; cost counts both
    the parameters and the FLOPs that are added. So what is on trial is what will be added, and is judged once.

    With the end of the run known, events are spread evenly over the first `share` of it, and parameters grow
    geometrically from the seed's to `max_params`. Otherwise each check may grow them by `factor`. An event adds nothing
    where the candidates' steps alone, less half a standard error each, don't pay `price` for the parameters they add.
    (Half of one: by luck alone that is above zero 16 times in a hundred for one axis, 18 for four and 7 for twenty, if
    slopes are normal and independent.) Alone: a network that fits its training examples leaves little to save beyond
    the step of its own weights, and yet is better on others when it is larger.

    Args:
        max_params: Never more parameters than this; None for no limit.
        factor: Growth of the parameters at an event, where nothing else sets it.
        most: Greatest growth of the parameters at one event.
        events: How many events.
        share: Share of the run in which the network grows.
        price: Nats that a parameter has to save to be added.
        strength: Exponent of the tilt; 0 for plain proportion.
        bounds: Least and greatest tilt.
    """

    max_params: int | None = None
    factor: float = 1.5
    most: float = 3.0
    events: int = 8
    share: float = 0.6
    price: float = 1e-8
    strength: float = 0.25
    bounds: tuple[float, float] = (0.6, 1.5)

    def propose(self, now: Situation) -> Decision | None:
        """Return the units of every axis, tilted by the gains of the last event, when an event is due."""
        if now.progress is not None:
            seen = [self._slot(event.progress) for event in now.history if event.progress is not None]
            if self._slot(now.progress) <= max(seen, default=0):
                return None
        if not now.sizes:
            return Decision({}, "no axis can grow")
        last = next((event.candidates for event in reversed(now.history) if event.candidates), ())
        tilts = {**dict.fromkeys(now.sizes, 1.0), **self._tilts([c for c in last if c.where in now.sizes])}
        units = self._units(now, self._target(now), tilts) or self._least(now)
        return Decision(units, "due" if units else f"the budget of {self.max_params:,} parameters is spent")

    def decide(self, now: Situation, candidates: Sequence[Candidate], gain_now: float) -> Decision:
        """Return all units on trial, if they pay for themselves."""
        candidates = [c for c in candidates if c.kind == "widen"]
        worth = sum(c.alone - c.alone_se / 2 for c in candidates)
        added = sum(c.params for c in candidates)
        if not worth > self.price * added:
            return Decision(
                {},
                f"{added:,} parameters would save {worth:.1e} nats, less than their price of {self.price * added:.1e}",
            )
        units = {c.where: c.units for c in candidates}
        return Decision(units, f"{added:,} parameters would save {worth:.1e} nats")

    def _slot(self, progress: float) -> int:
        """Return the number of the last event that is due at some progress, from 1; 0 before the first."""
        return min(math.floor(progress * self.events / self.share + 1e-9), self.events)

    def _target(self, now: Situation) -> int:
        """Parameters to have after this event."""
        if self.max_params is None or now.progress is None:
            target = int(now.params * self.factor)
        else:
            left = self.events + 1 - self._slot(now.progress)
            growth = min((self.max_params / now.params) ** (1 / left), self.most)
            target = int(now.params * growth + 1e-6)
        return target if self.max_params is None else min(target, self.max_params)

    def _least(self, now: Situation) -> dict[str, int]:
        """One unit on each axis, else on the cheapest one, if the budget has room for that."""
        limit = math.inf if self.max_params is None else self.max_params
        everywhere = dict.fromkeys(now.sizes, 1)
        if now.params_after(everywhere) <= limit:
            return everywhere
        cheapest = min(now.sizes, key=lambda axis: now.params_after({axis: 1}))
        return {cheapest: 1} if now.params_after({cheapest: 1}) <= limit else {}

    def _tilts(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Return how each axis's growth is tilted.

        The gain counts per cost, the cost being its share of the added parameters plus its share of the added FLOPs.
        """
        params, flops = sum(c.params for c in candidates), sum(c.flops for c in candidates)
        if not candidates:
            return {}
        rates = {
            c.where: max(c.gain, c.se, 1e-12) / (c.params / max(params, 1) + c.flops / max(flops, 1))
            for c in candidates
        }
        mean = math.exp(sum(map(math.log, rates.values())) / len(rates))
        low, high = self.bounds
        return {axis: min(max((rate / mean) ** self.strength, low), high) for axis, rate in rates.items()}

    def _units(self, now: Situation, target: int, tilts: Mapping[str, float]) -> dict[str, int]:
        """Return the most units on each axis, in proportion to size and tilt, within `target` parameters."""

        def units(growth: float) -> dict[str, int]:
            return {a: round(now.sizes[a] * (math.exp(growth * tilt) - 1)) for a, tilt in tilts.items()}

        low, high = 0.0, math.log(max(target / now.params, 1.0)) + 1e-9  # a parameter has at most two axes to grow on
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if now.params_after(units(middle)) <= target else (low, middle)
        return {axis: count for axis, count in units(low).items() if count > 0}
