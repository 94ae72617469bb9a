"""Attention: how heads are cut and merged, grouped queries, masks, positions, and torch's own layers."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from net_cases import noise, tokens
from zoo_entry import Entry

WORDS, IMAGE = noise(4, 5, 3), noise(4, 3, 8, 8)  # [examples, positions, features], [examples, channels, rows, columns]


class Stream(nn.Module):
    """A stem, one block on a residual stream, a head."""

    def __init__(self, block, width=5):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(3, width), block, nn.Linear(width, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.block(x)).mean(1))


def computed(q, k, v):
    """Attention written out, [examples, heads, positions, head size]."""
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


# how queries are cut into heads [examples, positions, channels] -> [examples, positions, heads, head size]
CUTS = {
    "stored sizes": lambda m, x: x.view(x.shape[0], x.shape[1], m.heads, m.head_dim),
    "stored head size": lambda m, x: x.view(x.shape[0], x.shape[1], -1, m.head_dim),
    "stored heads": lambda m, x: x.view(x.shape[0], x.shape[1], m.heads, -1),
    "hidden shape": lambda m, x: x.view((*x.shape[:-1], -1, m.head_dim)),
    "channels divided": lambda m, x: x.reshape(x.shape[0], x.shape[1], m.heads, x.shape[-1] // m.heads),
    "constants": lambda m, x: x.reshape(-1, 5, 2, 3),
    "unflatten": lambda m, x: x.unflatten(-1, (m.heads, -1)),
    "unflatten, stored sizes": lambda m, x: x.unflatten(-1, (m.heads, m.head_dim)),
    "sizes of q": lambda m, x: x.view(*x.size()[:-1], m.heads, m.q.out_features // m.heads),
    "split and stack": lambda m, x: torch.stack(x.split(m.head_dim, -1), 2),
    "head size last": lambda m, x: x.view(x.shape[0], x.shape[1], m.head_dim, m.heads).transpose(2, 3),
}


class Attention(nn.Module):
    """Self-attention with three projections."""

    def __init__(self, cut, attend=computed, merged=None, width=5, heads=2, head_dim=3):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q, self.k, self.v = (nn.Linear(width, heads * head_dim) for _ in "qkv")
        self.out = nn.Linear(heads * head_dim, width)
        self._cut, self._attend, self._merged = cut, attend, merged or (lambda m, x: x.flatten(2))

    def forward(self, x):
        q, k, v = (self._cut(self, layer(x)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(self._merged(self, self._attend(q, k, v).transpose(1, 2)))


class Fused(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, cut, heads=2, head_dim=3, width=5):
        super().__init__()
        self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim
        self.qkv, self.out, self._cut = nn.Linear(width, 3 * self.inner), nn.Linear(self.inner, width), cut

    def forward(self, x):
        q, k, v = self._cut(self, self.qkv(x))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def heads_of(m, parts):
    return [part.view(*part.shape[:2], m.heads, -1).transpose(1, 2) for part in parts]


FUSED = {
    "timm": lambda m, x: x.reshape(*x.shape[:2], 3, m.heads, m.head_dim).permute(2, 0, 3, 1, 4).unbind(0),
    "chunk": lambda m, x: heads_of(m, x.chunk(3, -1)),
    "stored split": lambda m, x: heads_of(m, x.split(m.inner, -1)),
    "stored slices": lambda m, x: heads_of(
        m, (x[..., : m.inner], x[..., m.inner : 2 * m.inner], x[..., 2 * m.inner :])
    ),
    "heads first": lambda m, x: x.view(*x.shape[:2], m.heads, 3 * m.head_dim).transpose(1, 2).chunk(3, -1),
}


def repeat_kv(x, n):
    b, kv, t, d = x.shape
    return x[:, :, None].expand(b, kv, n, t, d).reshape(b, kv * n, t, d)


# how keys and values of fewer heads meet the queries
GROUPED = {
    "interleave": lambda q, k, v, n: computed(q, k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)),
    "expand": lambda q, k, v, n: computed(q, repeat_kv(k, n), repeat_kv(v, n)),
    "enable_gqa": lambda q, k, v, n: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    "groups as a dimension": lambda q, k, v, n: computed(
        q.unflatten(1, (-1, n)), k.unsqueeze(2), v.unsqueeze(2)
    ).flatten(1, 2),
}


class GroupedQuery(nn.Module):
    """Four query heads in two groups; the number of queries a key is stored or computed."""

    def __init__(self, attend, stored=True, rotary=False, kv=2, heads=4):
        super().__init__()
        self.heads, self.kv, self.head_dim, self.groups = heads, kv, 2, heads // kv
        self.q, self.k, self.v = nn.Linear(5, heads * 2, bias=False), nn.Linear(5, kv * 2), nn.Linear(5, kv * 2)
        self.o, self._attend, self._stored, self._rotary = nn.Linear(heads * 2, 5), attend, stored, rotary

    def forward(self, x):
        q, k, v = (y.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        if self._rotary:
            q, k = rotated(q), rotated(k)
        n = self.groups if self._stored else q.shape[1] // k.shape[1]
        return self.o(self._attend(q, k, v, n).transpose(1, 2).reshape(*x.shape[:2], -1))


def rotated(x):
    """Rotary positions on [examples, heads, positions, head size]."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(half, dtype=x.dtype)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Masked(nn.Module):
    """Causal attention: a mask in a buffer, cut to the length, and a dropout that is off."""

    def __init__(self, kind):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 5)
        self.register_buffer("mask", torch.ones(8, 8).tril().bool(), persistent=kind != "fill")
        self._kind = kind

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:2], -1, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mask = self.mask[: x.shape[1], : x.shape[1]]
        if self._kind == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif self._kind == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = (q @ k.mT).masked_fill(~mask, float("-inf")).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Torch(nn.Module):
    """`nn.MultiheadAttention`, on itself or across to a memory of other widths."""

    def __init__(self, weights=False, across=False, first=True, bias=True):
        super().__init__()
        wide = {"kdim": 4, "vdim": 5} if across else {}
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.keys, self.values = nn.Linear(3, 4), nn.Linear(3, 5)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=first, bias=bias, **wide)
        self._weights, self._across, self._first = weights, across, first

    def forward(self, x):
        x = self.stem(x)
        y = x if self._first else x.transpose(0, 1)
        memory = (y, y)
        y, _ = self.attention(y, *memory, need_weights=self._weights)
        return self.head((x + (y if self._first else y.transpose(0, 1))).mean(1))


class Across(Torch):
    """Cross attention with `kdim` and `vdim`."""

    def __init__(self, weights=False):
        super().__init__(weights, across=True)

    def forward(self, x, memory):
        x = self.stem(x)
        y, _ = self.attention(x, self.keys(memory), self.values(memory), need_weights=self._weights)
        return self.head((x + y).mean(1))


class Learned(nn.Module):
    """Perceiver: a bare parameter asks."""

    def __init__(self):
        super().__init__()
        self.stem, self.queries = nn.Linear(3, 5), nn.Parameter(torch.empty(2, 6))
        self.k, self.v, self.head = nn.Linear(5, 6), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        weights = (self.queries @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.head((weights @ self.v(x)).relu().mean(1))


class Decoder(nn.Module):
    """`nn.TransformerDecoderLayer`."""

    def __init__(self):
        super().__init__()
        self.stem, self.memory, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.layer = nn.TransformerDecoderLayer(4, 2, 6, batch_first=True)

    def forward(self, x, memory):
        return self.head(self.layer(self.stem(x), self.memory(memory)).mean(1))


class Stack(nn.Module):
    """`nn.TransformerEncoder` of two layers over an embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


class ImageAttention(nn.Module):
    """Attention over the places of an image, with 1x1 convolutions (CBAM, U-Nets of diffusion)."""

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.heads = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 2), 2
        self.qkv, self.out = nn.Conv2d(4, 18, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, self.heads, -1, h * w).unbind(1)
        y = torch.einsum("bhdq,bhdk->bhqk", q, k).softmax(-1)
        y = torch.einsum("bhqk,bhdk->bhdq", y, v).reshape(b, -1, h, w)
        return self.head((x + self.out(y)).mean((2, 3)))


class Pooled(nn.Module):
    """Attention pooling: one score a position."""

    def __init__(self):
        super().__init__()
        self.stem, self.hidden, self.score, self.head = (
            nn.Linear(3, 5),
            nn.Linear(5, 4),
            nn.Linear(4, 1),
            nn.Linear(5, 2),
        )

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x * self.score(self.hidden(x).tanh()).softmax(1)).sum(1))


class Linearised(nn.Module):
    """Linear attention: keys and values meet first."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out, self.heads = (
            nn.Linear(5, 6),
            nn.Linear(5, 6),
            nn.Linear(5, 8),
            nn.Linear(8, 5),
            2,
        )

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)))
        y = torch.einsum("bqhd,bhde->bqhe", q, torch.einsum("bkhd,bkhe->bhde", k, v))
        return self.out(y.flatten(2))


class ClassToken(nn.Module):
    """A small vision transformer: patches, class token, positions, RMSNorm, attention, GLU."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.empty(1, 1, 4))
        self.positions, self.head = nn.Parameter(torch.empty(1, 5, 4)), nn.Linear(4, 2)
        self.norm1, self.norm2 = nn.RMSNorm(4), nn.RMSNorm(4)
        self.attention = Attention(CUTS["hidden shape"], F.scaled_dot_product_attention, width=4)
        self.up, self.down = nn.Linear(4, 10), nn.Linear(5, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.attention(self.norm1(x))
        return self.head((x + self.down(F.glu(self.up(self.norm2(x)))))[:, 0])


def stream(block, example=WORDS):
    return Entry(lambda: Stream(block()), example)


def merging(how):
    return stream(lambda: Attention(CUTS["stored sizes"], merged=how))


ATTENTION: dict[str, Entry] = {
    **{f"attention, {name}": stream(lambda cut=cut: Attention(cut)) for name, cut in CUTS.items()},
    "attention, merged by stored sizes": merging(lambda m, x: x.reshape(*x.shape[:2], m.heads * m.head_dim)),
    "attention, merged by -1": merging(lambda m, x: x.reshape(*x.shape[:2], -1)),
    "attention, merged by constant": merging(lambda m, x: x.reshape(*x.shape[:2], 6)),
    "attention, merged by width of out": merging(lambda m, x: x.reshape(*x.shape[:2], m.out.in_features)),
    "attention, merged by view": merging(lambda m, x: x.contiguous().view(*x.size()[:-2], -1)),
    "attention, softmax in another type": stream(
        lambda: Attention(
            CUTS["stored sizes"],
            lambda q, k, v: ((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1).type_as(q) @ v,
        )
    ),
    "sdpa": stream(lambda: Attention(CUTS["stored sizes"], F.scaled_dot_product_attention)),
    "sdpa, stored head size": stream(lambda: Attention(CUTS["stored head size"], F.scaled_dot_product_attention)),
    "one head": stream(lambda: Attention(lambda m, x: x.unsqueeze(2), computed)),
    "many heads of size 1": stream(lambda: Attention(CUTS["stored sizes"], heads=6, head_dim=1)),
    **{f"fused, {name}": stream(lambda cut=cut: Fused(cut)) for name, cut in FUSED.items()},
    **{f"grouped, {name}": stream(lambda how=how: GroupedQuery(how)) for name, how in GROUPED.items()},
    "grouped, computed number": stream(lambda: GroupedQuery(GROUPED["expand"], stored=False)),
    "multi-query": stream(lambda: GroupedQuery(GROUPED["expand"], kv=1)),
    "rotary": stream(
        lambda: Attention(CUTS["stored sizes"], lambda q, k, v: computed(rotated(q), rotated(k), v), head_dim=4)
    ),
    "rotary, grouped": stream(lambda: GroupedQuery(GROUPED["expand"], rotary=True)),
    "mask, filled": stream(lambda: Masked("fill")),
    "mask, sdpa": stream(lambda: Masked("sdpa")),
    "mask, causal": stream(lambda: Masked("causal")),
    "multihead": Entry(Torch, WORDS),
    "multihead, weights": Entry(lambda: Torch(weights=True), WORDS),
    "multihead, sequence first": Entry(lambda: Torch(first=False), WORDS),
    "multihead, no bias": Entry(lambda: Torch(bias=False), WORDS),
    "multihead across": Entry(Across, (WORDS, noise(4, 7, 3))),
    "multihead across, weights": Entry(lambda: Across(True), (WORDS, noise(4, 7, 3))),
    "encoder stack": Entry(Stack, tokens()),
    "decoder layer": Entry(Decoder, (WORDS, noise(4, 7, 3)), dropout=True),
    "learned queries": Entry(Learned, WORDS),
    "image attention": Entry(ImageAttention, IMAGE),
    "pooled attention": Entry(Pooled, WORDS),
    "linear attention": stream(Linearised),
    "vision transformer": Entry(ClassToken, IMAGE),
}
