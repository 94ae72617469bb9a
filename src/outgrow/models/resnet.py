"""A residual network of basic blocks (He et al., arXiv 1512.03385)."""

from collections.abc import Sequence

from torch import Tensor, nn

from outgrow.models.layout import laid_out


class ResNet(nn.Module):
    """A 3x3 stem and stages of basic blocks; every stage but the first halves the resolution.

    Args:
        channels: Channels of the input images.
        widths: Channels of each stage.
        outputs: Number of outputs.
        depth: Basic blocks of each stage.

    Examples:
        >>> import torch
        >>> ResNet(3, (4, 8, 16), 10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: int, widths: Sequence[int], outputs: int, depth: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            blocks = [BasicBlock(before if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        self.head = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `x` [examples, channels, height, width] to [examples, outputs]."""
        x = self.stem(laid_out(x, self))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    A pool of one pixel each takes its stride: oneDNN, as of torch 2.13, writes outside its memory where it computes
    the gradient of a strided 1x1 convolution of few channels in channels last (uxlfoundation/oneDNN, issue 6035).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out, and between the convolutions.
        stride: Stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, inputs, height, width] to [examples, outputs, height / stride, width / stride]."""
        y = self.norm1(self.conv1(x)).relu()
        if self.stride > 1:
            x = nn.functional.avg_pool2d(x, 1, self.stride)
        return (self.shortcut(x) + self.norm2(self.conv2(y))).relu()
