"""How well what was read back from a file agrees with the network that was written."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""The largest difference of an output that rounding explains, relative to how far outputs are spread."""

_ROUNDINGS = 16 * torch.finfo(torch.float32).eps  # of the largest output, which may lie far from zero


def difference(net: nn.Module, read: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs, relative to the largest deviation of an output from its mean.

    A target of 200,000 +- 1 is told from another network's, since the mean counts for no more than its rounding. Where
    an output is the same for all inputs the difference is relative to the largest output.

    Args:
        net: The network, in eval mode.
        read: What was read back.
        batches: Inputs, in batches of several sizes.

    Returns:
        The difference; infinite where shapes differ, or where outputs that are not finite are others.

    Examples:
        >>> round(difference(nn.Identity(), lambda x: x + 0.25, [torch.tensor([[1.0], [-3.0]])]), 4)
        0.125
    """
    with torch.no_grad():
        pairs = [(net(x).double(), read(x).double()) for x in batches]
    if any(expected.shape != received.shape for expected, received in pairs):
        return float("inf")
    expected, received = map(torch.cat, zip(*pairs, strict=True))
    finite = expected.isfinite() & received.isfinite()
    if not torch.equal(expected[~finite].nan_to_num(0.5), received[~finite].nan_to_num(0.5)):
        return float("inf")
    size = _largest(expected[finite])
    gap = max(_largest((expected - received)[finite]) - _ROUNDINGS * size, 0.0)
    scale = _largest((expected - expected.where(finite, 0.0).mean(0))[finite]) or size
    return gap / scale if scale else gap


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
