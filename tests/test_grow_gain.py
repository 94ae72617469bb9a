"""Gain on fresh examples, against brute force."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow import gain
from outgrow.grow.gain import Gain, best_step
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch


def judge(model, tangent, batches, loss):
    return gain.judge(model, [tangent], batches, OutputLoss(loss)).alone(0)


def realised(model, tangent, step, batches, loss, before):
    return gain.realised(model, tangent, step, batches, OutputLoss(loss), before)


def mean_loss(model, batches, loss):
    return gain.mean_loss(model, batches, OutputLoss(loss))


LOSSES = {"cross entropy": F.cross_entropy, "squares": F.mse_loss}


def problem(loss="cross entropy", n=60, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(n, 4).double()
    y = torch.randint(3, (n,)) if loss == "cross entropy" else torch.randn(n, 3).double()
    stops = [0, n // 4, n // 2 + 1, n]  # batches of several sizes
    return model.eval(), [Batch(x[i:j], y[i:j], j - i) for i, j in pairwise(stops)], x, y


def descent(model, x, y, loss, layer="3"):
    """A descending direction of one layer's weights that is not the gradient."""
    names = [f"{layer}.weight", f"{layer}.bias"]
    grads = torch.autograd.grad(loss(model(x), y), [model.get_parameter(name) for name in names])
    return {n: -g * (1 + 0.3 * torch.rand_like(g)) for n, g in zip(names, grads, strict=True)}


def along(model, tangent, x, y, loss, t):
    moved = {name: model.get_parameter(name).detach() + t * v for name, v in tangent.items()}
    return float(loss(torch.func.functional_call(model, moved, (x,)), y).detach())


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
def test_gain_is_at_most_half_the_dense_natural_expansion_score(seed):
    model, batches, x, y = problem(seed=seed)
    model.requires_grad_(False)
    names = ["3.weight", "3.bias"]
    weights = {name: model.get_parameter(name).detach() for name in names}

    def loss_of(flat):
        w, b = flat[:18].view(3, 6), flat[18:]
        return F.cross_entropy(torch.func.functional_call(model, {"3.weight": w, "3.bias": b}, (x,)), y)

    flat = torch.cat([weights["3.weight"].flatten(), weights["3.bias"]])
    g, H = torch.func.grad(loss_of)(flat), torch.func.hessian(loss_of)(flat)
    step = -torch.linalg.pinv(H, rcond=1e-10) @ g
    eta = -float(g @ step)
    for direction in ({"3.weight": -g[:18].view(3, 6)}, {"3.weight": torch.randn(3, 6).double()}):
        assert judge(model, direction, batches, F.cross_entropy).gain <= eta / 2 + 1e-12
    natural = {"3.weight": step[:18].view(3, 6), "3.bias": step[18:]}
    found = judge(model, natural, batches, F.cross_entropy)
    assert found.gain == pytest.approx(eta / 2, rel=1e-6)
    assert found.step == pytest.approx(1, rel=1e-6)


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
