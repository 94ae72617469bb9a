"""Folds: part A of a sample in two halves, so that a choice made on one is tried on the other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.sample import Batch, examples_in

DAMPINGS = (0.01, 0.1, 1.0, 10.0)  # of a mean diagonal, to choose from

Part = TypeVar("Part")


def folds(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Split batches in two folds of about as many examples.

    Batches go to the folds in turn; a single one is split itself, every other example to each.

    Args:
        batches: At least two examples.

    Returns:
        The two folds.

    Raises:
        InputError: There are fewer than two examples.

    Examples:
        >>> import torch
        >>> first, second = folds([Batch(torch.arange(5), torch.arange(5), 5)])
        >>> first[0].inputs.tolist(), second[0].target.tolist()
        ([0, 2, 4], [1, 3])
    """
    if examples_in(batches) < 2:
        raise InputError(f"two folds need at least two examples, received {examples_in(batches)}")
    if len(batches) == 1:
        return [every_other(batches[0], 0)], [every_other(batches[0], 1)]
    return list(batches[::2]), list(batches[1::2])


def every_other(batch: Batch, start: int) -> Batch:
    """Return every other example of a batch, from `start` on: every tensor of its inputs and target is sliced."""
    inputs, target = pytree.tree_map(
        lambda leaf: leaf[start::2] if isinstance(leaf, Tensor) and leaf.ndim else leaf, (batch.inputs, batch.target)
    )
    return replace(batch, inputs=inputs, target=target, size=(batch.size - start + 1) // 2)


def best_on_the_other(
    dampings: Sequence[float], parts: Sequence[Part], value: Callable[[float, Part, Part], float]
) -> float:
    """Return the damping with the largest value of what is made on one part and tried on the other, both ways.

    Args:
        dampings: To choose from.
        parts: Two.
        value: Takes a damping, the part to make on and the part to try on.

    Returns:
        The best damping; the largest one of those that are equally good, as where nothing has any value.

    Examples:
        >>> best_on_the_other((0.1, 1.0), (2, 3), lambda damping, make, test: make * test * damping)
        1.0
    """
    first, second = parts
    held_out = {damping: value(damping, first, second) + value(damping, second, first) for damping in dampings}
    return max(dampings, key=lambda damping: (held_out[damping], damping))


def drop(slope: float, curvature: float) -> float:
    """Return what the best multiple of a step takes off a quadratic, slope^2 / 2 curvature; 0 where it climbs."""
    return slope**2 / (2 * curvature) if slope > 0 and curvature > 0 else 0.0
