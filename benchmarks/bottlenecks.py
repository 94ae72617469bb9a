"""A residual network of bottlenecks with the shape of ResNet-50 (He et al., arXiv 1512.03385), in plain torch."""

from collections.abc import Sequence

from torch import Tensor, nn


class BottleneckNet(nn.Module):
    """A 7x7 stem, four stages of bottlenecks and a linear head: 25.6 million parameters.

    Args:
        outputs: Number of outputs.
        depths: Bottlenecks of each stage.
        width: Inner channels of the first stage; each further stage has twice as many.
    """

    def __init__(self, outputs: int = 1000, depths: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layers(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, inputs = [], width
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            for block in range(depth):
                blocks.append(Bottleneck(inputs, inner, 2 if stage and not block else 1))
                inputs = 4 * inner
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `x` [examples, 3, height, width] to [examples, outputs]."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, the last with four times the inner channels, beside a shortcut.

    Args:
        inputs: Channels that come in.
        inner: Channels of the 3x3 convolution.
        stride: Stride of the 3x3 convolution.
    """

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        self.body = nn.Sequential(
            *layers(inputs, inner, 1, 1), nn.ReLU(), *layers(inner, inner, 3, stride), nn.ReLU(),
            *layers(inner, outputs, 1, 1),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*layers(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, inputs, height, width] to [examples, 4 * inner, height / stride, width / stride]."""
        return (self.shortcut(x) + self.body(x)).relu()


def layers(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """A convolution and its BatchNorm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
