"""Means and standard deviations that inputs and targets are normalised by."""

import numpy as np
import torch

from outgrow.errors import InputError

STEPS = 100  # of single precision that a standard deviation has at least


def are_close(values: np.ndarray) -> bool:
    """Return whether values vary, but by less than 100 steps of single precision.

    Args:
        values: In double precision `[n]`; where they are not finite they are not looked at.

    Example:
        >>> [are_close(np.array(values)) for values in ([1.0, 2.0], [1e9, 1e9 + 1], [0.1, 0.1])]
        [False, True, False]
    """
    if not values.size or not np.isfinite(values).all() or (values == values[0]).all():
        return False
    with np.errstate(over="ignore"):
        return bool(values.std() < STEPS * np.spacing(np.float32(np.abs(values).max())))


def demand_apart(values: np.ndarray, where: str) -> None:
    """Check that single precision tells values apart.

    Args:
        values: In double precision `[n]`.
        where: What to call them in the message.

    Raises:
        InputError: It does not, see `are_close`.
    """
    if are_close(values):
        raise InputError(
            f"{where} varies by {values.std():.3g} around {values.mean():.3g}, which single precision can't tell; "
            f"subtract an offset"
        )


def pixel_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, with pixels scaled to 0..1.

    A channel has only 256 values, so both come from its histogram: exact, and without a float copy of the images.

    Args:
        x: Images, uint8 `[n, channels, height, width]`.

    Returns:
        Mean and standard deviation, float32 `[channels]`; the latter is 1 where a channel is constant.

    Example:
        >>> x = torch.tensor([0, 255, 0, 255], dtype=torch.uint8).reshape(2, 1, 1, 2)
        >>> pixel_statistics(x)
        (tensor([0.5000]), tensor([0.5000]))
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten().cpu(), minlength=256) for channel in x.unbind(1)])
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    constant = (counts > 0).sum(1) == 1
    return mean.float(), _safe(variance.sqrt(), constant)


def column_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column, summed in double precision.

    Args:
        x: Floats `[n, columns]`.

    Returns:
        Mean and standard deviation, float32 `[columns]`; the latter is 1 where a column is constant.

    Example:
        >>> column_statistics(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        (tensor([2., 5.]), tensor([1., 1.]))
    """
    wide = x.double()
    constant = (x == x[:1]).all(0)
    return wide.mean(0).float(), _safe(wide.std(0, correction=0), constant)


def _safe(std: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """`std` in single precision, 1 where there is nothing to divide by."""
    narrow = std.float()
    return torch.where(constant | (narrow == 0), torch.ones_like(narrow), narrow)
