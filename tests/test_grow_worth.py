"""Several directions judged together: what each adds to the first, and whether its step keeps the promise."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gain_cases import (
    LOSSES,
    alike,
    along,
    counts_of,
    descent,
    judge,
    less,
    mean_loss,
    problem,
    several,
)
from outgrow.grow import gain
from outgrow.grow.gain import BACKWARD, FORWARD, KEPT, TRIES, Gain, Judgement, confirmed, worths
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch


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
