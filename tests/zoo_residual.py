"""Towers of repeated residual blocks, where another block can go."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from net_cases import block, noise
from zoo_attention import CUTS, Attention
from zoo_entry import Entry
from zoo_stream import HandRms

IMAGE, WORDS, ROW = noise(4, 3, 8, 8), noise(4, 5, 3), noise(4, 3)


class Basic(nn.Module):
    """ResNet's basic block; `last` is what comes behind the sum."""

    def __init__(self, last: Callable[[torch.Tensor], torch.Tensor] = F.relu):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1, self.bn2, self._last = nn.BatchNorm2d(4), nn.BatchNorm2d(4), last

    def forward(self, x):
        return self._last(x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())))


class PreActivation(nn.Module):
    """ResNet v2: norm and activation before each convolution."""

    def __init__(self):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())


class Bottleneck(nn.Module):
    """Narrow in the middle, with a grouped convolution and squeeze and excite."""

    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = block(4, 6), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(6, 4, 1)
        self.norm, self.squeeze, self.excite = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        y = self.norm(self.up(self.mid(self.down(x)).relu()))
        return (x + y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()).relu()


class ConvNext(nn.Module):
    """A depthwise convolution, a norm over channels, an MLP and a layer scale."""

    def __init__(self):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.up, self.down, self.scale = nn.Linear(4, 6), nn.Linear(6, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Transformer(nn.Module):
    """Attention and an MLP, norms first."""

    def __init__(self, norm):
        super().__init__()
        self.norm1, self.norm2, self.attention = norm(5), norm(5), Attention(CUTS["stored sizes"])
        self.up, self.gate, self.down = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Parallel(nn.Module):
    """GPT-J and PaLM: attention and MLP side by side."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(5), Attention(CUTS["stored sizes"])
        self.mlp = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5))

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y) + self.mlp(y)


class PostNorm(nn.Module):
    """BERT: a norm on the shortcut, so that no block is the identity."""

    def __init__(self):
        super().__init__()
        self.mlp, self.norm = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5)), nn.LayerNorm(5)

    def forward(self, x):
        return self.norm(x + self.mlp(x))


class ReZero(nn.Module):
    """A branch times one number that is learned."""

    def __init__(self):
        super().__init__()
        self.mlp, self.alpha = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.alpha * self.mlp(x)


class Tuple(nn.Module):
    """A block that takes and gives a tuple, as older transformers had it."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, state):
        x, count = state
        return x + self.mlp(x), count + 1


class Tower(nn.Module):
    """A stem, blocks in a list or a chain, a head over the mean."""

    def __init__(self, make, stem=None, chain=True, call=lambda blocks, x: blocks(x)):
        super().__init__()
        self.stem, self._call = stem or nn.Linear(3, 5), call
        self.blocks = (nn.Sequential if chain else lambda *blocks: nn.ModuleList(blocks))(make(), make())
        self.head = nn.Linear(4 if isinstance(self.stem, nn.Conv2d) else 5, 2)

    def forward(self, x):
        x = self._call(self.blocks, self.stem(x))
        return self.head(x.flatten(2).mean(2) if isinstance(self.stem, nn.Conv2d) else x)


class Staged(nn.Module):
    """Two stages of blocks with a layer between them that changes the width."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.stages = nn.ModuleList(
            [nn.Sequential(Basic(), Basic()), nn.Sequential(block(4, 4), Basic(F.gelu), Basic())]
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
        return self.head(x.mean((2, 3)))


def in_turn(blocks, x):
    for one in blocks:
        x = one(x)
    return x


def by_number(blocks, x):
    for i in range(len(blocks)):
        x = blocks[i](x)
    return x


def with_count(blocks, x):
    return blocks((x, 0))[0]


def image(make, **options):
    return Entry(lambda: Tower(make, nn.Conv2d(3, 4, 3), **options), IMAGE)


def words(make, **options):
    return Entry(lambda: Tower(make, **options), WORDS)


RESIDUAL: dict[str, Entry] = {
    "basic blocks": image(Basic),
    "basic blocks, no last activation": image(lambda: Basic(lambda x: x)),
    "basic blocks in stages": Entry(Staged, IMAGE),
    "pre-activation blocks": image(PreActivation, chain=False, call=in_turn),
    "bottleneck blocks": image(Bottleneck),
    "convnext blocks": image(ConvNext),
    "transformer blocks": words(lambda: Transformer(nn.LayerNorm), chain=False, call=in_turn),
    "transformer blocks, rms norm": words(lambda: Transformer(nn.RMSNorm), chain=False, call=by_number),
    "transformer blocks, rms norm by hand": words(lambda: Transformer(HandRms)),
    "parallel blocks": words(Parallel),
    "post-norm blocks": words(PostNorm),
    "rezero blocks": words(ReZero),
    "blocks on tuples": words(Tuple, call=with_count),
}
