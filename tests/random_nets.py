"""Random small networks: a description drawn by hypothesis, and the module that it describes.

A network is a chain of blocks over rows [examples, channels], words [examples, positions, channels] or images
[examples, channels, rows, columns]. A block is a tuple of its name and its numbers, so that a failing example reads as
what it is, and can be pasted into a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from net_cases import noise
from zoo_entry import Entry

Block = tuple[Any, ...]
SHAPES = {"rows": (4, 3), "words": (4, 5, 3), "image": (4, 3, 4, 4)}
SIDE, WORDS = 4, 5


@dataclass(frozen=True)
class Net:
    """The description of a network.

    Args:
        kind: What it reads: rows, words or image.
        width: Channels of its stem.
        blocks: What comes behind it.
        flat: Whether positions are flattened before the head; else their mean is taken.
    """

    kind: str
    width: int
    blocks: tuple[Block, ...]
    flat: bool = False

    def entry(self, alive: bool = False) -> Entry:
        """Return the network as an entry of the zoo; where `alive`, no ReLU kills units by chance."""
        return Entry(lambda: leaky(Network(self)) if alive else Network(self), noise(*SHAPES[self.kind]))


def leaky(model: nn.Module) -> nn.Module:
    """Put a leaky ReLU in place of every ReLU."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU())
    return model


def mixing(kind: str, inputs: int, outputs: int, size: int = 1, **options: Any) -> nn.Module:
    """A linear map of channels: a linear layer, or a convolution that keeps the image's size."""
    if kind == "image":
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)
    return nn.Linear(inputs, outputs, **options)


def flat(x: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean over positions."""
    return x if kind == "rows" else x.mean(1) if kind == "words" else x.mean((2, 3))


class Network(nn.Module):
    """A stem, blocks, a head of two outputs."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.kind, self.flat = net.kind, net.flat
        self.stem = mixing(net.kind, 3, net.width)
        self.blocks, width = chain(net.kind, net.width, net.blocks)
        positions = {"rows": 1, "words": WORDS, "image": SIDE * SIDE}[net.kind] if net.flat else 1
        self.head = nn.Linear(width * positions, 2)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(x.flatten(1) if self.flat else flat(x, self.kind))


def chain(kind: str, width: int, blocks: Sequence[Block]) -> tuple[nn.Sequential, int]:
    """Return a chain of blocks, and the width behind it."""
    made = []
    for name, *numbers in blocks:
        block = BLOCKS[name](kind, width, *numbers)
        made.append(block)
        width = getattr(block, "width", width)
    return nn.Sequential(*made), width


class Layer(nn.Module):
    """A linear map, a norm and an activation."""

    def __init__(self, kind, width, out, norm, act, size):
        super().__init__()
        self.width = out
        self.map, self.norm, self.act = mixing(kind, width, out, size), NORMS[norm](kind, out), ACTIVATIONS[act]()
        self._swap = kind == "words" and norm in ("batch", "group", "group a channel")

    def forward(self, x):
        x = self.map(x)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self._swap else self.norm(x)
        return self.act(x)


def batch(kind, width):
    return nn.BatchNorm2d(width) if kind == "image" else nn.BatchNorm1d(width)


def group(kind, width):
    return nn.GroupNorm(2 if width % 2 == 0 else 1, width)


NORMS = {
    "none": lambda kind, width: nn.Identity(),
    "batch": batch,
    "group": group,
    "group a channel": lambda kind, width: nn.GroupNorm(width, width) if kind != "rows" else nn.Identity(),
    "layer": lambda kind, width: nn.GroupNorm(1, width) if kind == "image" else nn.LayerNorm(width),
    "rms": lambda kind, width: nn.Identity() if kind == "image" else nn.RMSNorm(width),
    "instance": lambda kind, width: nn.InstanceNorm2d(width, affine=True) if kind == "image" else nn.Identity(),
}
ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "prelu": nn.PReLU, "tanh": nn.Tanh}


class Residual(nn.Module):
    """X + a chain of x, with a layer scale or without."""

    def __init__(self, kind, width, blocks, scaled, norm):
        super().__init__()
        self.norm = Layer(kind, width, width, norm, "none", 1) if norm else nn.Identity()
        self.inner, inner = chain(kind, width, blocks)
        self.out = mixing(kind, inner, width)
        self.scale = nn.Parameter(torch.ones(width, *[1] * (2 * (kind == "image")))) if scaled else None

    def forward(self, x):
        y = self.out(self.inner(self.norm(x)))
        return x + (y if self.scale is None else self.scale * y)


class Concat(nn.Module):
    """A chain beside the identity or beside another chain, concatenated."""

    def __init__(self, kind, width, left, right):
        super().__init__()
        self.left, first = chain(kind, width, left)
        self.right, second = chain(kind, width, right)
        self.width, self.dim = first + second, 1 if kind == "image" else -1

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], self.dim)


class Halves(nn.Module):
    """One half of the channels goes through a map, the other passes."""

    def __init__(self, kind, width, half, shuffled):
        super().__init__()
        self.into, self.map = mixing(kind, width, 2 * half), mixing(kind, half, half)
        self.width, self.dim = 2 * half, 1 if kind == "image" else -1
        self.shuffle = nn.ChannelShuffle(2) if shuffled and kind == "image" else nn.Identity()

    def forward(self, x):
        left, right = self.into(x).chunk(2, self.dim)
        return self.shuffle(torch.cat([F.silu(self.map(left)), right], self.dim))


class Glu(nn.Module):
    """A gated unit, cut by chunk, by split or by slices of what is there."""

    def __init__(self, kind, width, hidden, cut):
        super().__init__()
        self.up, self.width, self.dim, self._cut = (
            mixing(kind, width, 2 * hidden),
            hidden,
            1 if kind == "image" else -1,
            cut,
        )

    def forward(self, x):
        x = self.up(x)
        if self._cut == "glu":
            return F.glu(x, self.dim)
        gate, value = x.chunk(2, self.dim) if self._cut == "chunk" else x.split(x.shape[self.dim] // 2, self.dim)
        return F.silu(gate) * value


class Attention(nn.Module):
    """Attention with grouped queries over words; over an image's places and rows a plain gate."""

    def __init__(self, kind, width, kv, per, size, style):
        super().__init__()
        self.heads, self.kv, self.size, self._style, self._kind = kv * per, kv, size, style, kind
        if kind != "words":
            self.gate = mixing(kind, width, width)
            return
        self.q, self.k, self.v = (
            nn.Linear(width, kv * per * size),
            nn.Linear(width, kv * size),
            nn.Linear(width, kv * size),
        )
        self.width, self.out = width, nn.Linear(kv * per * size, width)

    def forward(self, x):
        if self._kind != "words":
            return x * self.gate(x).sigmoid()
        b, t = x.shape[:2]
        if self._style == "head size":
            q, k, v = (y.view(b, t, -1, self.size).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        else:
            q = self.q(x).view(b, t, self.heads, -1).transpose(1, 2)
            k, v = (y.view(b, t, self.kv, -1).transpose(1, 2) for y in (self.k(x), self.v(x)))
        if self._style == "gqa":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (y.repeat_interleave(q.shape[1] // k.shape[1], 1) for y in (k, v))
            y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(b, t, -1))


class Grouped(nn.Module):
    """A grouped convolution; on words and rows two layers of the same width in a row."""

    def __init__(self, kind, width, groups, each, out):
        super().__init__()
        self.width = groups * out
        self.into = mixing(kind, width, groups * each)
        options = {"groups": groups} if kind == "image" else {}
        self.map = mixing(kind, groups * each, groups * out, 3, **options)

    def forward(self, x):
        return self.map(F.silu(self.into(x)))


class Depthwise(nn.Module):
    """A depthwise convolution with one filter a channel or several; a bare vector times each channel elsewhere."""

    def __init__(self, kind, width, multiplier):
        super().__init__()
        self.width = width * multiplier if kind == "image" else width
        self.map = nn.Conv2d(width, self.width, 3, padding=1, groups=width) if kind == "image" else None
        self.scale = None if kind == "image" else nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.scale if self.map is None else self.map(x)


class Shared(nn.Module):
    """One chain used twice in a row."""

    def __init__(self, kind, width, blocks):
        super().__init__()
        self.inner, inner = chain(kind, width, blocks)
        self.back = mixing(kind, inner, width)

    def forward(self, x):
        for _ in range(2):
            x = self.back(self.inner(x)).tanh()
        return x


class Excite(nn.Module):
    """Squeeze and excite."""

    def __init__(self, kind, width, hidden):
        super().__init__()
        self.down, self.up, self._kind = nn.Linear(width, hidden), nn.Linear(hidden, width), kind

    def forward(self, x):
        gate = self.up(F.silu(self.down(flat(x, self._kind)))).sigmoid()
        return x * gate.view(len(x), *[1] * (self._kind == "words"), -1, *[1] * (2 * (self._kind == "image")))


class Transposed(nn.Module):
    """A transposed convolution, or a weight [in, out] that is a bare parameter."""

    def __init__(self, kind, width, out):
        super().__init__()
        self.width, self.map = out, nn.ConvTranspose2d(width, out, 3, padding=1) if kind == "image" else None
        self.weight = None if kind == "image" else nn.Parameter(torch.empty(width, out))

    def forward(self, x):
        return x @ self.weight if self.map is None else self.map(x)


class Mixer(nn.Module):
    """An MLP over the positions of words, on a stream."""

    def __init__(self, kind, width, hidden):
        super().__init__()
        inner = WORDS if kind == "words" else width
        self.up, self.down, self._kind = mixing(kind, inner, hidden), mixing(kind, hidden, inner), kind

    def forward(self, x):
        if self._kind == "words":
            return x + self.down(F.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)
        return x + self.down(F.gelu(self.up(x)))


BLOCKS: dict[str, type[nn.Module]] = {
    "layer": Layer, "residual": Residual, "concat": Concat, "halves": Halves, "glu": Glu, "attention": Attention,
    "grouped": Grouped, "depthwise": Depthwise, "shared": Shared, "excite": Excite, "transposed": Transposed,
    "mixer": Mixer,
}  # fmt: skip

few, two, three = st.integers(1, 5), st.integers(1, 2), st.integers(1, 3)
layers = st.tuples(
    st.just("layer"), few, st.sampled_from(sorted(NORMS)), st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from([1, 3])
)
leaves = st.one_of(
    layers,
    st.tuples(st.just("halves"), three, st.booleans()),
    st.tuples(st.just("glu"), three, st.sampled_from(["chunk", "split", "glu"])),
    st.tuples(st.just("attention"), two, two, three, st.sampled_from(["head size", "heads", "gqa"])),
    st.tuples(st.just("grouped"), three, two, two),
    st.tuples(st.just("depthwise"), two),
    st.tuples(st.just("excite"), three),
    st.tuples(st.just("transposed"), few),
    st.tuples(st.just("mixer"), few),
)


def _around(inner: st.SearchStrategy[Block]) -> st.SearchStrategy[Block]:
    chains = st.lists(inner, max_size=2).map(tuple)
    return st.one_of(
        st.tuples(st.just("residual"), chains, st.booleans(), st.sampled_from(["", *sorted(NORMS)])),
        st.tuples(st.just("concat"), chains, chains),
        st.tuples(st.just("shared"), chains),
    )


blocks = st.recursive(leaves, _around, max_leaves=3)
nets = st.builds(
    Net, st.sampled_from(sorted(SHAPES)), st.integers(1, 4), st.lists(blocks, max_size=3).map(tuple), st.booleans()
)
