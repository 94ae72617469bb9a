"""Pace: when events come, and how many units an event may add, planned from the budget. Pure arithmetic.

The cost that counts is the one that is closest to its limit, or the parameters where nothing is limited. `room` is by
what factor it may grow: limit / present.
"""

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policy import Situation


@dataclass(frozen=True)
class Pace:
    """Events that are spread evenly over a share of the run, and grow the network geometrically up to its budget.

    Where nothing limits the network, more can follow as long as each one grows it: the one after a moment t comes at
    t (1 + 1 / events), so the next at the usual distance, and later ones as rarely as what they bring has less of the
    run left.

    Args:
        events: How many events.
        share: Share of the run in which the network grows.
        factor: Growth of the parameters at an event, where nothing else sets it.
        most: Greatest growth of the cost at one event.
        until: Share of the run in which further events can follow; none if it is no more than `share`.

    Raises:
        InputError: An argument is out of range.

    Examples:
        >>> pace = Pace(events=4, share=0.5)
        >>> [pace.slot(progress) for progress in (0.0, 0.1, 0.125, 0.3, 0.5, 1.0)]
        [0, 0, 1, 2, 4, 4]
        >>> [Pace(events=4, share=0.2, until=0.5).slot(progress) for progress in (0.2, 0.26, 0.4, 0.5, 1.0)]
        [4, 5, 7, 8, 8]
    """

    events: int = 8
    share: float = 0.15
    factor: float = 1.5
    most: float = 3.0
    until: float = 0.0

    def __post_init__(self) -> None:
        if self.events < 1:
            raise InputError(f"events: expected at least one, received {self.events}")
        if not 0 < self.share <= 1:
            raise InputError(f"share: expected a share of the run above 0 and at most 1, received {self.share}")
        if not 0 <= self.until <= 1:
            raise InputError(f"until: expected a share of the run from 0 to 1, received {self.until}")
        for name, value in (("factor", self.factor), ("most", self.most)):
            if not value > 1:
                raise InputError(f"{name}: expected a factor above 1 by which the network grows, received {value}")

    def slot(self, progress: float) -> int:
        """Return the number of the last event that is due at some progress, from 1; 0 before the first."""
        planned = min(math.floor(progress * self.events / self.share + 1e-9), self.events)
        later = math.log(max(min(progress, self.until) / self.share, 1)) / math.log1p(1 / self.events)
        return planned + math.floor(later + 1e-9)

    def due(self, now: Situation) -> bool:
        """Return whether an event is due that no check has seen; always where the end of the run isn't known."""
        if now.progress is None:
            return True
        seen = max((self.slot(event.progress) for event in now.history if event.progress is not None), default=0)
        return self.slot(now.progress) > seen and (seen < self.events or (is_free(now) and is_growing(now)))

    def growth(self, now: Situation, number: int | None) -> float:
        """Return by what an event multiplies the cost that counts.

        Args:
            now: What the policy sees.
            number: Which of the events it is, from 1; None where that isn't known.

        Returns:
            The factor that, repeated at every event that is left, uses the budget up: at most `most` and all that is
            left of the budget; `factor` where there is no budget, or no number.
        """
        room = now.budget.room(now.cost)
        if room == math.inf or number is None:
            return min(self.factor, room)
        return float(min(room ** (1 / (self.events + 1 - min(number, self.events))), self.most, room))


def stages(start: int, sizes: Sequence[int], most: float) -> tuple[int, ...]:
    """Return sizes to grow to one after another: some that are wanted, with others between where a step is too large.

    Args:
        start: Where the growth begins [parameters].
        sizes: Those that are wanted [parameters], in any order; what is not above the start is left out.
        most: By what factor one step may grow.

    Returns:
        The sizes, rising; those between two wanted ones have equal ratios.

    Examples:
        >>> stages(1_000, [30_000, 2_000, 500], most=4)
        (2000, 7746, 30000)
    """
    found: list[int] = []
    for size in sorted(sizes):
        before = found[-1] if found else start
        steps = math.ceil(math.log(size / before) / math.log(most) - 1e-9) if size > before else 0
        found += [round(before * (size / before) ** (step / steps)) for step in range(1, steps + 1)]
    return tuple(found)


def proportional_units(now: Situation, growth: float, tilts: Mapping[str, float], multiple: int = 1) -> dict[str, int]:
    """Return the most units on each axis, in proportion to size and tilt, that grow the network by a factor.

    Args:
        now: What the policy sees.
        growth: By what the cost that counts may grow.
        tilts: Exponent of each axis's growth, by name: with all at 1, all axes grow by one factor.
        multiple: What sizes are rounded to, from twice of it on.

    Returns:
        The units, by axis; axes that get none are left out.

    Examples:
        >>> from outgrow.grow.budget import Cost
        >>> def cost_with(units):
        ...     return Cost((10 + units.get("a", 0)) * (20 + units.get("b", 0)), 0)
        >>> now = Situation({"a": 10, "b": 20}, cost_with({}), cost_with)
        >>> proportional_units(now, 2.25, {"a": 1.0, "b": 1.0})
        {'a': 5, 'b': 10}
    """
    least = _limits(now).room(now.cost) / growth

    def units(exponent: float) -> dict[str, int]:
        sizes = {a: _rounded(now.sizes[a] * math.exp(exponent * tilt), multiple) for a, tilt in tilts.items()}
        return {a: max(size - now.sizes[a], 0) for a, size in sizes.items()}

    high = math.log(max(growth, 1.0)) + 1e-9  # a parameter has at most two axes to grow on
    return _largest(units, lambda found: room_with(now, found) >= least, high)


def shared_units(now: Situation, shares: Mapping[str, float], room: float) -> dict[str, int]:
    """Return the most units whose cost is shared out among the axes in given proportions.

    Args:
        now: What the policy sees.
        shares: Share of the cost that each axis gets, by name; they sum up to 1.
        room: By what factor the cost that counts may still grow then, see `room_with`.

    Returns:
        The units, by axis, with single ones more where they fit; axes that get none are left out.

    Examples:
        >>> from outgrow.grow.budget import Cost
        >>> def cost_with(units):
        ...     return Cost(100 + 2 * units.get("a", 0) + 5 * units.get("b", 0), 0)
        >>> now = Situation({"a": 10, "b": 20}, cost_with({}), cost_with)
        >>> shared_units(now, {"a": 0.2, "b": 0.8}, room_with(now, {"a": 25}))  # 50 parameters
        {'a': 5, 'b': 8}
    """
    before = 1 / room_with(now, {})
    prices = {axis: 1 / room_with(now, {axis: 1}) - before for axis in shares}
    most = 1 / room - before

    def units(part: float) -> dict[str, int]:
        return {axis: int(part * most * share / prices[axis]) for axis, share in shares.items() if prices[axis] > 0}

    return filled(now, _largest(units, lambda found: room_with(now, found) >= room, 1 + 1e-9), room)


def least_units(now: Situation) -> dict[str, int]:
    """Return one unit on each axis, else on the one that leaves most of the budget, if it has room for that."""
    everywhere = dict.fromkeys(now.sizes, 1)
    if now.fits(everywhere):
        return everywhere
    cheapest = max(now.sizes, key=lambda axis: room_with(now, {axis: 1}))
    return {cheapest: 1} if now.fits({cheapest: 1}) else {}


def filled(now: Situation, units: Mapping[str, int], room: float) -> dict[str, int]:
    """Return units with single ones more, on the axes that grow least, as long as one fits.

    Args:
        now: What the policy sees.
        units: How many, by axis.
        room: By what factor the cost that counts may still grow then; 1 to use the budget up.

    Returns:
        The units, by axis: not one more fits on any axis where it counts.
    """
    found, left, growing = dict(units), room_with(now, units), set(now.sizes)
    while growing:
        axis = min(growing, key=lambda name: (found.get(name, 0) / now.sizes[name], name))
        more = {**found, axis: found.get(axis, 0) + 1}
        then = room_with(now, more)
        if room <= then < left:
            found, left = more, then
        else:
            growing.remove(axis)
    return found


def most_units(now: Situation, units: Mapping[str, int], axis: str, most: int, room: float) -> int:
    """Return how many units of one axis fit beside some of others.

    Args:
        now: What the policy sees.
        units: How many, by axis, of the others.
        axis: The axis.
        most: At most so many.
        room: By what factor the cost that counts may still grow then.
    """
    return bisect(range(1, most + 1), False, key=lambda count: room_with(now, {**units, axis: count}) < room)


def is_free(now: Situation) -> bool:
    """Return whether nothing limits the network."""
    return now.budget.room(now.cost) == math.inf


def room_with(now: Situation, units: Mapping[str, int]) -> float:
    """Return by what factor the cost that counts may grow once some units have come in.

    Args:
        now: What the policy sees.
        units: How many, by axis.

    Returns:
        The least of limit / cost over all limits; parameters now / then where nothing is limited.
    """
    return _limits(now).room(now.cost_with(units))


def is_growing(now: Situation) -> bool:
    """Return whether the last event that could make the network larger did so; looks at what may go are none."""
    for event in reversed(now.history):
        if any(growth.kind != "remove" for growth in event.growths):
            return True
        if any(candidate.kind != "remove" for candidate in event.candidates):
            return False
    return False


def _rounded(size: float, multiple: int) -> int:
    return round(size / multiple) * multiple if size >= 2 * multiple else round(size)


def _limits(now: Situation) -> Budget:
    return Budget(max_params=now.cost.params) if is_free(now) else now.budget


def _largest(
    units: Callable[[float], dict[str, int]], fits: Callable[[dict[str, int]], bool], high: float
) -> dict[str, int]:
    """The units at the largest amount from 0 to `high` at which they fit, by bisection; those of no axis left out."""
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(units(middle)) else (low, middle)
    return {axis: count for axis, count in units(low).items() if count > 0}
