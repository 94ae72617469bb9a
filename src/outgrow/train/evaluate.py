"""How good a network is: loss and metrics on a split."""

import math
from collections.abc import Iterable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.data import Dataset
from outgrow.grow.curvature import Loss

METRICS = {"classification": "accuracy", "regression": "rmse"}


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], loss: Loss, task: str) -> dict[str, float]:
    """Return the mean loss and the metrics of a model in eval mode; its mode is put back.

    Args:
        model: The network.
        loader: Yields (inputs, targets).
        loss: Mean loss of an output and a target.
        task: `classification` or `regression`.

    Returns:
        `loss` (nats, or squared error over the target's variance), and `accuracy`, or `rmse` in the target's unit and
        `r2`, both averaged over targets.
    """
    was_training = model.training
    model.eval()
    total, count, correct = 0.0, 0, 0
    residuals, targets = [], []
    for x, y in loader:
        z = model(x)
        total += float(loss(z, y)) * len(y)
        count += len(y)
        if task == "classification":
            correct += int((z.argmax(1) == y).sum())
        else:
            residuals.append((z - y).double())
            targets.append(y.double())
    model.train(was_training)
    if task == "classification":
        return {"loss": total / count, "accuracy": correct / count}
    squared = torch.cat(residuals).square().mean(0)
    variance = torch.cat(targets).var(0, correction=0)
    r2 = float((1 - squared / variance).mean()) if bool((variance > 0).all()) else math.nan
    return {"loss": total / count, "rmse": float(squared.mean().sqrt()), "r2": r2}


def worth(task: str, found: Mapping[str, float | None]) -> float:
    """Return by what sizes are compared, the higher the better: accuracy, or less the error; that of NaN is the least.

    Examples:
        >>> worth("classification", {"accuracy": 0.5}), worth("regression", {"rmse": 3.0, "r2": 0.1})
        (0.5, -3.0)
    """
    value = found[METRICS[task]]
    if value is None or math.isnan(value):
        return -math.inf
    return value if task == "classification" else -value


def merit(task: str, found: Mapping[str, float | None]) -> tuple[float, float]:
    """Return by what evaluations are compared, the higher the better: `worth`, and of equal ones the lower loss.

    Examples:
        >>> one, other = {"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": 0.9}
        >>> merit("classification", one) < merit("classification", other)
        True
    """
    loss = found["loss"]
    return worth(task, found), -math.inf if loss is None else -loss


def loss_of(dataset: Dataset, smoothing: float = 0.0) -> Loss:
    """Return what networks are trained for: cross-entropy, or the squared error over the target's variance.

    Args:
        dataset: Says which.
        smoothing: Share of each class target that is spread over all classes.
    """
    if dataset.task == "regression":
        return StandardizedMSE(dataset.target_statistics()[1])
    return partial(F.cross_entropy, label_smoothing=smoothing) if smoothing else F.cross_entropy


class StandardizedMSE:
    """Squared error over the variance of each target, so that the loss has no unit and starts near 1.

    Args:
        std: Standard deviation of each target [targets].
    """

    def __init__(self, std: Tensor) -> None:
        self.std = std

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the mean over examples and targets."""
        return ((z - y) / self.std.to(z)).square().mean()
