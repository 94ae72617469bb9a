"""When units are given back: only where that is far cheaper than growth, and never back and forth.

One threshold for growing and pruning thrashes: a unit that just paid is by noise just below it at the next check. Two
gaps keep the two apart, one in price and one in time.

*Price.* A removal pays if its increase of the loss, plus one standard error, is less than `ratio` of what the freed
parameters are worth. A parameter is worth what the last growths saved for each one that they added, the exchange rate
at which the network buys: what is given back below it can be bought back elsewhere with profit. A constant would not
do: the price that growth asks lets all pass that can be told from nothing; a thousand parameters at that price are
less than any standard error of a loss, and no removal would ever pay. It is the floor. And since a gain at
birth is less than what training makes of a unit (method.md, section 10), while a removal costs all that a unit has
become, the rule errs on the side of keeping.

*Time.* An axis rests for some events after it grew, since newborns have not shown yet what they are worth, and is not
to grow for as many after it shrank. So a size can't turn twice within `rest` events. Axes are known by their names,
which an insertion into a chain before them may change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from outgrow.errors import InputError
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.policy import Situation


@dataclass(frozen=True)
class Hysteresis:
    """What to give back, as a pure function of the history.

    Args:
        ratio: Price of a parameter when it is given back, as a share of what one is worth, below 1.
        rest: Events for which an axis that grew does not shrink, and one that shrank does not grow.
        share: Most of an axis's units that go at one event.
        price: What a parameter is worth at least, in the unit of the loss.
        recent: Growing events whose gains say what one is worth.

    Raises:
        InputError: An argument is out of range.

    Examples:
        >>> from outgrow.grow.budget import Cost
        >>> cost, grown = Cost(300, 600), Growth("widen", "a", 8, 4, 12, 0.02, 0.001, 0.02, 0.0, 200)
        >>> history = [Event(n, 0.1, (), (grown,) if n == 1 else (), 300, 300, "", 0.0, 0) for n in (1, 2, 3)]
        >>> now = Situation({"a": 12, "b": 4}, cost, lambda units: cost, history=history)
        >>> Hysteresis(share=0.25).propose(now)
        {'a': 3}
        >>> cheap = Candidate("remove", "a", 3, -75, -150, -1e-4, 1e-4, -1e-4, -1e-4, 1e-4, -2e-4, 0.0, 0.0)
        >>> Hysteresis(share=0.25).decide(now, [cheap])  # 2e-4 nats, less than a quarter of 75 * 1e-4
        {'a': 3}
    """

    ratio: float = 0.25
    rest: int = 2
    share: float = 0.2
    price: float = 0.0
    recent: int = 3

    def __post_init__(self) -> None:
        for name, value, good in (
            ("ratio", self.ratio, 0 < self.ratio < 1),
            ("share", self.share, 0 < self.share < 1),
            ("price", self.price, 0 <= self.price < math.inf),
        ):
            if not good:
                limits = "of at least 0" if name == "price" else "between 0 and 1"
                raise InputError(f"{name}: expected a number {limits}, received {value}")
        for name, count in (("rest", self.rest), ("recent", self.recent)):
            if count < 1:
                raise InputError(f"{name}: expected at least one event, received {count}")

    def propose(self, now: Situation) -> dict[str, int]:
        """Return how many units to try to do without, by axis.

        At most `share` of them, so that an axis of few units keeps all; half as many as at the last trial where that
        did not pay, at least one.
        """
        resting = self.turned(now, "widen")
        most = {axis: self._most(now, axis, size) for axis, size in now.sizes.items() if axis not in resting}
        return {axis: count for axis, count in most.items() if count > 0}

    def decide(self, now: Situation, candidates: Sequence[Candidate]) -> dict[str, int]:
        """Return how many of the units on trial to remove, by axis: all of an axis's where that pays.

        Args:
            now: What a policy sees.
            candidates: What was tried; those of kind `remove` count, on axes that do not rest.
        """
        worth, resting = self.ratio * self.worth(now), self.turned(now, "widen")
        return {
            c.where: c.units
            for c in candidates
            if c.kind == "remove" and c.where not in resting and c.se - c.gain < worth * -c.params
        }

    def worth(self, now: Situation) -> float:
        """Return what a parameter is worth [nats]: what the last growths saved for each one, at least `price`."""
        grown = [event for event in now.history if _added(event)]
        growths = [growth for event in grown[-self.recent :] for growth in _added(event)]
        saved, added = sum(growth.gain for growth in growths), sum(growth.params for growth in growths)
        return max(saved / added if added > 0 else 0.0, self.price)

    def turned(self, now: Situation, kind: str) -> frozenset[str]:
        """Return the axes that changed in one way within the last `rest` events.

        Args:
            now: What a policy sees.
            kind: `widen`: these are not to shrink. `remove`: these are not to grow.
        """
        return frozenset(g.where for event in now.history[-self.rest :] for g in event.growths if g.kind == kind)

    def _most(self, now: Situation, axis: str, size: int) -> int:
        """How many units of an axis may be tried."""
        most = min(int(self.share * size + 1e-9), size - _seed_size(now.history, axis, size))
        tried = next((c.units for c in _last_trial(now.history, axis)), None)
        return most if tried is None else min(most, max(tried // 2, 1))


def _added(event: Event) -> list[Growth]:
    """What was added at an event and judged."""
    return [growth for growth in event.growths if growth.kind != "remove" and not math.isnan(growth.gain)]


def _seed_size(history: Sequence[Event], axis: str, size: int) -> int:
    """The size that an axis had before it changed for the first time."""
    return next((g.size_before for event in history for g in event.growths if g.where == axis), size)


def _last_trial(history: Sequence[Event], axis: str) -> list[Candidate]:
    """The last removal on trial at an axis, if nothing of the axis has changed then or since."""
    for event in reversed(history):
        if any(growth.where == axis for growth in event.growths):
            return []
        if found := [c for c in event.candidates if (c.kind, c.where) == ("remove", axis)]:
            return found
    return []
