"""The Pareto front: what is worth more than everything that costs less."""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto(things: Iterable[T], cost: Callable[[T], float], worth: Callable[[T], float]) -> list[T]:
    """Keep what nothing of the same or a lower cost is worth as much as.

    Args:
        things: Anything.
        cost: What a thing costs.
        worth: What it is worth; NaN is worth nothing.

    Returns:
        The front by cost; of things that are equal in both, the first.

    Examples:
        >>> pareto([(10, 0.5), (30, 0.7), (20, 0.4), (40, 0.7)], cost=lambda p: p[0], worth=lambda p: p[1])
        [(10, 0.5), (30, 0.7)]
    """
    best, kept = -math.inf, []
    known = [thing for thing in things if not math.isnan(worth(thing))]
    for thing in sorted(known, key=lambda thing: (cost(thing), -worth(thing))):
        if worth(thing) > best:
            best = worth(thing)
            kept.append(thing)
    return kept
