"""Limits on a saved size, and what to say where none meets them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outgrow.errors import InputError
from outgrow.train.size import Size


@dataclass(frozen=True)
class Limit:
    """One limit.

    Args:
        asked: What is asked for, as it follows "no size".
        nearest: What the size is called that comes closest.
        excess: By how much a size is beyond the limit; at most 0 where it meets it.
        told: What a size has, as it follows the size's name.
    """

    asked: str
    nearest: str
    excess: Callable[[Size], float]
    told: Callable[[Size], str]


def at_most_params(most: int) -> Limit:
    """At most so many parameters."""
    what = f"of at most {most:,} parameters"
    return Limit(what, "smallest", lambda size: size.params - most, lambda size: f"has {size.params:,}")


def at_most_flops(most: int) -> Limit:
    """At most so many FLOPs for one example."""
    what = f"of at most {most:,} FLOPs"
    return Limit(what, "cheapest", lambda size: size.flops - most, lambda size: f"takes {size.flops:,}")


def at_least_accuracy(least: float) -> Limit:
    """At least so much validation accuracy."""
    return Limit(
        f"with a validation accuracy of at least {least:g}",
        "best",
        lambda size: least - (size.validation["accuracy"] or 0.0),
        lambda size: f"has {size.validation['accuracy'] or 0.0:.4f}",
    )


def at_most_latency(most: float, seconds: Callable[[Size], float]) -> Limit:
    """At most so many seconds for one example, on this machine."""
    return Limit(
        f"that takes at most {1000 * most:.3g} ms here",
        "fastest",
        lambda size: seconds(size) - most,
        lambda size: f"takes {1000 * seconds(size):.3g} ms",
    )


def within(sizes: Sequence[Size], limits: Sequence[Limit], run: str) -> list[Size]:
    """Return the sizes that meet all limits.

    Args:
        sizes: All sizes, at least one.
        limits: The limits.
        run: Name of the run, for the error.

    Returns:
        Those that meet them, in the same order.

    Raises:
        InputError: None does; the size is named that comes closest to the first limit that none meets.
    """
    left = list(sizes)
    for at, limit in enumerate(limits):
        fits = [size for size in left if limit.excess(size) <= 0]
        if not fits:
            closest = min(left, key=limit.excess)
            of_those = " of those that meet the rest" if at else ""
            raise InputError(
                f"{run} has no size {' and '.join(limit.asked for limit in limits[: at + 1])}: "
                f"the {limit.nearest}{of_those}, {closest.name}, {limit.told(closest)}"
            )
        left = fits
    return left
