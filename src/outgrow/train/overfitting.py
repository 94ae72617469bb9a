"""Overfitting: whether the validation part tells that a run has learned its training part too well."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, linear_regression
from typing import Any

from outgrow.train.evaluate import worth

Evaluation = Mapping[str, float]

STRETCH = 5  # epochs whose mean is compared
CLEAR, SEEN = 3.0, 2.0  # by how much of the noise of one epoch the loss and the metric get worse
LASTING = 3  # epochs for which it has been so


def told_since_growth(records: Iterable[Mapping[str, Any]]) -> list[Evaluation]:
    """Return what the validation part said after each epoch since the network last changed, from a journal."""
    told: list[Evaluation] = []
    for record in records:
        if record.get("growths"):
            told = []
        elif record.get("record") == "epoch":
            told.append(record["validation"])
    return told


def best_epoch(told: Sequence[Evaluation]) -> int:
    """Return after how many epochs the five in a row with the lowest mean loss were over; 0 before there are five.

    Examples:
        >>> best_epoch([{"loss": loss} for loss in (9, 4, 3, 3, 3, 3, 6, 9)])
        6
    """
    means = _means([one["loss"] for one in told])
    return means.index(min(means)) + STRETCH if means else 0


def overfits(task: str, told: Sequence[Evaluation]) -> bool:
    """Return whether the loss and the metric have both become worse than they were.

    Compared are the last five epochs with the five in a row before them that had the lowest mean loss. The noise s of
    one epoch is that around a line through all of them from there on, s^2 = sum r^2 / (n - 2). The loss has risen by
    more than 3 s then, so that the best of many stretches is not taken for more than luck, and the metric is worse by
    more than twice its own s. The loss alone would not do: classifiers become too sure of what they get wrong (Guo et
    al., arXiv 1706.04599), while they still get more right. All of it has to be so for three epochs: on a small
    validation part single ones are far off. Noise is taken as independent from epoch to epoch; where the loss drifts
    for many epochs, up and down again, the way up may be taken for the end.

    Args:
        task: What is learned, see `outgrow.train.evaluate.worth`.
        told: What the validation part said after each epoch, of one network.

    Examples:
        >>> falling = [{"loss": 1 - 0.01 * i, "accuracy": 0.5 + 0.01 * i} for i in range(20)]
        >>> overfits("classification", falling), overfits("classification", falling[::-1])
        (False, True)
    """
    losses, errors = [one["loss"] for one in told], [-worth(task, one) for one in told]
    return all(_are_worse(losses[: len(told) - ago], errors[: len(told) - ago]) for ago in range(LASTING))


def _are_worse(losses: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether the last stretch of both is worse than the one before it with the lowest mean loss."""
    before = _means(losses[:-STRETCH])
    if not before:
        return False
    best = before.index(min(before))
    return _risen(losses[best:]) > CLEAR and _risen(errors[best:]) > SEEN


def _means(losses: Sequence[float]) -> list[float]:
    """The mean of every stretch."""
    return [fmean(losses[start : start + STRETCH]) for start in range(len(losses) - STRETCH + 1)]


def _risen(values: Sequence[float]) -> float:
    """How far the last stretch lies above the first one, in units of the noise of one value."""
    risen = fmean(values[-STRETCH:]) - fmean(values[:STRETCH])
    epochs = range(len(values))
    slope, start = linear_regression(epochs, values)
    noise = sqrt(sum((value - start - slope * epoch) ** 2 for epoch, value in zip(epochs, values, strict=True)))
    noise /= sqrt(len(values) - 2)
    return risen / noise if noise else 0.0
