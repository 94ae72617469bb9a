"""The panel of removals: what it says is what happens when its removals are applied."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.grow.gain import mean_loss
from outgrow.grow.losses import losses
from outgrow.grow.objective import OutputLoss
from outgrow.grow.removal import RemovalPanel, can_lose, losable, shared
from outgrow.grow.sample import Batch, Sample
from outgrow.grow.setup import Setup
from outgrow.grow.step import StepLoss
from outgrow.models.seed import Seed
from outgrow.net.axes import axes, find_axis
from outgrow.net.cost import flops, flops_by_weight, parameters
from outgrow.net.preserve import outputs
from outgrow.net.remove import shrink_
from outgrow.net.widen import widen_

CROSS = OutputLoss(F.cross_entropy)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


NETS = {
    "mlp": (mlp, (4,)),
    "convnet": (lambda: Seed("convnet", (1, 6, 6), 3, (4, 5)).build(), (1, 6, 6)),
    "resnet": (lambda: Seed("resnet", (1, 6, 6), 3, (4, 5)).build(), (1, 6, 6)),
}
every_net = pytest.mark.parametrize("name", NETS)


def setup_of(name, n=120, objective=CROSS):
    """What a check of a small network in training goes by, with two batches of each part."""
    build, shape = NETS[name]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(2 * n, *shape).double()
    y = (x.flatten(1)[:, :4].square().mean(1) * 2).long().clamp_max(2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    pieces = [slice(start, start + n // 2) for start in range(0, 2 * n, n // 2)]
    batches = [Batch(x[piece], y[piece], n // 2) for piece in pieces]
    return Setup(
        model=model,
        axes=axes(model, x[:2]),
        places=(),
        counts={key: count // 2 for key, count in flops_by_weight(model, x[:2]).items()},
        sample=Sample(batches[:2], batches[2:]),
        objective=objective,
        example=x[:2],
        generator=torch.Generator().manual_seed(0),
    )


def panel_of(setup, count=2):
    found = losable(setup.model, setup.axes, {axis.name: count for axis in setup.axes})
    return RemovalPanel(setup, dict.fromkeys(found, count))


def applied(setup, removals, values, **kwargs):
    """The model without the units."""
    model = copy.deepcopy(setup.model)
    shrink_(model, setup.axes, removals, values(setup.model), inputs=setup.example, **kwargs)
    return model


@every_net
def test_the_gain_is_the_difference_of_the_losses(name):
    setup = setup_of(name)
    before, state = copy.deepcopy(setup.model.state_dict()), setup.model.training
    panel = panel_of(setup)
    assert len(panel.candidates) == len([axis for axis in setup.axes if axis.growable]) > 0
    base = mean_loss(copy.deepcopy(setup.model).eval(), setup.sample.b, setup.objective)
    for one in panel.candidates:
        (losing,), values = panel.chosen({one.where: 2})
        model = applied(setup, [losing.removal], values).eval()
        assert one.gain == pytest.approx(base - mean_loss(model, setup.sample.b, setup.objective), rel=1e-8, abs=1e-10)
        assert (one.kind, one.realised, one.alone, one.alone_se) == ("remove", one.gain, one.gain, one.se)
        assert one.params == parameters(model) - parameters(setup.model) < 0
        assert one.flops == (flops(model, setup.example) - flops(setup.model, setup.example)) // 2 < 0
        assert (losing.gain, losing.se, -2 * losing.predicted) == (one.gain, one.se, one.score)
        assert one.score <= 0 <= one.se
    assert all(torch.equal(value, before[key]) for key, value in setup.model.state_dict().items())
    assert setup.model.training == state
    assert all(p.grad is None or not p.grad.isnan().any() for p in setup.model.parameters())


@every_net
def test_what_several_axes_lose_together_is_measured_and_shared_out(name):
    setup = setup_of(name)
    panel = panel_of(setup)
    cost, base = panel.flops, panel.present.loss
    assert base == pytest.approx(mean_loss(copy.deepcopy(setup.model).eval(), setup.sample.b, setup.objective))
    for several in (panel.candidates, panel.candidates[:2], panel.candidates[:1]):
        chosen, values = panel.chosen({one.where: 2 for one in several})
        model = applied(setup, [one.removal for one in chosen], values).eval()
        drop = base - mean_loss(model, setup.sample.b, setup.objective)
        assert sum(one.realised for one in chosen) == pytest.approx(drop, rel=1e-8, abs=1e-10)
        assert [one.gain for one in chosen] == [one.gain for one in several]
        assert panel.flops > cost or len(several) == 1
        cost = panel.flops


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5), st.floats(-1, 1))
def test_shares_of_a_drop_have_it_as_their_sum(alone, together):
    found = shared(alone, together)
    assert sum(found) == pytest.approx(together, abs=1e-12)
    if all(one > 0.01 for one in alone):
        ratios = [share / one for share, one in zip(found, alone, strict=True)]
        assert ratios == pytest.approx([ratios[0]] * len(alone))
    assert shared(alone, sum(alone)) == pytest.approx(alone, abs=1e-12)


def test_the_standard_error_is_that_of_paired_examples():
    setup = setup_of("mlp")
    panel = panel_of(setup)
    one = panel.candidates[0]
    (losing,), values = panel.chosen({one.where: 2})
    models = [copy.deepcopy(setup.model).eval(), applied(setup, [losing.removal], values).eval()]
    x, y = (torch.cat([getattr(batch, part) for batch in setup.sample.b]) for part in ("inputs", "target"))
    before, after = (F.cross_entropy(model(x), y, reduction="none").detach() for model in models)
    assert one.se == pytest.approx(float((before - after).std()) / math.sqrt(len(x)), rel=1e-8)


def test_the_prediction_is_what_squares_lose_at_their_minimum():
    """Up to the drawn Fisher factor of the one output: the quadratic model of a fitted linear layer is its loss."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double(), torch.randn(200, 4).double()
    y = x.square().sum(1, keepdim=True)
    with torch.no_grad():
        found = torch.linalg.lstsq(torch.cat([model[:2](x), torch.ones(200, 1).double()], 1), y).solution
        model[2].weight.copy_(found[:-1].T)
        model[2].bias.copy_(found[-1])
    batches = [Batch(x[i::2], y[i::2], 100) for i in range(2)]
    setup = Setup(
        model=model,
        axes=axes(model, x[:2]),
        places=(),
        counts=flops_by_weight(model, x[:1]),
        sample=Sample(batches, batches),
        objective=OutputLoss(F.mse_loss),
        example=x[:2],
        generator=torch.Generator().manual_seed(0),
    )
    ratios = []
    for count in (1, 2, 3):
        setup.generator.manual_seed(0)
        (one,) = panel_of(setup, count).candidates
        assert one.gain < -1e-6
        ratios.append(one.score / 2 / one.gain)
    assert ratios == pytest.approx([ratios[0]] * 3, rel=1e-8)
    assert ratios[0] == pytest.approx(1.0, abs=0.3)


def test_compensation_is_worth_it():
    setup = setup_of("convnet")
    panel = panel_of(setup)
    for one in panel.candidates:
        (losing,), values = panel.chosen({one.where: 2})
        with_it = mean_loss(applied(setup, [losing.removal], values).eval(), setup.sample.a, setup.objective)
        without = mean_loss(applied(setup, [losing.removal], lambda _: {}).eval(), setup.sample.a, setup.objective)
        assert with_it < without


@every_net
def test_what_was_grown_and_is_not_used_goes_again(name):
    """Grow, then shrink: the function and the sizes are as before."""
    setup = setup_of(name)
    for axis in [axis for axis in setup.axes if axis.growable]:
        model = copy.deepcopy(setup.model)
        now = widen_(model, axis.name, 2, example=setup.example).axes
        wide = Setup(**{**vars(setup), "model": model, "axes": now})
        panel = RemovalPanel(wide, {find_axis(now, axis.name): 2})
        (losing,), values = panel.chosen({axis.name: 2})
        assert losing.removal.units.tolist() == [axis.size, axis.size + 1]
        assert (losing.gain, losing.predicted) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))
        edit = shrink_(model, now, [losing.removal], values(model), inputs=setup.example)
        assert edit.moved < 1e-10
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in setup.model.state_dict().items()
        }


def test_more_or_fewer_units_than_on_trial_are_judged_anew():
    setup = setup_of("mlp")
    panel = panel_of(setup, 3)
    before, name = panel.flops, panel.candidates[0].where
    (three,), _ = panel.chosen({name: 3})
    assert panel.flops == before > 0
    (one,), _ = panel.chosen({name: 1})
    assert panel.flops > before
    assert len(one.removal.units) == 1
    assert set(one.removal.units.tolist()) <= set(three.removal.units.tolist())
    assert one.predicted <= three.predicted


@every_net
def test_several_axes_go_in_one_edit_with_optimizer_and_averages(name):
    setup = setup_of(name)
    panel, model = panel_of(setup), setup.model
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    averaged = AveragedModel(model)
    with torch.no_grad():
        for parameter in averaged.module.parameters():
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    F.cross_entropy(model(setup.sample.a[0].inputs), setup.sample.a[0].target).backward()
    optimizer.step()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    chosen, values = panel.chosen({one.where: 2 for one in panel.candidates})
    removals, before = [one.removal for one in chosen], copy.deepcopy(averaged.module).eval()
    plain = shrink_(
        model, setup.axes, removals, values(model), inputs=setup.example, optimizer=optimizer, averages=[averaged]
    )
    loose = _moved(before, averaged.module, setup)
    plain.undo()
    edit = shrink_(
        model,
        setup.axes,
        removals,
        values(model),
        inputs=setup.example,
        optimizer=optimizer,
        averages=[averaged],
        own=[values(averaged.module)],
    )
    assert _moved(before, averaged.module, setup) < loose
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    assert {k: v.shape for k, v in averaged.module.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    edit.undo()
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert _moved(before, averaged.module, setup) == 0


def _moved(before, after, setup):
    pairs = [(outputs(before, b.inputs, False), outputs(after, b.inputs, False)) for b in setup.sample.a]
    return sum(float((one[0] - other[0]).square().mean()) for one, other in pairs)


def test_a_step_of_the_users_own_is_judged_by_batches():
    setup = setup_of("mlp")
    batches = [[Batch((b.inputs, b.target), None, b.size) for b in part] for part in (setup.sample.a, setup.sample.b)]
    step = StepLoss(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    own = RemovalPanel(
        Setup(**{**vars(setup), "sample": Sample(*batches), "objective": step}),
        {find_axis(setup.axes, "0"): 2},
    )
    assert len(losses(setup.model, batches[1], step).terms) == 2
    assert own.candidates[0].se > 0


@pytest.mark.parametrize("rows", [1, 3])
def test_losses_of_groups_are_those_of_their_examples(rows):
    """Also where an output has several rows for each example, beside what belongs to no example."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    objective = OutputLoss(lambda output, target: F.cross_entropy(output["logits"], target))
    step = nn.Module()
    step.forward = lambda x: {"logits": model(x).flatten(0, -2), "scale": torch.ones(7)}
    x, y = torch.randn(10, rows, 4).double(), torch.randint(3, (10 * rows,))
    found = losses(step, [Batch(x, y, 10)], objective)
    each = F.cross_entropy(model(x).flatten(0, -2), y, reduction="none").detach().view(10, rows).mean(1)
    assert torch.allclose(found.terms, each)
    assert found.mean == pytest.approx(float(each.mean()))


def test_what_cannot_lose_says_why():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
            self.c.weight, self.last, self.one = self.b.weight, nn.Linear(5, 1), nn.Linear(1, 2)

        def forward(self, x):
            x = self.a(x).relu()
            return self.one(self.last((self.b(x) + self.c(x)).relu()).relu())

    model, x = Tied(), torch.zeros(2, 4)
    found = axes(model, x)
    assert "another layer has too" in can_lose(model, find_axis(found, "a"))
    assert can_lose(model, find_axis(found, "b")) == ""
    assert can_lose(model, find_axis(found, "last")) == "it has one unit only"
    assert [axis.name for axis in losable(model, found, {"a": 1, "b": 4, "last": 1})] == ["b"]
    assert losable(model, found, {"b": 5}) == []
