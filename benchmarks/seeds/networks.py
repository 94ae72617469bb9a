"""Networks that the papers start from, where ours don't have them."""

from torch import Tensor, nn

from outgrow.models.resnet import ResNet


class Bump(nn.Module):
    """A neuron that answers at one place: `exp(-x^2 / 2)`; the layer before it says where, and how far around."""

    def forward(self, x: Tensor) -> Tensor:
        """Map every entry of `x` [...] by itself."""
        return (-x * x / 2).exp()


def secnn(inputs: tuple[int, ...], outputs: int) -> nn.Sequential:
    """SECNN's start: three blocks of one 3x3 convolution with 16 channels each, pooling between them, a linear head.

    Args:
        inputs: Shape of an image [channels, height, width].
        outputs: Number of classes.

    Returns:
        The network; a block takes further convolutions behind its last ReLU.
    """
    channels = 16
    return nn.Sequential(
        block(inputs[0], channels),
        nn.MaxPool2d(2),
        block(channels, channels),
        nn.MaxPool2d(2),
        block(channels, channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, outputs),
    )


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, BatchNorm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def deeper(inputs: tuple[int, ...], outputs: int) -> ResNet:
    """A residual network of two blocks a stage, as few channels as let it start with 3,000 parameters.

    Args:
        inputs: Shape of an image [channels, height, width].
        outputs: Number of classes.
    """
    return ResNet(inputs[0], (2, 4, 8), outputs, depth=2)
