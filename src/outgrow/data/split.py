"""Which examples train, which validate, which test.

The test part never depends on the user's seed, so that runs with different seeds are comparable; only the division
of the rest into train and validation does. Labels are divided class by class, so that each part has the shares of
the whole; a class with one example stays with the training part.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from outgrow.data.dataset import Task
from outgrow.errors import InputError

TEST_FRACTION = 0.2
FEWEST_EXAMPLES = 10
_TEST_STREAM, _VALIDATION_STREAM = 20, 10  # separate random streams, so that seed 0 has nothing in common with the test


class Division(NamedTuple):
    """Indices, int64 and ascending, of the parts; `test` is None where the test part has files of its own."""

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor | None


def divide(
    y: torch.Tensor, task: Task, *, seed: int, validation: float, where: object, test_given: bool = False
) -> Division:
    """Divide examples into train, validation and, unless one was given, test.

    Args:
        y: Labels, int64 `[n]`, or targets, float32 `[n, targets]`.
        task: Labels are divided class by class, targets at random.
        seed: Of the validation part.
        validation: Its share of what is not test.
        where: What to call the examples in messages.
        test_given: Whether there is a test part already.

    Returns:
        Disjoint indices that cover all examples.

    Raises:
        InputError: There are too few examples.

    Example:
        >>> labels = torch.arange(100) % 2
        >>> [len(part) for part in divide(labels, "classification", seed=0, validation=0.1, where="labels")]
        [72, 8, 20]
    """
    if len(y) < FEWEST_EXAMPLES:
        raise InputError(f"{where}: {len(y)} examples; at least {FEWEST_EXAMPLES} are needed to train and validate")
    rest, test = torch.arange(len(y)), None
    if not test_given:
        rest, test = hold_out(y, task, TEST_FRACTION, (_TEST_STREAM,), where)
    train, held = hold_out(y[rest], task, validation, (_VALIDATION_STREAM, seed), where)
    return Division(rest[train], rest[held], test)


def hold_out(
    y: torch.Tensor, task: Task, fraction: float, key: Sequence[int], where: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a part at random, class by class for labels.

    Args:
        y: Labels, int64 `[n]`, or targets, float32 `[n, targets]`.
        task: What `y` holds.
        fraction: The share to hold out.
        key: Seeds the draw; equal keys, equal parts.
        where: What to call the examples in messages.

    Returns:
        The indices kept and the indices held out, both ascending; neither is empty.

    Raises:
        InputError: Every class has a single example, so that none can be held out.
    """
    groups = y.numpy() if task == "classification" else np.zeros(len(y), dtype=np.int64)
    counts = np.bincount(groups)
    sizes = quotas(counts, fraction)
    if not sizes.any():
        raise InputError(f"{where}: no class has two examples, so none can be held out; collect more of each class")
    order = np.random.default_rng(key).permutation(len(y))
    order = order[np.argsort(groups[order], kind="stable")]  # shuffled within each class
    rank = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(y), dtype=bool)
    held[order] = rank < np.repeat(sizes, counts)
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def quotas(counts: np.ndarray, fraction: float) -> np.ndarray:
    """How many of each class to hold out: the nearest whole numbers with the right sum (largest remainders).

    Args:
        counts: Examples in each class, `[classes]`.
        fraction: The share to hold out.

    Returns:
        Numbers `[classes]`, each within one of `fraction * counts`; at least one example of a class is always kept.

    Example:
        >>> quotas(np.array([50, 14, 6, 1]), 0.1).tolist()
        [5, 1, 1, 0]
    """
    exact: np.ndarray = fraction * counts
    room = np.maximum(counts - 1, 0)
    sizes: np.ndarray = np.minimum(np.floor(exact).astype(np.int64), room)
    missing = max(1, round(fraction * int(counts.sum()))) - int(sizes.sum())
    open_to_more = np.flatnonzero(sizes < room)
    largest = open_to_more[np.argsort(-(exact - sizes)[open_to_more], kind="stable")]
    sizes[largest[: max(missing, 0)]] += 1
    return sizes
