"""How well what was read back from a file agrees with the network that was written."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""The largest difference of an output that rounding explains, relative to the largest output."""


def difference(net: nn.Module, read: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs, relative to the largest output.

    Args:
        net: The network, in eval mode.
        read: What was read back.
        batches: Inputs, in batches of several sizes.

    Returns:
        The difference; infinite where shapes differ, or where only one of both is finite.

    Examples:
        >>> difference(nn.Identity(), lambda x: x + 0.25, [torch.tensor([[1.0, -2.0]])])
        0.125
    """
    worst = 0.0
    for x in batches:
        with torch.no_grad():
            expected, received = net(x).double(), read(x).double()
        if expected.shape != received.shape or not torch.equal(expected.isfinite(), received.isfinite()):
            return float("inf")
        finite = expected.isfinite()
        gap, scale = _largest((expected - received)[finite]), _largest(expected[finite])
        worst = max(worst, gap / scale if scale else gap)
    return worst


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
