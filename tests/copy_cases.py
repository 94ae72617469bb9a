"""Networks on which units are copied, with the axes that can have copies; shared by the tests of copies."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import CASES, IMAGE, ROW, Case, Chain, noise
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.inits import Init, divided, twins
from outgrow.net.inputs import Example
from outgrow.net.preserve import change, outputs
from outgrow.net.widening import undivided


class Grouped(nn.Module):
    """Whole groups of a convolution and of a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.grouped, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.GroupNorm(4, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(F.gelu(self.norm(self.grouped(F.silu(self.a(x))))).mean((2, 3)))


class Heads(nn.Module):
    """Two heads of attention beside each other, on a stream."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(4, 18), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = (h.view(*x.shape[:2], -1, 3).transpose(1, 2) for h in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(y)).mean(1))


class Rms(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)))


class Pair(nn.Module):
    """Reads one axis along two dimensions of one weight."""

    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(4, 4, 2)

    def forward(self, pair):
        return self.both(*pair)


MORE = {
    "grouped": Case(Grouped, IMAGE, {"a": 4}),
    "heads": Case(Heads, noise(4, 5, 4), {"qkv": 2}),
    "bilinear": Case(lambda: Chain(nn.Linear(3, 4), lambda h: (h.tanh(), h), Pair()), ROW, {"first": 4}),
}
KNOWN = CASES | MORE
every_case = pytest.mark.parametrize("name", KNOWN)
some_cases = pytest.mark.parametrize("name", ["mlp", "resnet", "concat", "vgg", "recurrent", "grouped", "heads"])
every_way = pytest.mark.parametrize("way", [divided, twins], ids=["net2net", "twins"])
KEPT = 1e-10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def found_in(name: str) -> tuple[nn.Module, Example, list[Axis]]:
    """A network and its example in double precision, and its axes; not to be changed."""

    def double(leaf):
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    case = KNOWN[name]
    model, inputs = case.model().double(), pytree.tree_map(double, case.example)
    return model, inputs, axes(model, inputs)


def moved(before: nn.Module, after: nn.Module, inputs: Example) -> float:
    return max(change(outputs(before, inputs, mode), outputs(after, inputs, mode)) for mode in (True, False))


def able(found: list[Axis], way: Init) -> list[Axis]:
    """Axes that can have such units: no weight multiplies twins with each other."""
    able = [axis for axis in found if axis.growable and not undivided(axis)]
    return [axis for axis in able if way is divided or len({m.tensor for m in axis.consumers}) == len(axis.consumers)]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@cache
def axes_of_mlp() -> list[Axis]:
    return axes(mlp(), ROW.double())
