"""Small networks with the places where a block can go in, behind blocks and behind activations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import noise
from outgrow.models import Seed
from outgrow.models.rational import Rational
from outgrow.net.inputs import call


@dataclass(frozen=True)
class Case:
    """A network, one input and the places that it has.

    Args:
        build: Makes the network.
        example: One input.
        residual: For each place behind a block, what is zero in the copy.
        chain: For each place behind an activation, what comes in.
        none: For each container without a place, part of the reason.
        random: Whether train mode draws random numbers, so that only outgrow itself can compare in it.
        still: Parts of the names of parameters that have no gradient in any network of this kind.
    """

    build: Callable[[], nn.Module]
    example: Any
    residual: dict[str, str] = field(default_factory=dict)
    chain: dict[str, str] = field(default_factory=dict)
    none: dict[str, str] = field(default_factory=dict)
    random: bool = False
    still: tuple[str, ...] = ()

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return the network as it might be after training: weights of every sign, statistics other than 0 and 1."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
        return model.to(dtype)

    def inputs(self, dtype: torch.dtype = torch.float32) -> Any:
        return pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, self.example)


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """As in torchvision, with squeeze and excitation."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(x + y)


class Images(nn.Module):
    """A stem, containers by name, and a head."""

    def __init__(self, channels: int, out: int, **containers: nn.Module):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(out, 2)
        self.path = [*containers]
        for name, container in containers.items():
            self.add_module(name, container)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for name in self.path:
            container = self.get_submodule(name)
            for block in [container] if isinstance(container, nn.Sequential) else container:
                x = block(x)
        return self.head(x.mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Layer scale is the first parameter by name and the last in use."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.act, self.down = nn.Linear(channels, 6), nn.GELU(), nn.Linear(6, channels)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(self.act(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Custom(nn.Module):
    """Activations that are attributes, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.act, self.often = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.c(self.often(self.b(self.often(self.act(self.a(x))))))


class Counted(nn.Module):
    """Blocks behind a stored count, with a number each, and called with more than the stream."""

    def __init__(self, blocks: int = 3):
        super().__init__()
        self.width, self.how_many = 3, blocks  # on purpose the same number
        self.blocks = nn.ModuleList(Numbered(i) for i in range(blocks))

    def forward(self, x):
        seen = []
        for i in range(self.how_many):
            x, number = self.blocks[i](x, scale=2.0, mask=torch.ones_like(x) > 0)
            seen.append(number)
        assert seen == [*range(len(seen))]
        return {"out": x * self.width}


class Numbered(nn.Module):
    def __init__(self, index: int):
        super().__init__()
        self.index, self.inner = index, nn.Linear(3, 3)

    def forward(self, x, scale, mask):
        return x + scale * torch.tanh(self.inner(x)) * 0.1 * self.inner.weight[0] * mask, self.index


class Swish(nn.Module):
    """An activation of somebody's own, with a number that is learned."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


def perceptron(act: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), act(), nn.Linear(4, 5), nn.Dropout(0.0), act(), nn.Linear(5, 2))


def conv_chain() -> nn.Sequential:
    first = nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(True)
    second = nn.Conv2d(4, 5, (2, 3)), nn.MaxPool2d(2), nn.ReLU6()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(45, 6), nn.SiLU(), nn.Linear(6, 2))


def conv_norm_chain() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3, padding=1, bias=False))
    net.add_module("norm", nn.BatchNorm2d(4, momentum=0.2))
    net.add_module("relu", nn.ReLU(True))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    return net


def encoder(norm_first: bool, dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout, batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(6, 2))


ROW, IMAGE, WORDS = noise(5, 3), noise(4, 3, 8, 8), noise(3, 4, 6)
PLAIN = "no shortcut leads around them"
ATTENTION = "self_attn.out_proj.weight, self_attn.out_proj.bias, linear2.weight, linear2.bias"

CASES = {
    "seed": Case(
        lambda: Seed("resnet", (3, 8, 8), 2, (4, 6)).build(),
        torch.zeros(4, 3, 8, 8),
        {"resnet.stages.0.0": "norm2.weight, norm2.bias"},
        {"resnet.stem.2": "x + BatchNorm(Conv2d(4, 4, 3x3)) at zero gain and ReLU"},
    ),
    "basic": Case(
        lambda: Images(
            4,
            7,
            layer1=nn.Sequential(Basic(4, 4), Basic(4, 4)),
            layer2=nn.Sequential(Basic(4, 6, 2)),
            layer3=nn.Sequential(Basic(6, 7, 2), Basic(7, 7)),
        ),
        IMAGE,
        dict.fromkeys(("layer1.0", "layer1.1", "layer3.1"), "bn2.weight, bn2.bias"),
    ),
    "bottleneck": Case(
        lambda: Images(6, 6, blocks=nn.ModuleList([Bottleneck(6, 4)])), IMAGE, {"blocks.0": "bn3.weight, bn3.bias"}
    ),
    "convnext": Case(
        lambda: Images(4, 4, stages=nn.Sequential(ConvNeXtBlock(4), ConvNeXtBlock(4))),
        IMAGE,
        {"stages.0": "gamma", "stages.1": "gamma"},
        {f"stages.{i}.act": "Linear(6, 6) at the identity and Rational" for i in (0, 1)},
    ),
    "pre-norm": Case(lambda: encoder(True), WORDS, {f"0.layers.{i}": ATTENTION for i in (0, 1)}),
    "post-norm": Case(lambda: encoder(False), WORDS, none={"0.layers": r"leads through norm2 \(LayerNorm"}),
    "counted": Case(Counted, ROW, {f"blocks.{i}": "inner.weight" for i in range(3)}),
    "plain blocks": Case(lambda: Seed("convnet", (3, 8, 8), 2, (4, 4)).build(), IMAGE, none={"convnet.blocks": PLAIN}),
    "mlp": Case(
        lambda: perceptron(nn.ReLU),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and ReLU", "4": "Linear(5, 5) at the identity and ReLU"},
    ),
    "gelu": Case(
        lambda: perceptron(nn.GELU),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational", "4": "Linear(5, 5) at the identity and Rational"},
    ),
    "prelu": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational"},
    ),
    "rational": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), Rational(0.9, 0.1, 0.2), nn.Linear(4, 2)),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational"},
    ),
    "learned": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), Swish(), nn.Linear(4, 2)),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational"},
    ),
    "convolutions": Case(
        conv_chain,
        IMAGE,
        chain={
            "1": "Conv2d(4, 4, 5x5) at the identity and ReLU",
            "4": "Conv2d(5, 5, 1x3) at the identity and ReLU6",
            "7": "Linear(6, 6) at the identity and Rational",
        },
    ),
    "norms": Case(
        conv_norm_chain,
        IMAGE,
        chain={
            "relu": "x + BatchNorm(Conv2d(4, 4, 3x3)) at zero gain and ReLU",
            "fc.1": "x + BatchNorm(Linear(5, 5)) at zero gain and Rational",
        },
    ),
    "custom": Case(Custom, ROW, chain={"act": "Linear(4, 4) at the identity and ReLU"}),
}


def step(model: nn.Module, inputs: Any, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        leaves = pytree.tree_leaves(call(model, inputs))
        sum((leaf * noise(*leaf.shape).to(leaf)).sum() for leaf in leaves if isinstance(leaf, Tensor)).backward()
        optimizer.step()
