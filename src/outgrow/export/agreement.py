"""How well what was read back from a file agrees with the network that was written."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""The largest difference of an output that rounding explains, relative to how far outputs are spread."""

_FAR = 16 * torch.finfo(torch.float32).eps / TOLERANCE  # what a mean far from zero counts for: its rounding


def difference(net: nn.Module, read: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs, relative to how far they are spread.

    The scale is the largest deviation of an output from its mean, and a fifth of the largest output: so much that 16
    rounding errors of it are within the tolerance; the largest output at most. So a network whose target is
    200,000 +- 1 is told from another one.

    Args:
        net: The network, in eval mode.
        read: What was read back.
        batches: Inputs, in batches of several sizes.

    Returns:
        The difference; infinite where shapes differ, or where outputs that are not finite are others.

    Examples:
        >>> round(difference(nn.Identity(), lambda x: x + 0.25, [torch.tensor([[1.0], [-1.0]])]), 2)
        0.25
    """
    with torch.no_grad():
        pairs = [(net(x).double(), read(x).double()) for x in batches]
    if any(expected.shape != received.shape for expected, received in pairs):
        return float("inf")
    expected, received = map(torch.cat, zip(*pairs, strict=True))
    finite = expected.isfinite() & received.isfinite()
    if not torch.allclose(expected[~finite], received[~finite], equal_nan=True):
        return float("inf")
    spread = (expected - expected.where(finite, 0.0).mean(0))[finite]
    gap, size = _largest((expected - received)[finite]), _largest(expected[finite])
    scale = min(_largest(spread) + _FAR * size, size)
    return gap / scale if scale else gap


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
