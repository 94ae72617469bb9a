"""Models as people write them: an edit keeps their function, or their axis is fixed."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import outgrow
from outgrow.net.cost import flops


class Actor(nn.Module):
    """Hands out an object of another class in place of tensors; its only hidden axis lies under a LayerNorm."""

    def __init__(self, hand_out):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
        self.critic, self.hand_out = nn.Linear(4, 1), hand_out

    def forward(self, x):
        return self.hand_out(self.actor(x), self.critic(x))


class Attention(nn.Module):
    """Keeps its number of heads under a name that does not say so."""

    def __init__(self):
        super().__init__()
        self.h, self.words = 2, nn.Embedding(11, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 11)

    def forward(self, x):
        x = self.words(x)
        count, length, _ = x.shape
        q, k, v = (z.view(count, length, self.h, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).reshape(count, length, -1))


class Conditioned(nn.Module):
    """A stream that two branches write to, one of which reads a class; class 0 has a vector of zeros."""

    def __init__(self):
        super().__init__()
        self.start, self.classes = nn.Linear(3, 8), nn.Embedding(5, 4, padding_idx=0)
        self.blocks, self.out = nn.ModuleList([TwoBranches(), TwoBranches()]), nn.Linear(8, 2)

    def forward(self, x, label):
        x, condition = self.start(x), self.classes(label)
        for block in self.blocks:
            x = block(x, condition)
        return self.out(x)


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.condition = nn.Linear(4, 8, bias=False)
        self.body = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x, condition):
        x = x + self.condition(condition)
        return x + self.body(x)


class Queries(nn.Module):
    """Learned queries, seen as a view."""

    def __init__(self):
        super().__init__()
        self.queries, self.body, self.out = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.body(self.queries.expand(len(x), -1, -1)).relu()).mean(1) + x.mean()


class Within(nn.Module):
    """A hidden layer within a context of torch's."""

    def __init__(self, context):
        super().__init__()
        self.first, self.hidden, self.out, self.context = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), context

    def forward(self, x):
        with self.context():
            x = self.hidden(self.first(x).relu()).relu()
        return self.out(x.float())


class Shifted(nn.Module):
    """Adds what the token before wrote."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.hidden(x)
        return self.out(x + F.pad(x, (0, 0, 1, 0))[:, :-1])


class Recurrent(nn.Module):
    """Learns its first state."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 6))
        self.hidden, self.out = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.hidden(x, self.start.expand(-1, len(x), -1).contiguous())[0])


class Warped(nn.Module):
    """Samples its channels on another grid."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.hidden(x)
        grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.out(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class Filtered(nn.Module):
    """A fixed filter, the same for each channel."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.register_buffer("sobel", torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).repeat(4, 1, 1, 1))

    def forward(self, x):
        return self.out(F.conv2d(self.hidden(x), self.sobel, padding=1, groups=len(self.sobel)))


@pytest.mark.parametrize(
    "hand_out",
    [
        lambda logits, value: SimpleNamespace(logits=logits, value=value),
        lambda logits, value: (torch.distributions.Categorical(logits=logits), value),
    ],
    ids=["namespace", "distribution"],
)
def test_what_objects_of_an_output_hold_is_a_part_of_it(hand_out):
    found = {axis.name: axis for axis in outgrow.axes(Actor(hand_out), torch.randn(5, 4))}
    assert "layer_norm" in found["actor.0"].reason
    assert not found["actor.3"].growable


def test_an_example_of_one_word_over_and_over_tells_heads_as_well():
    model, x = Attention(), torch.randint(11, (3, 6))
    before = model(x)
    outgrow.widen_(model, "qkv", 1, example=torch.zeros(1, 6, dtype=torch.long))
    assert model.h == 3
    torch.testing.assert_close(model(x), before)


def test_an_example_of_ones_tells_heads_as_well():
    model, x = Attention(), torch.randn(2, 6, 8)
    model.words = nn.Identity()
    before = model(x)
    outgrow.widen_(model, "qkv", 1, example=torch.ones(1, 6, 8))
    assert model.h == 3
    torch.testing.assert_close(model(x), before)


def test_what_runs_without_gradients_does_not_grow_since_it_would_never_learn():
    found = outgrow.axes(Within(torch.no_grad), torch.randn(5, 4))
    assert not any(axis.growable for axis in found)
    assert "it runs under no_grad()" in next(axis.reason for axis in found if axis.name.startswith("hidden"))


def test_an_example_of_a_class_without_a_vector_tells_which_weights_have_to_be_zero():
    model, x, label = Conditioned(), torch.randn(4, 3), torch.randint(1, 5, (4,))
    before = model(x, label)
    outgrow.deepen_(model, "blocks", example=(torch.randn(1, 3), torch.zeros(1, dtype=torch.long)))
    assert len(model.blocks) == 3
    torch.testing.assert_close(model(x, label), before)


def test_learned_queries_are_counted():
    assert flops(Queries(), torch.randn(2, 5, 4)) == 2 * 2 * 3 * (4 * 5 + 5 * 2)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (lambda: Within(lambda: torch.autocast("cpu", enabled=False)), torch.randn(5, 4)),
        (lambda: Within(lambda: torch.autocast("cpu", torch.bfloat16)), torch.randn(5, 4)),
        (Shifted, torch.randn(2, 5, 4)),
        (Recurrent, torch.randn(2, 5, 4)),
        (Warped, torch.randn(2, 3, 6, 6)),
    ],
    ids=["autocast off", "autocast", "shifted", "recurrent", "warped"],
)
def test_ordinary_models_grow_and_keep_their_function(model, x):
    model = model()
    before = model(x)
    outgrow.widen_(model, "hidden", 2, example=x)
    assert {axis.name: axis.size for axis in outgrow.axes(model, x)}["hidden"] == 8
    torch.testing.assert_close(model(x), before)


def test_channels_that_are_filtered_alike_stay_so():
    model = Filtered()
    outgrow.widen_(model, "hidden", 2, example=torch.randn(4, 3, 6, 6))
    assert len(model.sobel) == 6
    assert (model.sobel == model.sobel[:1]).all()


def test_places_are_found_beside_a_compiled_part():
    compiled = torch.compile(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)), backend="eager")
    found = outgrow.places(nn.Sequential(compiled, nn.ReLU(), nn.Linear(5, 3)), torch.randn(2, 4))
    assert any(place.growable for place in found)


class Padding(Attention):
    """Keeps beside its number of heads the number of a word that happens to be the same."""

    def __init__(self):
        super().__init__()
        self.padding = 2

    def forward(self, x):
        return super().forward(x) * (x != self.padding).unsqueeze(-1)


def test_a_number_that_merely_is_the_same_stays():
    torch.manual_seed(0)
    model, words = Padding(), torch.randint(11, (6, 7))
    before = model(words)
    outgrow.widen_(model, "qkv", 1, example=torch.tensor([[1, 4, 6, 7]]))  # no padding
    assert (model.h, model.padding) == (3, 2)
    torch.testing.assert_close(model(words), before)


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        n = x.shape[-1] // 2
        return self.b(torch.cat([-x[:, n:], x[:, :n]], 1))


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x).relu()
        return (self.b(x), self.auxiliary(x)) if self.training else self.b(x)


@pytest.mark.filterwarnings("ignore:.* this example did not use auxiliary.weight")
@pytest.mark.parametrize(
    ("model", "reason"),
    [(Halves, "with 3 more units an output moves"), (Auxiliary, "with one more unit the model fails in train mode: ")],
)
def test_an_axis_that_only_seems_to_grow_is_fixed(model, reason):
    axis = outgrow.axes(model(), torch.randn(3, 4))[0]
    assert not axis.growable
    assert reason in axis.reason
