"""How sizes of a run are finished, and which of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outgrow.errors import InputError

LENGTH = 0.08  # of the branch of the largest size, as a share of the steps of the run
RESERVED = 0.2  # of the training FLOPs, where they are limited, for the branches
APART = 2.0  # times the parameters, at least, from one size that gets a branch to the next, where none are asked for


@dataclass(frozen=True)
class Finishing:
    """How sizes are finished.

    Args:
        length: Steps of a branch of the largest size, as a share of those of the run, up to its best epoch where it
            overfitted; smaller sizes get more, see `outgrow.train.branch`.
        distil: Weight of what the run's last network answers in the loss of smaller ones; 0 for targets alone.

    Raises:
        InputError: One is out of range.
    """

    length: float = LENGTH
    distil: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.length <= 1:
            raise InputError(f"length: expected a share of the run's steps, above 0 to 1, received {self.length}")
        if not 0 <= self.distil <= 1:
            raise InputError(f"distil: expected a weight from 0 to 1, received {self.distil}")


def spaced(sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the sizes that get a branch where none are asked for: the smallest, and others well apart.

    Args:
        sizes: Entries of family.json, in the order in which they were saved.

    Returns:
        Names, smallest first; all of them smaller than what the run ended with, the last entry.

    Examples:
        >>> spaced([{"name": str(params), "params": params} for params in (100, 150, 200, 290, 450)])
        ['100', '200']
    """
    found: list[Mapping[str, Any]] = []
    for size in sorted(sizes, key=lambda size: int(size["params"])):
        if size["params"] < sizes[-1]["params"] and (not found or size["params"] >= APART * found[-1]["params"]):
            found.append(size)
    return [size["name"] for size in found]


def wanted(sizes: Sequence[Mapping[str, Any]], asked: Sequence[int]) -> list[str]:
    """Return the names of the sizes that come closest to some numbers of parameters, from below.

    Args:
        sizes: Entries of family.json.
        asked: The numbers.

    Returns:
        Names, each once, smallest first.

    Raises:
        InputError: Nothing is as small as one of them.

    Examples:
        >>> wanted([{"name": str(params), "params": params} for params in (100, 200, 300)], [250, 1_000])
        ['200', '300']
    """
    found = {}
    for most in sorted(asked):
        fits = [size for size in sizes if size["params"] <= most]
        if not fits:
            least = min(sizes, key=lambda size: int(size["params"]), default=None)
            has = f"the smallest, {least['name']}, has {least['params']:,}" if least else "it has none"
            raise InputError(f"the run has no size of at most {most:,} parameters: {has}")
        best = max(fits, key=lambda size: int(size["params"]))
        found[best["name"]] = best
    return list(found)
