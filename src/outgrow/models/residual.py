"""A residual connection around any body, and layers that start as the identity."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}  # by dimensions of the kernel


class Residual(nn.Module):
    """Add what a body makes of its input to the input; with the body's last gain at zero it is the identity, exactly.

    Args:
        body: Maps a tensor to one of the same shape.

    Examples:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> _ = nn.init.zeros_(norm.weight)
        >>> Residual(nn.Sequential(nn.Linear(2, 2, bias=False), norm))(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        tensor([[1., 2.],
                [3., 5.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [...] to the same shape."""
        return x + self.body(x)


def identity_layer(channels: int, kernel: Sequence[int] = ()) -> nn.Module:
    """Return a linear layer or convolution that hands its input on, exactly.

    Args:
        channels: How many come in and go out.
        kernel: Odd sizes of a convolution's kernel [1 to 3 dimensions]; empty for a linear layer.

    Examples:
        >>> import torch
        >>> x = torch.arange(8.0).view(1, 2, 4)
        >>> torch.equal(identity_layer(4)(x), x), torch.equal(identity_layer(2, (3,))(x), x)
        (True, True)
    """
    layer = _layer(channels, kernel, bias=True)
    (nn.init.dirac_ if kernel else nn.init.eye_)(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def residual_layer(channels: int, kernel: Sequence[int], norm: _BatchNorm) -> Residual:
    """Return a residual connection around a fresh layer and a BatchNorm of zero gain: the identity in either mode.

    Args:
        channels: How many come in and go out.
        kernel: Odd sizes of a convolution's kernel [1 to 3 dimensions]; empty for a linear layer.
        norm: A BatchNorm whose options the new one has.
    """
    kind = type(norm) if isinstance(norm, nn.SyncBatchNorm) else _NORMS[len(kernel)]
    fresh = kind(channels, eps=norm.eps, momentum=norm.momentum, track_running_stats=norm.track_running_stats)
    nn.init.zeros_(fresh.weight)
    return Residual(nn.Sequential(_layer(channels, kernel, bias=False), fresh))


def _layer(channels: int, kernel: Sequence[int], bias: bool) -> nn.Linear | _ConvNd:
    if not kernel:
        return nn.Linear(channels, channels, bias=bias)
    padding = tuple(size // 2 for size in kernel)
    made: _ConvNd = _CONVOLUTIONS[len(kernel) - 1](channels, channels, tuple(kernel), padding=padding, bias=bias)
    return made
