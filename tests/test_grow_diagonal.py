"""The diagonal score: equal to a slow loop over examples, between 0 and 1, and blind to copies."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.errors import InputError
from outgrow.grow import diagonal
from outgrow.grow.diagonal import EPS, diagonal_score, discounted
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch
from outgrow.grow.step import StepLoss

CE, SQUARES = OutputLoss(F.cross_entropy), OutputLoss(F.mse_loss)
STEP = StepLoss(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
N = 11


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def labels(count, n=N):
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, x):
        return self.head(self.encoder(self.words(x)).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x).tanh().mean(1))


class Branching(nn.Module):
    """Decides by the values of what it reads, which vmap can't follow."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.unused = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return torch.stack([(self.one if float(row.detach().sum()) > 0 else self.other)(row) for row in x])


def linear():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def conv():
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten())


def norms():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Dropout(), nn.Flatten())


WORDS = torch.randint(7, (N, 5), generator=torch.Generator().manual_seed(2))
CASES = {
    "linear": (linear, noise(N, 4), labels(3), CE),
    "squares": (linear, noise(N, 4), noise(N, 3, seed=3), SQUARES),
    "positions": (linear, noise(N, 5, 4), noise(N, 5, 3, seed=3), SQUARES),
    "conv": (conv, noise(N, 2, 7, 7), labels(16), CE),
    "norms": (norms, noise(N, 2, 5, 5), labels(36), CE),
    "attention": (Attention, WORDS, labels(7), CE),
    "tied": (Tied, WORDS, labels(7), CE),
    "branching": (Branching, noise(N, 4), labels(3), CE),
}
every_case = pytest.mark.parametrize("case", CASES)


def problem(case):
    build, x, y, objective = CASES[case]
    torch.manual_seed(0)
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model, x, y, objective


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def batches(x, y, stops=(0, 4, N)):
    return [Batch(x[i:j], y[i:j], j - i) for i, j in pairwise(stops)]


def score(model, x, y, objective, stops=(0, 4, N)):
    return diagonal_score(model, names_of(model), batches(x, y, stops), objective)


def slow(model, x, y, loss):
    """One example after the other, from the definition."""
    parameters = dict(model.eval().named_parameters())
    rows = [
        torch.autograd.grad(
            loss(model(x[i : i + 1]), y[i : i + 1]), [*parameters.values()], allow_unused=True, materialize_grads=True
        )
        for i in range(len(x))
    ]
    stacked = [torch.stack(row) for row in zip(*rows, strict=True)]
    return {
        name: row.mean(0).square() / (row.square().mean(0) + EPS) for name, row in zip(parameters, stacked, strict=True)
    }


def same(a, b, tolerance=1e-10):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


@every_case
def test_the_score_equals_a_loop_over_examples(case):
    model, x, y, objective = problem(case)
    found = score(model, x, y, objective)
    same(found, slow(model, x, y, objective.loss))
    assert sum(float(terms.sum()) for terms in found.values()) > 0


@every_case
def test_every_term_is_a_share(case):
    model, x, y, objective = problem(case)
    alike = [0] * 4
    for terms in score(model, x, y, objective).values():
        assert bool(((terms >= 0) & (terms <= 1)).all())
    for terms in score(model, x[alike], y[alike], objective, (0, 4)).values():  # all of one mind
        torch.testing.assert_close(terms, (terms > 0.5).double(), rtol=1e-4, atol=1e-4)


@every_case
def test_neither_order_nor_batches_nor_chunks_matter(case, monkeypatch):
    model, x, y, objective = problem(case)
    whole = score(model, x, y, objective, (0, N))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    same(score(model, x[order], y[order], objective, (0, 2, 3, N)), whole)
    entries = sum(p.numel() for p in model.parameters())
    for numbers in (1, 3 * entries):
        monkeypatch.setattr(diagonal, "CHUNK_ENTRIES", numbers)
        same(score(model, x, y, objective, (0, N)), whole)


@pytest.mark.parametrize("case", [case for case in CASES if case != "branching"])
def test_examples_of_common_modules_go_together(case, monkeypatch):
    def never(*args):
        raise AssertionError("one example at a time")

    monkeypatch.setattr(diagonal._Singles, "_singly", never)
    score(*problem(case))


@every_case
def test_the_model_stays_as_it_was(case):
    model, x, y, objective = problem(case)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model.train(), x, y, objective)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_scale_of_the_loss_does_not_matter_beyond_rounding():
    model, x, y, _ = problem("linear")
    for scale in (1e-2, 1e2):
        scaled = OutputLoss(lambda z, y, scale=scale: scale * F.cross_entropy(z, y))
        same(score(model, x, y, scaled), score(model, x, y, CE), 1e-5)


def test_copies_of_a_neuron_raise_the_score_without_limit():
    model, x, y, _ = problem("linear")
    wider = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    copied = [0, 1, 2, 3, 4, 5, 5, 5]
    share = torch.tensor([1.0, 1, 1, 1, 1, 1 / 3, 1 / 3, 1 / 3]).double()
    with torch.no_grad():
        wider[0].weight.copy_(model[0].weight[copied])
        wider[0].bias.copy_(model[0].bias[copied])
        wider[2].weight.copy_(model[2].weight[:, copied] * share)
        wider[2].bias.copy_(model[2].bias)
    one, more = score(model, x, y, CE), score(wider, x, y, CE)
    torch.testing.assert_close(wider(x), model(x))
    torch.testing.assert_close(more["2.weight"], one["2.weight"][:, copied])
    torch.testing.assert_close(more["0.weight"], one["0.weight"][copied])


def test_weights_that_nothing_reaches_score_nothing():
    model, x, y, objective = problem("branching")
    assert not score(model, x, y, objective)["unused.weight"].any()
    model, x, y, objective = problem("attention")
    found = score(model, x, y, objective)
    assert not found["words.weight"][0].any()  # of the padding
    assert found["encoder.self_attn.in_proj_bias"][8:16].max() < 1e-10  # keys' biases are lost in the softmax


def test_rounding_is_no_gradient():
    model, x, y, objective = problem("attention")
    single, double = score(model.float(), x, y, objective), score(model.double(), x, y, objective)
    for name in single:
        torch.testing.assert_close(single[name], double[name], rtol=1e-2, atol=1e-2)


def test_names_that_are_frozen_or_tied():
    model, x, y, objective = problem("tied")
    model.head.bias.requires_grad_(False)
    found = diagonal_score(model, ["words.weight", "head.bias", "head.weight"], batches(x, y), objective)
    assert list(found) == ["words.weight", "head.weight"]
    assert torch.equal(found["words.weight"], found["head.weight"])
    assert diagonal_score(model, ["head.bias"], batches(x, y), objective) == {}


def test_a_part_of_the_parameters_scores_as_in_the_whole():
    model, x, y, objective = problem("conv")
    whole = score(model, x, y, objective)
    part = diagonal_score(model, ["2.weight"], batches(x, y), objective)
    same(part, {"2.weight": whole["2.weight"]})


def test_outputs_with_several_rows_an_example_and_weights_of_a_loss():
    model, x, _, _ = problem("positions")
    y, weight = labels(3, N * 5), torch.tensor([1.0, 2.0, 0.5]).double()
    flat = nn.Sequential(model, nn.Flatten(0, 1))
    objective = OutputLoss(lambda z, y: F.cross_entropy(z, y.flatten(), weight=weight))
    found = score(flat, x, y.view(N, 5), objective, (0, N))
    total = weight[y].sum()

    def part(z, y):
        return F.cross_entropy(z, y.flatten(), weight=weight, reduction="sum") / total

    same(found, slow(flat, x, y.view(N, 5), part))


def test_dicts_in_and_out_and_float32():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, scale, mask=None):
            return {"hidden": x, "logits": self.layer(x) * scale}

    torch.manual_seed(0)
    model, x, y = Named(), noise(N, 4).float(), labels(3)
    inputs = {"x": x, "scale": torch.tensor(2.0), "mask": None}
    objective = OutputLoss(lambda z, y: F.cross_entropy(z["logits"], y))
    found = diagonal_score(model, ["layer.weight"], [Batch(inputs, y, N)], objective)["layer.weight"]
    expected = slow(model.layer, x, y, lambda z, y: F.cross_entropy(2 * z, y))["weight"].double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == torch.float64


def steps(x, y, stops):
    return [Batch((x[i:j], y[i:j]), None, j - i) for i, j in pairwise(stops)]


def test_batches_of_one_example_make_a_step_a_loss():
    model, x, y, _ = problem("linear")
    found = diagonal_score(model, names_of(model), steps(x, y, range(N + 1)), STEP)
    same(found, score(model, x, y, CE))


def test_batches_of_a_step_weigh_by_their_examples():
    model, x, y, _ = problem("linear")
    stops = (0, 3, 5, N)
    found = diagonal_score(model, names_of(model), steps(x, y, stops), STEP)
    for name, parameter in model.named_parameters():
        rows = [torch.autograd.grad(F.cross_entropy(model(x[i:j]), y[i:j]), parameter)[0] for i, j in pairwise(stops)]
        mean = (3 * rows[0] + 2 * rows[1] + 6 * rows[2]) / N
        variance = sum(m * (row - mean).square() for m, row in zip((3, 2, 6), rows, strict=True)) / 3
        torch.testing.assert_close(found[name], mean.square() / (mean.square() + variance + EPS))


def test_batches_of_a_step_stand_for_their_examples():
    model = problem("linear")[0]
    n = 6000
    x, y = noise(n, 4, seed=5), labels(3, n)
    found = diagonal_score(model, names_of(model), steps(x, y, [*range(0, n // 2, 5), *range(n // 2, n + 1, 10)]), STEP)
    exact = score(model, x, y, CE, (0, n))
    for name in exact:  # within the noise of a variance from 900 batches
        torch.testing.assert_close(found[name], exact[name], rtol=0.25, atol=1e-6)
        assert bool(((found[name] >= 0) & (found[name] <= 1)).all())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.BatchNorm1d])
def test_examples_that_depend_on_each_other_are_refused(norm):
    torch.manual_seed(0)
    body = nn.Conv2d(2, 4, 3) if norm is nn.BatchNorm2d else nn.Linear(4, 4)
    model = nn.Sequential(body, norm(4, track_running_stats=False), nn.Flatten()).double()
    x = noise(N, 2, 4, 4) if norm is nn.BatchNorm2d else noise(N, 4)
    with pytest.raises(InputError, match=r"Sequential.* single example|Sequential: expected examples that don't"):
        score(model, x, labels(4), CE)
    found = diagonal_score(model, names_of(model), steps(x, labels(4), (0, 4, 8, N)), STEP)
    assert found.keys() == dict(model.named_parameters()).keys()


def test_one_example_says_nothing():
    model, x, y, _ = problem("linear")
    with pytest.raises(InputError, match="two examples at least, or two batches of a step, received 1"):
        score(model, x, y, CE, (0, 1))
    with pytest.raises(InputError, match="received 0"):
        score(model, x, y, CE, (0,))
    with pytest.raises(InputError, match="received 1"):
        diagonal_score(model, names_of(model), steps(x, y, (0, N)), STEP)


def test_the_discount_is_that_of_the_paper():
    assert discounted(2.0, 0) == 2.0
    assert discounted(2.0, 3000) == pytest.approx(2.0 * 0.40656965974)
    assert discounted(2.0, 300, rate=0.0) == 2.0
    values = [discounted(1.0, added) for added in range(0, 5000, 500)]
    assert values == sorted(values, reverse=True)
