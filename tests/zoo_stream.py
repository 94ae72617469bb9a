"""Norms over a residual stream, recurrent layers, and modules with outputs, inputs and control flow of every kind."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from net_cases import ROW, Chain, noise, tokens
from zoo_entry import Entry

WORDS = noise(4, 5, 3)  # [examples, positions, features]


class PreNorm(nn.Module):
    """Two MLP blocks on a stream, each behind a norm, and a last norm."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.head, self.last = nn.Linear(3, 5), nn.Linear(5, 2), norm(5)
        self.norms = nn.ModuleList(norm(5) for _ in "12")
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5)) for _ in "12")

    def forward(self, x):
        x = self.stem(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(self.last(x)).mean(1)


class PostNorm(PreNorm):
    """The norm behind the sum, as in the first transformers."""

    def forward(self, x):
        x = self.stem(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = norm(x + block(x))
        return self.head(x).mean(1)


class HandRms(nn.Module):
    """RMSNorm as Llama has it."""

    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class ByNorm(HandRms):
    """RMSNorm by the Euclidean norm, with the width that it was made for."""

    def forward(self, x):
        return x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + self.eps) * self.weight


class UnitLength(nn.Module):
    """L2 normalisation: more channels that are zero change nothing."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.scale


class HandLayer(nn.Module):
    """LayerNorm written out."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() * self.weight + self.bias


class GlobalResponse(nn.Module):
    """ConvNeXt v2: each channel's norm over positions, against the mean of all."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        size = x.norm(dim=1, keepdim=True)
        return x + self.weight * x * size / (size.mean(-1, keepdim=True) + 1e-6)


class NormedInside(nn.Module):
    """A norm over the hidden units of an MLP."""

    def __init__(self, norm):
        super().__init__()
        self.up, self.norm, self.down, self.head = nn.Linear(3, 6), norm(6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.down(self.norm(self.up(x)).relu()).relu())


class SpectralBatch(nn.Module):
    """BatchNorm over [examples, channels, positions] of a stream that is [examples, positions, channels]."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.up, self.down = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.down(self.up(y).relu())).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer between an embedding and a hidden layer."""

    def __init__(self, layer, width, last=lambda y: y[0][:, -1]):
        super().__init__()
        self.embed, self.layer, self._last = nn.Embedding(10, 4), layer, last
        self.hidden, self.head = nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.hidden(self._last(self.layer(self.embed(x)))).relu())


class Cell(nn.Module):
    """A GRU cell in a loop over positions."""

    def __init__(self, cell):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(3, 4), cell(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        state = None
        for step in self.stem(x).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Minimal(nn.Module):
    """A gated recurrence written out: the state's axis meets itself."""

    def __init__(self):
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.start, self.decay = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        state = self.start.expand(len(x), -1)
        for step in x.unbind(1):
            keep = self.gate(step).sigmoid() * self.decay.sigmoid()
            state = keep * state + (1 - keep) * self.value(step)
        return self.head(state.tanh())


class Body(nn.Module):
    """A stem, a hidden layer and a head, whose forward each class below says."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)


class BySign(Body):
    """Control flow that the data decides."""

    def forward(self, x):
        h = self.a(x)
        h = h.relu() if x.sum() > 0 else h.tanh()
        return self.c(self.b(h).relu())


class Counted(Body):
    """A loop whose length is a value."""

    def forward(self, x, count):
        h = self.a(x)
        for _ in range(int(count.item())):
            h = h + h.sin()
        return self.c(self.b(h).relu())


class Early(Body):
    """A value leaves early where it is large enough."""

    def forward(self, x):
        h = self.a(x).relu()
        if h.abs().max().item() > 1e6:
            return self.c(self.b(h))
        return self.c(self.b(h).relu())


class Chosen(Body):
    """Only some rows go through a layer."""

    def forward(self, x):
        h = self.a(x).relu()
        rows = (x[:, 0] > 0).nonzero()[:, 0]
        return self.c(self.b(h).relu().index_add(0, rows, self.b(h[rows]).tanh()))


class ToDict(Body):
    def forward(self, x):
        h = self.a(x).relu()
        return {"logits": self.c(self.b(h).relu()), "size": h.shape[0], "none": None}


class ToTuple(Body):
    """A hidden value is an output too, so that its axis can't change."""

    def forward(self, x):
        h = self.a(x).relu()
        return self.c(self.b(h).relu()), [h, (h.sum(),)]


class Out(NamedTuple):
    logits: torch.Tensor
    pooled: torch.Tensor


class ToNamed(Body):
    def forward(self, x):
        y = self.c(self.b(self.a(x).relu()).relu())
        return Out(y, y.mean(-1))


@dataclass
class Record:
    logits: torch.Tensor
    probabilities: torch.Tensor


pytree.register_dataclass(Record)


class ToRecord(Body):
    def forward(self, x):
        y = self.c(self.b(self.a(x).relu()).relu())
        return Record(logits=y, probabilities=y.softmax(-1))


class Nested(nn.Module):
    """Nested tuples and a dict come in."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, pair, more):
        left, (right,) = pair
        return self.head((self.a(left) + self.b(right) + self.c(more["third"])).relu())


class Siamese(nn.Module):
    """Two inputs through one tower, compared by a product."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, left, right):
        left, right = self.tower(left), self.tower(right)
        return (left * right).sum(-1), F.cosine_similarity(left, right)


class Heads(nn.Module):
    """One trunk, several heads, one of which nothing reads."""

    def __init__(self):
        super().__init__()
        self.trunk, self.unused = nn.Linear(3, 5), nn.Linear(5, 3)
        self.heads = nn.ModuleDict(
            {"a": nn.Linear(5, 2), "b": nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))}
        )

    def forward(self, x):
        x = self.trunk(x).relu()
        return {name: head(x) for name, head in self.heads.items()}


class Lateral(nn.Module):
    """The stream of one branch is gathered, masked and repeated along positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.head = nn.Linear(3, 4), nn.Linear(8, 5), nn.Linear(5, 2)
        self.register_buffer("order", torch.tensor([2, 0, 1, 4, 3]))

    def forward(self, x):
        x = self.stem(x)
        y = x.index_select(1, self.order) + x[:, self.order]
        y = torch.where(x[..., :1] > 0, y, torch.zeros_like(y)).masked_fill(x[..., :1] > 1, 0.5)
        mean = x.mean(1, keepdim=True).repeat(1, 5, 1)
        return self.head(self.up(torch.cat([y, mean], -1)).relu().topk(2, 1)[0].sum(1))


class Variational(nn.Module):
    """A mean and a log variance from one layer, then a decoder."""

    def __init__(self):
        super().__init__()
        self.a, self.latent, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 8), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        mean, log_variance = self.latent(self.a(x).relu()).chunk(2, -1)
        return self.c(self.b(mean + (0.5 * log_variance).exp()).relu())


class Quantised(nn.Module):
    """Distances to a code book, which reads every channel twice."""

    def __init__(self):
        super().__init__()
        self.a, self.codes, self.b = nn.Linear(3, 4), nn.Parameter(torch.empty(6, 4)), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        near = (-torch.cdist(x, self.codes)).softmax(-1)
        return self.b(x + near @ self.codes)


def zero_first(h):
    """Write into a slice of positions."""
    h = h.clone()
    h[:, 0] = 0.0
    return h.relu()


def stream(norm, kind=PreNorm):
    return Entry(lambda: kind(norm), WORDS)


def recurrent(layer, width, **options):
    return Entry(lambda: Recurrent(layer(), width, **options), tokens())


STREAM: dict[str, Entry] = {
    "rms norm": stream(nn.RMSNorm),
    "rms norm by hand": stream(HandRms),
    "rms norm by length": stream(ByNorm),
    "rms norm, no gain": stream(lambda width: nn.RMSNorm(width, elementwise_affine=False)),
    "rms norm last": stream(nn.RMSNorm, PostNorm),
    "rms norm inside": Entry(lambda: NormedInside(nn.RMSNorm), ROW),
    "layer norm on a stream": stream(nn.LayerNorm),
    "layer norm by hand": stream(HandLayer),
    "layer norm last": stream(nn.LayerNorm, PostNorm),
    "layer norm inside": Entry(lambda: NormedInside(nn.LayerNorm), ROW),
    "unit length": stream(UnitLength),
    "global response": stream(GlobalResponse),
    "no norm": stream(lambda width: nn.Identity()),
    "batch norm of a stream": Entry(SpectralBatch, WORDS),
    "batch norm of rows": Entry(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(4, 2)), WORDS
    ),
    "lstm": recurrent(lambda: nn.LSTM(4, 5, batch_first=True), 5),
    "lstm, two layers both ways": recurrent(lambda: nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), 10),
    "lstm, projected": recurrent(lambda: nn.LSTM(4, 5, batch_first=True, proj_size=3), 3),
    "gru": recurrent(lambda: nn.GRU(4, 5, batch_first=True), 5),
    "gru, last state": recurrent(lambda: nn.GRU(4, 5, batch_first=True), 5, last=lambda y: y[1][-1]),
    "rnn": recurrent(lambda: nn.RNN(4, 5, batch_first=True), 5),
    "gru cell": Entry(lambda: Cell(nn.GRUCell), WORDS),
    "lstm cell": Entry(lambda: Cell(nn.LSTMCell), WORDS),
    "minimal recurrence": Entry(Minimal, WORDS),
    "control flow": Entry(BySign, ROW),
    "counted loop": Entry(Counted, (ROW, torch.tensor(2))),
    "early exit": Entry(Early, ROW),
    "chosen rows": Entry(Chosen, ROW),
    "to a dict": Entry(ToDict, ROW),
    "to a tuple": Entry(ToTuple, ROW),
    "to a named tuple": Entry(ToNamed, ROW),
    "to a dataclass": Entry(ToRecord, ROW),
    "nested inputs": Entry(Nested, ((ROW, (noise(4, 2),)), {"third": noise(4, 5)})),
    "siamese": Entry(Siamese, (ROW, noise(4, 3, 1)[..., 0] + 1)),
    "several heads": Entry(Heads, ROW),
    "positions": Entry(Lateral, WORDS),
    "variational": Entry(Variational, ROW),
    "code book": Entry(Quantised, ROW),
    "in place": Entry(
        lambda: Chain(nn.Linear(3, 4), lambda h: h.clone().mul_(2).add_(1).relu_(), nn.Linear(4, 2)), ROW
    ),
    "assigned slices": Entry(lambda: Chain(nn.Linear(3, 5), zero_first, nn.Linear(5, 2)), WORDS),
    "complex": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: torch.fft.rfft(h, dim=1).abs(), nn.Linear(5, 2)), WORDS),
    "sorted": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: h.sort(1)[0], nn.Linear(5, 2)), WORDS),
    "sorted channels": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: h.sort(-1)[0], nn.Linear(5, 2)), WORDS),
    "first channels": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: h[..., :3].relu(), nn.Linear(3, 2)), WORDS),
    "constant mask": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: h * torch.ones(5), nn.Linear(5, 2)), WORDS),
    "mean over channels beside": Entry(
        lambda: Chain(nn.Linear(3, 5), lambda h: h.relu() + h.sum(-1, keepdim=True), nn.Linear(5, 2)), WORDS
    ),
}
