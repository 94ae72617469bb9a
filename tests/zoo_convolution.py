"""Convolutions: grouped, transposed, shuffled, dense, flattened, and norms over groups of channels."""

import torch
import torch.nn.functional as F
from torch import nn

from net_cases import Chain, block, noise
from zoo_entry import Entry

IMAGE, SIGNAL = noise(4, 3, 8, 8), noise(4, 3, 12)


class ResNeXt(nn.Module):
    """A bottleneck with a grouped convolution on a residual stream."""

    def __init__(self, groups=2):
        super().__init__()
        self.stem, self.head = block(3, 4), nn.Linear(4, 2)
        self.down, self.up = block(4, 8), nn.Conv2d(8, 4, 1)
        self.grouped, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.up(self.norm(self.grouped(self.down(x))).relu())).relu().mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet: grouped, channels shuffled, grouped."""

    def __init__(self, shuffle):
        super().__init__()
        self.stem, self.a = block(3, 8), nn.Conv2d(8, 8, 1, groups=2)
        self.b, self.head, self.shuffle = nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 2), shuffle

    def forward(self, x):
        return self.head(self.b(self.shuffle(self.a(self.stem(x)).relu())).relu().mean((2, 3)))


class ByHand(nn.Module):
    """A channel shuffle by view, transpose and view."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half passes, half is worked on, then shuffled."""

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.shuffle = block(3, 8), nn.Conv2d(8, 2, 1), ByHand(2)
        self.branches = nn.ModuleList(
            nn.Sequential(block(4, 4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), block(4, 4))
            for _ in "12"
        )

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, 1)
            x = self.shuffle(torch.cat([left, branch(right)], 1))
        return self.head(x).mean((2, 3))


class Dense(nn.Module):
    """A DenseNet block: norm and activation before each convolution, over all that came before."""

    def __init__(self, growth=3, layers=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        widths = [4 + growth * i for i in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(w),
                nn.ReLU(),
                nn.Conv2d(w, 5, 1),
                nn.BatchNorm2d(5),
                nn.ReLU(),
                nn.Conv2d(5, growth, 3, padding=1),
            )
            for w in widths
        )
        self.transition, self.head = block(4 + growth * layers, 5), nn.Linear(5, 2)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(F.avg_pool2d(self.transition(torch.cat(features, 1)), 2).mean((2, 3)))


class Flat(nn.Module):
    """A convolution whose positions are flattened before a linear layer."""

    def __init__(self, flat):
        super().__init__()
        self.a, self.b, self.flat = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), flat
        self.c, self.d = nn.Linear(5 * 4 * 4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.d(self.c(self.flat(self.b(self.a(x).relu()).relu())).relu())


class Squeeze(nn.Module):
    """Squeeze and excite with linear layers, inside an inverted residual."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = block(3, 4), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.depthwise, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.squeeze, self.excite, self.head = nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = F.hardswish(self.norm(self.depthwise(self.up(x))))
        b, c = y.shape[:2]
        scale = F.hardsigmoid(self.excite(self.squeeze(y.mean((2, 3)).view(b, c)).relu())).view(b, c, 1, 1)
        return self.head((x + self.down(y * scale)).mean((2, 3)))


class Project(nn.Module):
    """A residual block with a 1x1 projection and stride."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.head = block(3, 4), block(4, 6), nn.Linear(5, 2)
        self.second = nn.Sequential(nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5))
        self.project = nn.Sequential(nn.Conv2d(4, 5, 1, stride=2, bias=False), nn.BatchNorm2d(5))

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.second(self.first(x)) + self.project(x)).relu().mean((2, 3)))


class BilinearUNet(nn.Module):
    """Two levels, bilinear upsampling, skips by concatenation."""

    def __init__(self, up=None):
        super().__init__()
        self.a, self.b, self.c, self.d = block(3, 4), block(4, 5), block(5, 6), block(11, 5)
        self.e, self.out, self.up = block(9, 4), nn.Conv2d(4, 2, 1), up or nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.avg_pool2d(b, 2))
        d = self.d(torch.cat([F.interpolate(c, size=b.shape[-2:], mode="bilinear", align_corners=False), b], 1))
        return self.out(self.e(torch.cat([self.up(d), a], 1)))


class StochasticDepth(nn.Module):
    """A branch that is left out at times in training."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = block(3, 4), nn.Sequential(block(4, 5), nn.Conv2d(5, 4, 1)), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = self.branch(x)
        if self.training:
            y = y * (torch.rand(len(x), 1, 1, 1, device=x.device) < 0.8) / 0.8
        return self.head((x + y).mean((2, 3)))


class Dilated(nn.Module):
    """WaveNet: causal dilated convolutions, a gate of two convolutions, skips."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 2, 1)
        self.tanh, self.gate = (nn.ModuleList(nn.Conv1d(4, 5, 2, dilation=d) for d in (1, 2)) for _ in "12")
        self.skip, self.back = (nn.ModuleList(nn.Conv1d(5, w, 1) for _ in "12") for w in (3, 4))

    def forward(self, x):
        x, total = self.stem(x), 0.0
        for i, pad in enumerate((1, 2)):
            padded = F.pad(x, (pad, 0))
            y = self.tanh[i](padded).tanh() * self.gate[i](padded).sigmoid()
            total, x = total + self.skip[i](y), x + self.back[i](y)
        return self.out(total.relu())


class Gan(nn.Module):
    """A generator: a linear layer unflattened into an image, transposed convolutions with norms."""

    def __init__(self, unflatten):
        super().__init__()
        self.first, self.unflatten = nn.Linear(3, 6 * 2 * 2), unflatten
        self.layers = nn.Sequential(
            nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 5, 4, 2, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
            nn.ConvTranspose2d(5, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(self.unflatten(self.first(x)))


class Normed(nn.Module):
    """A norm on a residual stream and one inside its block."""

    def __init__(self, norm, inner=8, stream=8):
        super().__init__()
        self.stem, self.before, self.up = nn.Conv2d(3, stream, 3), norm(stream), nn.Conv2d(stream, inner, 1)
        self.inside, self.down, self.head = norm(inner), nn.Conv2d(inner, stream, 1), nn.Linear(stream, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.down(self.inside(self.up(self.before(x).relu())).relu())).mean((2, 3)))


def chain(*layers, example=IMAGE, dropout=False):
    return Entry(lambda: nn.Sequential(*(layer() for layer in layers)), example, dropout=dropout)


def conv(inputs, outputs, size=1, **options):
    return lambda: nn.Conv2d(inputs, outputs, size, **options)


CONVOLUTION: dict[str, Entry] = {
    "resnext": Entry(ResNeXt, IMAGE),
    "resnext, four groups": Entry(lambda: ResNeXt(4), IMAGE),
    "grouped chain": chain(conv(3, 4), nn.ReLU, conv(4, 6, 3, groups=2), nn.ReLU, conv(6, 2)),
    "depthwise multiplier": chain(conv(3, 4), nn.ReLU, conv(4, 8, 3, groups=4), nn.ReLU, conv(8, 2)),
    "transposed": chain(conv(3, 4), nn.ReLU, lambda: nn.ConvTranspose2d(4, 5, 2, 2), nn.ReLU, conv(5, 2)),
    "transposed, grouped": chain(
        conv(3, 4), nn.ReLU, lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.ReLU, conv(6, 2)
    ),
    "transposed, depthwise": chain(
        conv(3, 4), nn.ReLU, lambda: nn.ConvTranspose2d(4, 4, 2, 2, groups=4), nn.ReLU, conv(4, 2)
    ),
    "transposed, one dimension": chain(
        lambda: nn.Conv1d(3, 4, 3),
        nn.ReLU,
        lambda: nn.ConvTranspose1d(4, 5, 3),
        nn.ReLU,
        lambda: nn.Conv1d(5, 2, 1),
        example=SIGNAL,
    ),
    "three dimensions": chain(
        lambda: nn.Conv3d(2, 4, 3),
        lambda: nn.BatchNorm3d(4),
        nn.ReLU,
        lambda: nn.MaxPool3d(2),
        lambda: nn.Conv3d(4, 2, 1),
        example=noise(4, 2, 4, 4, 4),
    ),
    "pixel shuffle": chain(conv(3, 4, 3), nn.ReLU, conv(4, 12), lambda: nn.PixelShuffle(2), nn.ReLU, conv(3, 2)),
    "pixel shuffle at the end": chain(conv(3, 4, 3), nn.ReLU, conv(4, 12), lambda: nn.PixelShuffle(2)),
    "pixel unshuffle": chain(conv(3, 4), nn.ReLU, lambda: nn.PixelUnshuffle(2), conv(16, 5), nn.ReLU, conv(5, 2)),
    "channel shuffle": Entry(lambda: Shuffle(nn.ChannelShuffle(2)), IMAGE),
    "channel shuffle by hand": Entry(lambda: Shuffle(ByHand(2)), IMAGE),
    "shuffle unit": Entry(ShuffleUnit, IMAGE),
    "dense": Entry(Dense, IMAGE),
    "flatten": Entry(lambda: Flat(nn.Flatten()), IMAGE),
    "flatten, view": Entry(lambda: Flat(lambda x: x.view(x.size(0), -1)), IMAGE),
    "flatten, constant": Entry(lambda: Flat(lambda x: x.view(-1, 5 * 4 * 4)), IMAGE),
    "flatten, positions first": Entry(lambda: Flat(lambda x: x.permute(0, 2, 3, 1).flatten(1)), IMAGE),
    "squeeze and excite": Entry(Squeeze, IMAGE),
    "projection": Entry(Project, IMAGE),
    "bilinear u-net": Entry(BilinearUNet, IMAGE),
    "transposed u-net": Entry(lambda: BilinearUNet(nn.ConvTranspose2d(5, 5, 2, 2)), IMAGE),
    "stochastic depth": Entry(StochasticDepth, IMAGE, dropout=True),
    "wavenet": Entry(Dilated, SIGNAL),
    "generator": Entry(lambda: Gan(nn.Unflatten(1, (6, 2, 2))), noise(4, 3)),
    "generator, view": Entry(lambda: Gan(lambda x: x.view(len(x), -1, 2, 2)), noise(4, 3)),
    "autoencoder with norms": chain(
        conv(3, 4, 3, stride=2),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU,
        conv(4, 3, 3),
        nn.ReLU,
        lambda: nn.ConvTranspose2d(3, 4, 3),
        lambda: nn.BatchNorm2d(4),
        nn.ReLU,
        lambda: nn.ConvTranspose2d(4, 3, 2, 2),
    ),
    "group norm": Entry(lambda: Normed(lambda c: nn.GroupNorm(2, c)), IMAGE),
    "group norm, one group": Entry(lambda: Normed(lambda c: nn.GroupNorm(1, c)), IMAGE),
    "group norm, a group a channel": Entry(lambda: Normed(lambda c: nn.GroupNorm(c, c)), IMAGE),
    "instance norm": Entry(lambda: Normed(nn.InstanceNorm2d), IMAGE),
    "instance norm, affine": Entry(lambda: Normed(lambda c: nn.InstanceNorm2d(c, affine=True)), IMAGE),
    "instance norm, tracked": Entry(
        lambda: Normed(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)), IMAGE
    ),
    "local response": Entry(lambda: Normed(lambda c: nn.LocalResponseNorm(3)), IMAGE),
    "dropout of channels": chain(conv(3, 4), nn.ReLU, nn.Dropout2d, conv(4, 2), dropout=True),
    "padding modes": chain(
        conv(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU, conv(4, 2, 3, padding=1, padding_mode="circular")
    ),
    "fold": chain(
        conv(3, 4), lambda: nn.Unfold(2, stride=2), lambda: nn.Conv1d(16, 5, 1), nn.ReLU, lambda: nn.Conv1d(5, 2, 1)
    ),
    "flipped": Entry(lambda: Chain(nn.Conv2d(3, 4, 1), lambda h: h.flip(-1) + h.roll(1, 2), nn.Conv2d(4, 2, 1)), IMAGE),
}
