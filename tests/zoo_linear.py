"""Linear maps in every spelling, gates, tables and weights that are computed."""

import torch
import torch.nn.functional as F
from torch import nn

from net_cases import ROW, Chain, noise, tokens
from zoo_entry import Entry

WORDS = noise(4, 5, 3)  # [examples, positions, features]


class Conv1D(nn.Module):
    """GPT-2's layer: `addmm` with a weight [in, out]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.width = outputs
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        shape = (*x.shape[:-1], self.width)
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(shape)


class Dynamic1D(Conv1D):
    """The same, with the width taken from the weight."""

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.weight.shape[1])


class Written(nn.Module):
    """A layer with weight [out, in] and bias whose forward is a given expression."""

    def __init__(self, inputs, outputs, how):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        self._how = how

    def forward(self, x):
        return self._how(x, self.weight, self.bias)


class WrittenAcross(Written):
    """The same with a weight [in, out]."""

    def __init__(self, inputs, outputs, how):
        super().__init__(outputs, inputs, how)
        self.bias = nn.Parameter(torch.zeros(outputs))


def written(how, example=ROW, kind=Written):
    return Entry(
        lambda: nn.Sequential(kind(3, 5, how), nn.ReLU(), kind(5, 4, how), nn.ReLU(), kind(4, 2, how)), example
    )


class Like(nn.Module):
    """`view_as` and `reshape_as` of another value."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.head, self._how = nn.Linear(3, 6), nn.Conv1d(3, 6, 1), nn.Linear(6, 2), how

    def forward(self, x):
        a = self.a(x)
        return self.head((a + getattr(self.b(x[..., None]), self._how)(a)).relu())


class TwoWay(nn.Module):
    """`nn.Bilinear` of two branches."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.pair, self.head = nn.Linear(3, 4), nn.Linear(3, 5), nn.Bilinear(4, 5, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.pair(self.a(x).relu(), self.b(x).tanh()).relu())


class Film(nn.Module):
    """Scale and shift by the two chunks of what a condition says."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.condition = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(2, 8)
        self.out = nn.Conv2d(4, 3, 3)

    def forward(self, x, condition):
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        return self.out((self.norm(self.stem(x)) * (1 + scale) + shift).relu()).mean((2, 3))


class Highway(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 5), nn.Linear(5, 2)
        self.carry, self.change = (
            nn.ModuleList(nn.Linear(5, 5) for _ in "12"),
            nn.ModuleList(nn.Linear(5, 5) for _ in "12"),
        )

    def forward(self, x):
        x = self.stem(x)
        for carry, change in zip(self.carry, self.change, strict=True):
            gate = carry(x).sigmoid()
            x = gate * change(x).tanh() + (1 - gate) * x
        return self.head(x)


class Swiglu(nn.Module):
    """Both halves of a gated unit from one weight, cut in ways that a module may choose."""

    def __init__(self, cut):
        super().__init__()
        self.stem, self.w13, self.w2, self.head = (
            nn.Linear(3, 5),
            nn.Linear(5, 8, bias=False),
            nn.Linear(4, 5),
            nn.Linear(5, 2),
        )
        self.hidden, self._cut = 4, cut

    def forward(self, x):
        x = self.stem(x)
        gate, value = self._cut(self, self.w13(x))
        return self.head(x + self.w2(F.silu(gate) * value))


class Split(nn.Module):
    """`torch.split` with sizes that are stored on the module."""

    def __init__(self):
        super().__init__()
        self.sizes = (4, 3)
        self.a, self.b, self.c, self.head = nn.Linear(3, 7), nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        left, right = torch.split(self.a(x).relu(), self.sizes, dim=-1)
        return self.head((self.b(left) + self.c(right)).relu())


class SpatialGate(nn.Module):
    """gMLP: one chunk of the channels gates the other, mixed over positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.head = nn.Linear(3, 4), nn.Linear(4, 12), nn.Linear(6, 4), nn.Linear(4, 2)
        self.mix = nn.Conv1d(5, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        u, v = F.gelu(self.up(x)).chunk(2, dim=-1)
        return self.head((x + self.down(u * self.mix(v))).mean(1))


class Mixer(nn.Module):
    """Mixer-MLP: an MLP over the positions, then one over the channels."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.first, self.second = (nn.LayerNorm(4) if norm else nn.Identity() for _ in "12")
        self.token_up, self.token_down = nn.Linear(5, 7), nn.Linear(7, 5)
        self.channel_up, self.channel_down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.token_down(F.gelu(self.token_up(self.first(x).transpose(1, 2))))
        x = x + y.transpose(1, 2)
        return self.head((x + self.channel_down(F.gelu(self.channel_up(self.second(x))))).mean(1))


class TiedDecoder(nn.Module):
    """A decoder that is the embedding's weight, used as it is."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(10, 4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(self.up(x).relu())
        return x @ self.embed.weight.T


class Factored(nn.Module):
    """ALBERT: a small table and a projection, both used twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.project = nn.Embedding(10, 3), nn.Linear(3, 5, bias=False)
        self.up, self.down = nn.Linear(5, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = self.project(self.embed(x))
        x = x + self.down(self.up(x).relu())
        return F.linear(x @ self.project.weight, self.embed.weight)


class Repeated(nn.Module):
    """One block used three times, on a stream and inside it."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


class SumOfBags(nn.Module):
    """`nn.EmbeddingBag`."""

    def __init__(self, mode):
        super().__init__()
        self.bag, self.hidden, self.head = nn.EmbeddingBag(10, 4, mode=mode), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.hidden(self.bag(x)).relu())


class LowRank(nn.Module):
    """A frozen weight with a LoRA pair beside it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.down, self.up = nn.Parameter(torch.empty(2, 5)), nn.Parameter(torch.empty(4, 2))

    def forward(self, x):
        h = self.a(x).relu()
        return self.head((self.b(h) + h @ self.down.T @ self.up.T).relu())


class Experts(nn.Module):
    """A soft mixture of experts whose weights are stacked in one tensor."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.up, self.down = nn.Parameter(torch.empty(3, 4, 6)), nn.Parameter(torch.empty(3, 6, 4))

    def forward(self, x):
        x = self.stem(x)
        h = torch.einsum("bc,ech->beh", x, self.up).relu()
        y = torch.einsum("beh,ehc->bec", h, self.down)
        return self.head(x + (y * self.gate(x).softmax(-1)[..., None]).sum(1))


class Scaled(nn.Module):
    """Layer scale on two branches of a stream, one of them a parameter with leading ones."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.first, self.second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.first * self.b(F.gelu(self.a(x)))
        return self.head((x + self.second * self.d(F.gelu(self.c(x)))).mean(1))


def normed(wrap, linear=True):
    def build():
        if linear:
            return nn.Sequential(wrap(nn.Linear(3, 5)), nn.ReLU(), wrap(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 2))
        return nn.Sequential(
            wrap(nn.Conv1d(5, 4, 1)), nn.ReLU(), wrap(nn.Conv1d(4, 3, 1)), nn.ReLU(), nn.Conv1d(3, 2, 1)
        )

    return build


def old_weight_norm(module):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


LINEAR: dict[str, Entry] = {
    "conv1d of gpt-2": Entry(lambda: nn.Sequential(Conv1D(3, 6), nn.GELU(), Conv1D(6, 2)), WORDS),
    "conv1d, width from the weight": Entry(lambda: nn.Sequential(Dynamic1D(3, 6), nn.GELU(), Dynamic1D(6, 2)), WORDS),
    "addmm": written(lambda x, w, b: torch.addmm(b, x, w.T)),
    "addmm across": written(lambda x, w, b: torch.addmm(b, x, w), kind=WrittenAcross),
    "x @ w.T": written(lambda x, w, b: x @ w.T + b, WORDS),
    "x @ w": written(lambda x, w, b: x @ w + b, WORDS, WrittenAcross),
    "matmul": written(lambda x, w, b: torch.matmul(x, w.t()) + b),
    "w @ x": written(lambda x, w, b: (w @ x.T).T + b),
    "mm": written(lambda x, w, b: torch.mm(x, w.t()) + b),
    "baddbmm": written(lambda x, w, b: torch.baddbmm(b, x, w.T.expand(len(x), -1, -1)), WORDS),
    "bmm": written(lambda x, w, b: torch.bmm(x, w.expand(len(x), -1, -1)) + b, WORDS, WrittenAcross),
    "einsum": written(lambda x, w, b: torch.einsum("btc,dc->btd", x, w) + b, WORDS),
    "einsum across": written(lambda x, w, b: torch.einsum("...c,cd->...d", x, w) + b, WORDS, WrittenAcross),
    "tensordot": written(lambda x, w, b: torch.tensordot(x, w, dims=([-1], [1])) + b, WORDS),
    "sum of products": written(lambda x, w, b: (x[:, None, :] * w).sum(-1) + b),
    "scaled weight": written(lambda x, w, b: F.linear(x, w * 0.5, b)),
    "standardised weight": written(lambda x, w, b: F.linear(x, (w - w.mean()) / w.std(), b)),
    "view as": Entry(lambda: Like("view_as"), ROW),
    "reshape as": Entry(lambda: Like("reshape_as"), ROW),
    "expand as": Entry(
        lambda: Chain(nn.Linear(3, 5), lambda h: h * h[:, :1].sigmoid().expand_as(h), nn.Linear(5, 2)), ROW
    ),
    "bilinear": Entry(TwoWay, ROW),
    "film": Entry(Film, (noise(4, 3, 8, 8), noise(4, 2))),
    "highway": Entry(Highway, ROW),
    "swiglu, chunk": Entry(lambda: Swiglu(lambda m, h: h.chunk(2, -1)), WORDS),
    "swiglu, split": Entry(lambda: Swiglu(lambda m, h: h.split(h.shape[-1] // 2, -1)), WORDS),
    "swiglu, stored split": Entry(lambda: Swiglu(lambda m, h: h.split(m.hidden, -1)), WORDS),
    "swiglu, stored slices": Entry(lambda: Swiglu(lambda m, h: (h[..., : m.hidden], h[..., m.hidden :])), WORDS),
    "swiglu, interleaved": Entry(lambda: Swiglu(lambda m, h: (h[..., ::2], h[..., 1::2])), WORDS),
    "swiglu, unflatten": Entry(lambda: Swiglu(lambda m, h: h.unflatten(-1, (2, -1)).unbind(-2)), WORDS),
    "split": Entry(Split, ROW),
    "spatial gate": Entry(SpatialGate, WORDS),
    "mixer": Entry(lambda: Mixer(True), WORDS),
    "mixer without norm": Entry(lambda: Mixer(False), WORDS),
    "tied decoder": Entry(TiedDecoder, tokens()),
    "factored embedding": Entry(Factored, tokens()),
    "repeated block": Entry(Repeated, ROW),
    "embedding bag, sum": Entry(lambda: SumOfBags("sum"), tokens()),
    "embedding bag, mean": Entry(lambda: SumOfBags("mean"), tokens()),
    "low rank": Entry(LowRank, ROW),
    "experts": Entry(Experts, ROW),
    "scaled branches": Entry(Scaled, WORDS),
    "weight norm": Entry(normed(nn.utils.parametrizations.weight_norm), ROW),
    "weight norm, convolution": Entry(normed(nn.utils.parametrizations.weight_norm, False), noise(4, 5, 6)),
    "weight norm, old": Entry(normed(old_weight_norm), ROW),
    "spectral norm": Entry(normed(nn.utils.parametrizations.spectral_norm), ROW),
    "spectral norm, old": Entry(normed(nn.utils.spectral_norm), ROW),
    "orthogonal": Entry(normed(nn.utils.parametrizations.orthogonal), ROW),
    "prelu": Entry(
        lambda: nn.Sequential(nn.Linear(3, 5), nn.PReLU(5), nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, 2)), ROW
    ),
    "maxout": Entry(lambda: Chain(nn.Linear(3, 8), lambda h: h.view(len(h), -1, 2).amax(-1), nn.Linear(4, 2)), ROW),
    "glu module": Entry(lambda: nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2)), ROW),
    "softmax over channels": Entry(lambda: nn.Sequential(nn.Linear(3, 5), nn.Softmax(-1), nn.Linear(5, 2)), ROW),
    "cumulative": Entry(lambda: Chain(nn.Linear(3, 5), lambda h: h.cumsum(1), nn.Linear(5, 2)), WORDS),
}
