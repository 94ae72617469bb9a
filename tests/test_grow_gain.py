"""The gain of one direction on fresh examples, against brute force."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gain_cases import (
    LOSSES,
    along,
    descent,
    judge,
    mean_loss,
    problem,
    realised,
)
from outgrow.grow.gain import Gain, best_step
from outgrow.grow.reference import fisher, natural_expansion_score
from outgrow.grow.sample import Batch


@pytest.mark.parametrize("name", LOSSES)
def test_gain_equals_finite_differences_of_the_loss_for_the_last_layer(name):
    loss = LOSSES[name]
    model, batches, x, y = problem(name)
    tangent = descent(model, x, y, loss)
    h = 1e-4
    low, middle, high = (along(model, tangent, x, y, loss, t) for t in (-h, 0, h))
    slope, curvature = (low - high) / (2 * h), (low - 2 * middle + high) / h**2
    found = judge(model, tangent, batches, loss)
    assert found.step == pytest.approx(slope / curvature, rel=1e-4)
    assert found.gain == pytest.approx(slope**2 / (2 * curvature), rel=1e-4)


def test_for_squares_in_the_last_layer_gain_is_realised_and_the_law_is_a_parabola():
    model, batches, x, y = problem("squares")
    tangent = descent(model, x, y, F.mse_loss)
    found, before = judge(model, tangent, batches, F.mse_loss), mean_loss(model, batches, F.mse_loss)
    for t in (0.1, 0.5, 1.0, 1.5, 2.0):
        drop = realised(model, tangent, t * found.step, batches, F.mse_loss, before)
        assert drop == pytest.approx(found.gain * (2 * t - t**2), abs=1e-10)


def test_a_small_share_of_the_step_realises_what_the_parabola_says():
    model, batches, x, y = problem()
    tangent = descent(model, x, y, F.cross_entropy, layer="0")  # through BatchNorm and tanh
    found, before = judge(model, tangent, batches, F.cross_entropy), mean_loss(model, batches, F.cross_entropy)
    t = 1e-3
    drop = realised(model, tangent, t * found.step, batches, F.cross_entropy, before)
    assert drop == pytest.approx(found.gain * (2 * t - t**2), rel=0.01)


def test_gain_does_not_depend_on_the_length_of_the_direction():
    model, batches, x, y = problem()
    tangent = descent(model, x, y, F.cross_entropy)
    one = judge(model, tangent, batches, F.cross_entropy)
    three = judge(model, {name: 3 * v for name, v in tangent.items()}, batches, F.cross_entropy)
    assert three.gain == pytest.approx(one.gain)
    assert three.se == pytest.approx(one.se)
    assert three.step == pytest.approx(one.step / 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", LOSSES)
def test_gain_is_at_most_half_the_dense_natural_expansion_score(name, seed):
    loss = LOSSES[name]
    model, batches, _, _ = problem(name, seed=seed)
    found = fisher(model, ["3.weight", "3.bias"], batches, loss)
    every = torch.arange(len(found.g))
    score = natural_expansion_score(found.F, found.g, every, every[:0])
    for vector in (-found.g, torch.randn(len(found.g)).double(), score.step + 0.1 * torch.randn(len(found.g)).double()):
        assert judge(model, found.tangent(vector), batches, loss).gain <= score.total / 2 + 1e-12
    natural = judge(model, found.tangent(score.step), batches, loss)
    assert natural.gain == pytest.approx(score.total / 2, rel=1e-6)
    assert natural.step == pytest.approx(1, rel=1e-6)


def test_a_direction_that_climbs_gains_nothing_but_is_not_certain():
    model, batches, x, y = problem()
    tangent = {name: -v for name, v in descent(model, x, y, F.cross_entropy).items()}
    found = judge(model, tangent, batches, F.cross_entropy)
    assert (found.gain, found.step) == (0, 0)
    assert found.se > 0


def test_the_standard_error_is_the_spread_over_fresh_samples():
    model, _, _, _ = problem(n=4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150 * 200, 4, generator=generator).double()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    tangent = descent(model, x[:500], y[:500], F.cross_entropy)
    found = [
        judge(model, tangent, [Batch(x[i : i + 200], y[i : i + 200], 200)], F.cross_entropy)
        for i in range(0, len(x), 200)
    ]
    spread = torch.tensor([one.gain for one in found]).std()
    typical = torch.tensor([one.se for one in found]).mean()
    assert 0.8 < typical / spread < 1.25  # the spread itself is known to 6 %


def test_what_has_no_slope_or_no_curvature_gains_nothing():
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert best_step(zeros, ones) == Gain(0, 0, 0)
    assert best_step(ones, zeros) == Gain(0, 0, 0)
    assert best_step(ones * math.nan, ones) == best_step(ones, ones * math.nan) == Gain(0, 0, 0)
    model, batches, _, _ = problem()
    assert judge(model, {}, batches, F.cross_entropy) == Gain(0, 0, 0)


def test_judging_leaves_the_model_alone():
    model, batches, x, y = problem()
    before, mode = copy.deepcopy(model.state_dict()), torch.backends.mha.get_fastpath_enabled()
    tangent = descent(model, x, y, F.cross_entropy)
    realised(model, tangent, judge(model, tangent, batches, F.cross_entropy).step, batches, F.cross_entropy, 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == mode


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 2)
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            h = (q @ k.mT / 2).softmax(-1) @ v
        return self.head(h).mean(1)


def test_fused_attention_is_judged_like_plain_attention():
    torch.manual_seed(0)
    fused, plain = Attention(True), Attention(False)
    plain.load_state_dict(fused.state_dict())
    x, y = torch.randn(20, 3, 4), torch.randint(2, (20,))
    tangent = descent(plain, x, y, F.cross_entropy, layer="qkv")
    a, b = (judge(model, tangent, [Batch(x, y, 20)], F.cross_entropy) for model in (fused, plain))
    assert a.gain == pytest.approx(b.gain, rel=1e-3)
    encoder = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2))
    encoder.eval().requires_grad_(False)
    assert judge(encoder, {"0.linear2.bias": torch.arange(4.0)}, [Batch(x, y, 20)], F.cross_entropy).se > 0
