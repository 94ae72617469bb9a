"""Gain on fresh examples, against brute force."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow import gain
from outgrow.grow.gain import BACKWARD, FORWARD, KEPT, TRIES, Gain, Judgement, best_step, confirmed, worths
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reference import fisher, natural_expansion_score
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


# several directions


def several(model, x, y, loss=F.cross_entropy):
    """The present step and candidates: one that has much of it, one of two layers, and one by chance."""
    present = descent(model, x, y, loss)
    near = {name: v + 0.3 * v.abs().mean() * torch.randn_like(v) for name, v in present.items()}
    other = {**descent(model, x, y, loss, layer="0"), "3.bias": present["3.bias"]}
    return [present, near, other, {"3.weight": torch.randn(3, 6).double()}]


def alike(one, other, rel=1e-9):
    return (one.gain, one.se, one.step) == pytest.approx((other.gain, other.se, other.step), rel=rel, abs=1e-12)


def less(direction, first, share):
    names = dict.fromkeys((*direction, *first))
    zero = torch.zeros(()).double()
    return {name: direction.get(name, zero) - share * first.get(name, zero) for name in names}


@pytest.mark.parametrize("name", LOSSES)
def test_back_propagated_and_forward_judgements_agree(name):
    model, batches, x, y = problem(name, n=3000)
    objective, directions = OutputLoss(LOSSES[name]), several(model, x, y, LOSSES[name])
    exact = gain.judge(model, directions, batches, objective)
    found = gain.judge(model, directions, batches, objective, torch.Generator().manual_seed(0))
    assert exact.passes == pytest.approx(1 + FORWARD * 4)
    assert found.passes == BACKWARD
    torch.testing.assert_close(found.slopes, exact.slopes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.matrix, exact.matrix, rtol=0.15, atol=0.1 * float(exact.matrix.diagonal().min()))
    for d in range(4):
        assert alike(found.alone(d), exact.alone(d), 0.15)
    for d in range(1, 4):
        one, other = found.beyond(d), exact.beyond(d)  # differences of curvatures, less certain
        assert one.gain == pytest.approx(other.gain, rel=0.3, abs=other.se / 2)
        assert one.se == pytest.approx(other.se, rel=0.3)


def test_of_what_layers_can_not_do_forward_mode_takes_over():
    model, batches, x, y = problem()
    objective, directions = OutputLoss(F.cross_entropy), [*several(model, x, y), {"1.weight": torch.ones(6).double()}]
    exact = gain.judge(model, directions, batches, objective)
    found = gain.judge(model, directions, batches, objective, torch.Generator().manual_seed(0))
    for key in ("slopes", "own", "first", "matrix", "passes"):
        assert torch.equal(torch.as_tensor(getattr(found, key)), torch.as_tensor(getattr(exact, key)))


@pytest.mark.parametrize("drawn", [False, True])
def test_directions_that_are_empty_gain_nothing_and_disturb_nobody(drawn):
    model, batches, x, y = problem()
    objective, directions = OutputLoss(F.cross_entropy), several(model, x, y)

    def judged(directions):
        return gain.judge(model, directions, batches, objective, torch.Generator().manual_seed(0) if drawn else None)

    full, holes = judged(directions[1:]), judged([{}, directions[1], {}, *directions[2:]])
    assert holes.alone(0) == holes.alone(2) == Gain(0, 0, 0)
    for there, among in enumerate((1, 3, 4)):
        assert alike(full.alone(there), holes.alone(among))
        assert alike(holes.beyond(among), holes.alone(among))
    assert holes.together([0, 1, 2]) == pytest.approx([0, full.together([0])[0], 0])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_what_a_direction_adds_is_the_gain_of_the_rest_of_it(name, d):
    model, batches, x, y = problem(name)
    objective, directions = OutputLoss(LOSSES[name]), several(model, x, y, LOSSES[name])
    judged = gain.judge(model, directions, batches, objective)
    share = judged.share(d)
    assert share == pytest.approx(float(judged.matrix[d, 0] / judged.matrix[0, 0]))
    rest = less(directions[d], directions[0], share)
    alone = judge(model, rest, batches, LOSSES[name])
    beyond = judged.beyond(d)
    assert (beyond.gain, beyond.step) == pytest.approx((alone.gain, alone.step), rel=1e-8)
    both = gain.judge(model, [directions[0], rest], batches, objective)
    assert float(both.matrix[0, 1]) == pytest.approx(0, abs=1e-10 * float(both.matrix[0, 0]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("d", [1, 2])
def test_the_error_of_what_a_direction_adds_counts_its_share_too(name, d):
    model, batches, x, y = problem(name, n=400)
    judged = gain.judge(model, several(model, x, y, LOSSES[name]), batches, OutputLoss(LOSSES[name]))
    sign = 1 if judged.beyond(d).step > 0 else -1  # of the candidate, so that it descends
    turned = torch.ones(4).double()
    turned[d] = sign

    def without(i):
        kept = torch.arange(400) != i
        slopes, own, first = judged.slopes[kept] * turned, judged.own[kept], judged.first[kept] * turned
        matrix = torch.zeros(4, 4).double()
        matrix[0], matrix[:, 0] = first.mean(0), first.mean(0)
        return Judgement(slopes, own, first, matrix).beyond(d)

    left_out = torch.tensor([without(i).gain for i in range(400)])
    whole = without(-1)
    assert whole.gain > 0
    assert whole.se == pytest.approx(float(left_out.std(correction=0)) * 399**0.5, rel=0.05)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_worth_is_the_drop_along_its_tangent(name, drawn):
    model, batches, x, y = problem(name, n=200)
    loss, directions = LOSSES[name], several(model, x, y, LOSSES[name])
    before = copy.deepcopy(model.state_dict())
    judged = gain.judge(model, directions, batches, OutputLoss(loss), torch.Generator() if drawn else None)
    found = worths(model, judged, directions, batches, OutputLoss(loss))
    assert len(found) == 3
    for d, worth in enumerate(found, 1):
        for key, value in less(directions[d], directions[0], judged.share(d)).items():
            torch.testing.assert_close(worth.tangent[key], value)
        drop = along(model, worth.tangent, x, y, loss, 0.0) - along(model, worth.tangent, x, y, loss, worth.gain.step)
        assert worth.realised == pytest.approx(drop, abs=1e-10)
        promise = judged.beyond(d)
        assert worth.gain.gain <= promise.gain * (1 + 1e-12)
        assert worth.gain == promise or worth.passes > 1
        assert worth.realised >= KEPT * worth.gain.gain
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_beside_a_step_that_climbs_a_direction_is_worth_all_it_gains():
    model, batches, x, y = problem()
    directions = several(model, x, y)
    directions[0] = {name: -value for name, value in directions[0].items()}
    judged = gain.judge(model, directions, batches, OutputLoss(F.cross_entropy))
    assert [judged.share(d) for d in range(4)] == [0, 0, 0, 0]
    assert all(alike(judged.beyond(d), judged.alone(d)) for d in (1, 2, 3))
    found = worths(model, judged, directions, batches, OutputLoss(F.cross_entropy))
    for worth, direction in zip(found, directions[1:], strict=True):
        torch.testing.assert_close(dict(worth.tangent), direction, rtol=0, atol=0)


# the step that is taken


def test_a_parabola_needs_no_correction():
    model, batches, _, _ = problem("squares")
    directions = [descent(model, batches[0].inputs, batches[0].target, F.mse_loss, layer="3")]
    before = mean_loss(model, batches, F.mse_loss)
    promise = judge(model, directions[0], batches, F.mse_loss)
    worth = confirmed(model, directions[0], promise, batches, OutputLoss(F.mse_loss), before)
    assert (worth.tangent, worth.gain, worth.passes) == (directions[0], promise, 1)
    assert worth.realised == pytest.approx(promise.gain)


def test_what_does_not_descend_costs_no_pass():
    model, batches, _, _ = problem()
    climbs = Gain(0.0, 0.3, 0.0)
    worth = confirmed(model, {"3.bias": torch.ones(3).double()}, climbs, batches, OutputLoss(F.cross_entropy), 1.0)
    assert (worth.gain, worth.realised, worth.passes) == (climbs, 0, 0)


def counts_of(rate, dtype=torch.float64):
    """One weight, the logarithm of a Poisson rate that starts at 1: the loss exp(z) - rate z bends more and more."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.zeros_(model.weight)
    x = torch.ones(4, 1, dtype=dtype)
    return model, [Batch(x, rate * x, 4)], {"weight": torch.ones(1, 1, dtype=dtype)}


@pytest.mark.parametrize("rate", [1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0])
def test_where_the_loss_bends_more_the_gain_is_cut_to_what_comes(rate):
    model, batches, tangent = counts_of(rate)
    promise = judge(model, tangent, batches, F.poisson_nll_loss)
    assert (promise.step, promise.gain) == pytest.approx((rate - 1, (rate - 1) ** 2 / 2))
    worth = confirmed(model, tangent, promise, batches, OutputLoss(F.poisson_nll_loss), 1.0)
    step = worth.gain.step
    assert worth.realised == pytest.approx(1 - (math.exp(step) - rate * step))
    assert worth.gain.gain <= promise.gain
    if worth.realised >= KEPT * (rate - 1) * step / 2:
        assert worth.gain.gain == pytest.approx((rate - 1) * step / 2)  # of the parabola with the secant's curvature
    else:
        assert (worth.passes, worth.gain.gain) == (TRIES, worth.realised)
    assert worth.gain.se == pytest.approx(promise.se * step / promise.step)
    assert worth.realised >= KEPT * worth.gain.gain
    assert (worth.passes == 1) == (worth.gain == promise)
    if rate >= 2:
        assert worth.gain.gain < promise.gain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [90.0, 200.0, 1000.0, 1e6])
def test_a_loss_without_a_value_along_the_step_leaves_a_finite_smaller_gain(rate, dtype):
    model, batches, tangent = counts_of(rate, dtype)
    promise = judge(model, tangent, batches, F.poisson_nll_loss)
    worth = confirmed(model, tangent, promise, batches, OutputLoss(F.poisson_nll_loss), 1.0)
    assert 0 <= worth.gain.gain < promise.gain
    assert math.isfinite(worth.gain.se)
    assert 0 <= worth.gain.step < promise.step
    assert 1 < worth.passes <= TRIES
    assert worth.gain.gain <= worth.realised / KEPT < math.inf  # a promise that is never kept is none


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("limit", "kept", "passes"), [(0.5, 0.25, 2), (0.2, 0.0625, 3), (0.05, 0.0, 3)])
def test_a_network_that_breaks_along_the_step_leaves_a_finite_smaller_gain(value, limit, kept, passes):
    class Breaks(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return torch.where(z > limit, z * value, z)

    model = Breaks(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x = torch.ones(4, 1).double()
    batches, tangent = [Batch(x, x, 4)], {"weight": torch.ones(1, 1).double()}
    promise = judge(model, tangent, batches, F.mse_loss)
    worth = confirmed(model, tangent, promise, batches, OutputLoss(F.mse_loss), 1.0)
    assert (promise.gain, promise.step) == (1, 1)
    assert (worth.gain.gain, worth.gain.step, worth.passes) == (kept, kept, passes)
    assert worth.realised == pytest.approx(1 - (1 - kept) ** 2)


# steps together


def judgement_of(slopes, matrix):
    """A judgement of one term."""
    slopes, matrix = torch.tensor(slopes).double(), torch.tensor(matrix).double()
    return Judgement(slopes[None], matrix.diagonal()[None], matrix[0][None], matrix)


def test_steps_together_solve_the_normal_equations():
    model, batches, x, y = problem(n=300)
    directions = several(model, x, y)[:3]
    judged = gain.judge(model, directions, batches, OutputLoss(F.cross_entropy))
    for chosen in ([0], [2], [0, 2], [2, 0], [1, 2]):
        steps = judged.together(chosen)
        solved = torch.linalg.solve(judged.matrix[chosen][:, chosen], judged.slopes.mean(0)[chosen])
        assert bool((solved > 0).all())
        assert steps == pytest.approx(solved.tolist(), rel=1e-6)
    assert judged.together([]) == []
    assert judged.together([2])[0] == pytest.approx(judged.alone(2).step)


def test_those_that_would_not_descend_are_left_out():
    climbing = judgement_of([1.0, -1.0, 2.0], [[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert climbing.together([0, 1, 2]) == pytest.approx([1, 0, 2])
    assert climbing.together([1]) == [0]
    covered = judgement_of([1.0, 0.5, 2.0], [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert covered.together([0, 1, 2]) == pytest.approx([1, 0, 2])  # the first does all that the second would
    flat = judgement_of([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]])
    assert flat.together([0, 1]) == pytest.approx([1, 0])


def test_copies_share_one_step():
    twice = judgement_of([1.0, 1.0], [[2.0, 2.0], [2.0, 2.0]])
    assert sum(twice.together([0, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(20))
def test_steps_together_lower_the_parabola_at_least_as_much_as_the_best_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 8, generator=generator).double()
    matrix, slopes = root @ root.mT, 3 * torch.randn(5, generator=generator).double()
    judged = judgement_of(slopes.tolist(), matrix.tolist())
    steps = torch.tensor(judged.together(range(5))).double()
    drop = float(slopes @ steps - steps @ matrix @ steps / 2)
    assert bool((steps >= 0).all())
    assert drop >= max(judged.alone(d).gain for d in range(5)) * (1 - 1e-6)


def test_a_joint_step_of_squares_saves_its_parabola():
    model, batches, x, y = problem("squares", n=200)
    objective, present = OutputLoss(F.mse_loss), descent(model, x, y, F.mse_loss)
    directions = [present, {"3.weight": present["3.weight"]}, {"3.bias": present["3.bias"]}]
    judged = gain.judge(model, directions, batches, objective)
    steps = gain.joint(model, judged, {1: directions[1], 2: directions[2]}, batches, objective)
    assert steps == pytest.approx(judged.together([1, 2]))
    whole = {key: step * value for step, one in zip(steps, directions[1:], strict=True) for key, value in one.items()}
    drop = along(model, whole, x, y, F.mse_loss, 0.0) - along(model, whole, x, y, F.mse_loss, 1.0)
    slopes = judged.slopes.mean(0)[1:]
    assert drop == pytest.approx(float(slopes @ torch.linalg.solve(judged.matrix[1:, 1:], slopes)) / 2)


@pytest.mark.parametrize("rate", [1.2, 3.0, 10.0, 60.0, 1000.0])
def test_a_joint_step_is_cut_where_the_loss_bends_more(rate):
    model, batches, tangent = counts_of(rate)
    objective = OutputLoss(F.poisson_nll_loss)
    judged = gain.judge(model, [{}, tangent, {key: -value for key, value in tangent.items()}], batches, objective)
    steps = gain.joint(model, judged, {2: {}, 1: tangent}, batches, objective)
    assert steps[0] == 0
    assert 0 <= steps[1] <= rate - 1
    assert 1 - (math.exp(steps[1]) - rate * steps[1]) >= 0
    assert gain.joint(model, judged, {}, batches, objective) == []
