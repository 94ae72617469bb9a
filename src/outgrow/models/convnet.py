"""A plain convolutional network: convolution, BatchNorm, ReLU, pooling."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from outgrow.models.layout import laid_out


class ConvNet(nn.Module):
    """Stages of two 3x3 convolutions, a 2x2 max pooling between stages, then global average pooling and a linear head.

    Args:
        channels: Channels of the input images.
        widths: Channels of each convolution; two make a stage.
        outputs: Number of outputs.

    Examples:
        >>> import torch
        >>> ConvNet(1, (4, 4, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise((channels, *widths)))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `x` [examples, channels, height, width] to [examples, outputs]."""
        x = laid_out(x, self)
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i and i % 2 == 0 else x)
        return self.head(x.mean((2, 3)))


class ConvBlock(nn.Module):
    """A 3x3 convolution, BatchNorm and ReLU.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, inputs, height, width] to [examples, outputs, height, width]."""
        return self.norm(self.conv(x)).relu()
