"""Networks that the papers start from, where ours don't have them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.models.layout import laid_out

RIDGE = 1e-3  # added to variances of patches


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


class Whitened(nn.Module):
    """A residual network whose first layer, which is not trained, whitens patches of 2 x 2 pixels.

    Its 24 channels are the patch along its principal axes, scaled to a variance of 1, and the same with the other sign
    (after K. Jordan, arXiv 2404.00498), so that the layer behind it sees nothing that is correlated. Three stages
    follow; each halves the resolution.

    Args:
        kernel: Of the first layer, see `whitening` [24, 3, 2, 2].
        widths: Channels of each stage.
        outputs: Number of outputs.
    """

    def __init__(self, kernel: Tensor, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.kernel = kernel  # no buffer: what is a part of the state may grow
        self.bias = nn.Parameter(torch.zeros(len(kernel)))
        self.stages = nn.Sequential(*(Stage(*pair) for pair in pairwise([len(kernel), *widths])))
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `x` [examples, channels, height, width] to [examples, outputs]."""
        x = F.pad(laid_out(x, self), (0, 1, 0, 1))
        return self.head(self.stages(F.conv2d(x, self.kernel.to(x.device), self.bias).relu()).amax((2, 3)))


class Stage(nn.Module):
    """A convolution with pooling, and one beside a shortcut.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out, at half of the resolution.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.body = block(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, inputs, height, width] to [examples, outputs, height / 2, width / 2]."""
        x = self.norm(F.max_pool2d(self.conv(x), 2)).relu()
        return x + self.body(x)


def whitening(x: Tensor) -> Tensor:
    """Return the kernel that whitens patches of 2 x 2 pixels.

    Args:
        x: Images [examples, channels, height, width], each channel with mean 0.

    Returns:
        The principal axes of the patches over their standard deviation, and the same with the other sign [8 channels,
        channels, 2, 2].
    """
    patches = F.unfold(x, 2).transpose(1, 2).flatten(0, 1).double()
    values, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (axes / (values + RIDGE).sqrt()).T.float().view(-1, x.shape[1], 2, 2)
    return torch.cat([kernel, -kernel])


def whitened(images: Tensor, inputs: tuple[int, ...], outputs: int) -> Whitened:
    """A `Whitened` of few channels.

    Args:
        images: What the first layer is computed from [examples, channels, height, width], each channel with mean 0.
        inputs: Shape of an image [channels, height, width].
        outputs: Number of classes.
    """
    return Whitened(whitening(images), (3, 12, 12), outputs)
