"""Small networks that share, tie, concatenate, gate and freeze channels in every way that outgrow has to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from outgrow.models import Seed
from outgrow.net.axes import axes
from outgrow.net.axis import Axis

KNOWN_AXES: dict[int, list[Axis]] = {}


@dataclass(frozen=True)
class Case:
    """A network, one input, and the size of every axis that can grow."""

    build: Callable[[], nn.Module]
    example: Any
    growable: dict[str, int]
    dropout: bool = False  # so that only outgrow itself can compare in train mode

    def model(self) -> nn.Module:
        """Return the network as it might be after training: weights of every sign, statistics other than 0 and 1."""
        torch.default_generator.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.4)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
        return model


def axes_of(case: Case) -> list[Axis]:
    """The axes of a case's network, looked for once in a process: they name tensors, and hold none of them."""
    if id(case) not in KNOWN_AXES:
        KNOWN_AXES[id(case)] = axes(case.model(), case.example)
    return KNOWN_AXES[id(case)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def tokens() -> torch.Tensor:
    return torch.randint(0, 10, (4, 6), generator=torch.Generator().manual_seed(1))


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Chain(nn.Module):
    """Two layers with any function between them."""

    def __init__(self, first: nn.Module, between: Callable[[torch.Tensor], Any], last: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self._between = first, last, between

    def forward(self, x):
        return self.last(self._between(self.first(x)))


class Concat(nn.Module):
    """DenseNet: later layers read the concatenation of all before."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(6, 3, 1)
        self.norm = nn.BatchNorm2d(9)
        self.head = nn.Linear(9, 2)

    def forward(self, x):
        x = self.a(x)
        x = torch.cat([x, self.b(x.relu())], 1)
        x = torch.cat([self.c(x.relu()), x], 1)
        return self.head(self.norm(x).relu().mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(block(3, 4), nn.MaxPool2d(2), block(4, 5), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(20, 6), nn.ReLU(True), nn.Dropout(), nn.Linear(6, 3))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Shared(nn.Module):
    """One layer used twice, side by side and in a row."""

    def __init__(self):
        super().__init__()
        self.side, self.row, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(8, 2)

    def forward(self, x):
        a, b = self.side(x[:, 0]).relu(), self.side(x[:, 1]).relu()
        return self.head(torch.cat([self.row(a).relu(), self.row(self.row(b).relu())], 1))


class TiedLanguage(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(10, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.down(F.gelu(self.up(x))))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.c.weight = self.b.weight

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x).relu()).relu()).relu())


class Inverted(nn.Module):
    """Inverted residual: a depthwise convolution between two pointwise ones, on a stream."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 4, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.slope = nn.BatchNorm2d(6), nn.PReLU(6)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = self.slope(self.norm(self.depthwise(F.relu6(self.up(x)))))
        return self.head((x + self.down(y)).mean((2, 3)))


class Excite(nn.Module):
    """Squeeze and excite on a plain residual stream, then a gate of one channel."""

    def __init__(self):
        super().__init__()
        self.stem, self.plain = block(3, 4), nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.up, self.gate = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        x = x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        x = x + self.plain(x)
        return self.head((x * self.gate(x).sigmoid()).mean((2, 3)))


class Glu(nn.Module):
    def __init__(self):
        super().__init__()
        self.chunked, self.ready, self.head = nn.Linear(3, 8), nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x):
        a, b = self.chunked(x).chunk(2, -1)
        return self.head(F.glu(self.ready(a * b.sigmoid()), -1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.mid, self.up, self.out = block(3, 2), block(2, 4), block(4, 4), block(4, 3), block(5, 3)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        up = self.up(F.interpolate(self.mid(b) + b, scale_factor=2))
        return self.last(self.out(torch.cat([up, F.pad(a, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]], 1)))


class ConvNeXt(nn.Module):
    """A LayerNorm on the stream, a bare parameter as layer scale."""

    def __init__(self, norm: bool):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4) if norm else nn.Identity()
        self.up, self.down, self.head = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


class Sequence(nn.Module):
    """A 1-D convolution net."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(2, 4, 5, padding=2), nn.BatchNorm1d(4, affine=False), nn.Conv1d(4, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(F.gelu(self.b(F.max_pool1d(self.norm(self.a(x)).relu(), 2))).amax(-1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(10, 4), nn.LSTM(4, 5, batch_first=True)
        self.hidden, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.hidden(self.lstm(self.embed(x))[0][:, -1]).relu())


class Bag(nn.Module):
    """An embedding with a padding token and learned positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Embedding(10, 4, padding_idx=0), nn.Embedding(6, 4)
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = self.embed(x) + self.position(torch.arange(x.shape[1], device=x.device))
        return self.head(self.hidden(x.mean(1)).relu())


class Encoder(nn.Module):
    def __init__(self, norm_first: bool):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=norm_first)

    def forward(self, x):
        return self.head(self.layer(self.stem(x)).mean(1))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 3, 3, 2, 1)
        self.c, self.d = nn.ConvTranspose2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())


class Multiplied(nn.Module):
    """A depthwise convolution with two filters a channel."""

    def __init__(self):
        super().__init__()
        self.a, self.many = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.b, self.c = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.c(self.b(self.many(self.a(x).relu()).relu()).relu()).mean((2, 3))


class Bare(nn.Module):
    """Weights in a ParameterList, and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(a, b)) for a, b in [(4, 3), (5, 4), (2, 5)])
        self.unused = nn.Linear(31, 31)

    def forward(self, x):
        for i, weight in enumerate(self.weights):
            x = F.linear(x if i == 0 else x.relu(), weight)
        return x


class Functional(nn.Module):
    """Dropout as a function; called with keyword arguments."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, left, right):
        x = self.norm(self.a(left)) + self.b(right)
        return {"logits": F.log_softmax(self.head(F.dropout(x.relu(), 0.5, self.training)), 1)}


class Powers(nn.Module):
    """Operands that are not the first one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        a, b = self.a(x).sigmoid(), self.b(x).sigmoid()
        return self.c(a**b) + self.d(2**a)


class Halves(nn.Module):
    """One half of the channels goes through a layer, the other does not (ShuffleNet, CSP)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(7, 2, 1)

    def forward(self, x):
        left, right = self.a(x).relu().chunk(2, 1)
        return self.c(torch.cat([self.b(left).relu(), right], 1)).mean((2, 3))


class Vision(nn.Module):
    """Patches, a class token and learned positions, all parameters of one stream."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 2)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 5, 4))
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head((x + self.down(F.gelu(self.up(x))))[:, 0])


IMAGE, ROW = noise(4, 3, 8, 8), noise(4, 3)

CASES: dict[str, Case] = {
    "mlp": Case(
        Seed("mlp", (3, 2, 2), 3, widths=(4, 5)).build, noise(4, 3, 2, 2), {"mlp.hidden.0": 4, "mlp.hidden.1": 5}
    ),
    "convnet": Case(
        Seed("convnet", (3, 8, 8), 3, widths=(2, 3, 4, 3)).build,
        IMAGE,
        {f"convnet.blocks.{i}.conv": size for i, size in enumerate((2, 3, 4, 3))},
    ),
    "resnet": Case(
        Seed("resnet", (3, 8, 8), 3, widths=(2, 4)).build,
        IMAGE,
        {
            "resnet.stem.0": 2,
            "resnet.stages.0.0.conv1": 2,
            "resnet.stages.1.0.conv1": 4,
            "resnet.stages.1.0.shortcut.0": 4,
        },
    ),
    "concat": Case(Concat, IMAGE, {"a": 4, "b": 2, "c": 3}),
    "vgg": Case(Vgg, IMAGE, {"features.0.0": 4, "features.2.0": 5, "classifier.0": 6}, dropout=True),
    "shared": Case(Shared, noise(4, 2, 3), {"side": 4}),
    "tied": Case(Tied, ROW, {"a": 4}),
    "tied language": Case(TiedLanguage, tokens(), {"embed": 4, "up": 6}),
    "inverted": Case(Inverted, IMAGE, {"stem": 4, "up": 6}),
    "excite": Case(Excite, IMAGE, {"stem.0": 4, "down": 2}),
    "glu": Case(Glu, ROW, {"chunked": 4, "ready": 3}),
    "u-net": Case(UNet, IMAGE, {"a.0": 2, "b.0": 4, "up.0": 3, "out.0": 3}),
    "layer scale": Case(lambda: ConvNeXt(False), IMAGE, {"stem": 4, "up": 5}),
    "layer norm": Case(lambda: ConvNeXt(True), IMAGE, {"up": 5}),
    "sequence": Case(Sequence, noise(4, 2, 12), {"a": 4, "b": 3}),
    "recurrent": Case(Recurrent, tokens(), {"embed": 4, "lstm": 5, "hidden": 6}),
    "bag": Case(Bag, tokens(), {"embed": 4, "hidden": 5}),
    "encoder": Case(lambda: Encoder(True), noise(4, 5, 3), {"layer.linear1": 6}, dropout=True),
    "encoder, norm last": Case(lambda: Encoder(False), noise(4, 5, 3), {"layer.linear1": 6}, dropout=True),
    "autoencoder": Case(Autoencoder, noise(4, 1, 8, 8), {"a": 4, "b": 3, "c": 4}),
    "multiplied": Case(Multiplied, IMAGE, {"a": 4, "b": 3}),
    "bare": Case(Bare, ROW, {"weights": 4, "weights:2": 5}),
    "keywords": Case(Functional, {"left": ROW, "right": noise(4, 2)}, {"a": 4}, dropout=True),
    "tuple": Case(Functional, (ROW, noise(4, 2)), {"a": 4}, dropout=True),
    "halves": Case(Halves, IMAGE, {"a": 4, "b": 3}),
    "vision": Case(Vision, IMAGE, {"patches": 4, "up": 6}),
    "powers": Case(Powers, ROW, {"a": 4}),
    "single": Case(
        lambda: Chain(nn.Sequential(nn.Linear(3, 1), nn.PReLU(), nn.Linear(1, 1)), torch.tanh, nn.Linear(1, 2)),
        ROW,
        {"first.0": 1, "first.2": 1},
    ),
    "double": Case(
        lambda: Vgg().double(), IMAGE.double(), {"features.0.0": 4, "features.2.0": 5, "classifier.0": 6}, True
    ),
}
