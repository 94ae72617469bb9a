"""The Grower: grows where that pays, never beyond its budget, in anyone's loop."""

import copy
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import EditError, InputError
from outgrow.grow.event import Event, Growth
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan
from outgrow.models.seed import Seed
from outgrow.net.axes import axes
from outgrow.net.cost import flops, parameters
from outgrow.net.widen import widen_
from outgrow.train import growing as growing_module
from outgrow.train.grower import Grower

LINE = re.compile(
    r"grew (\S+) (\d+) -> (\d+): gain \d+\.\d{4} \+- \d+\.\d{4} nats, realised -?\d+\.\d{4}, \+([\d,]+) parameters"
)


def mlp(*widths):
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def rings(n=600, seed=0, dtype=torch.float32):
    """Three classes by radius: two units can't tell them apart."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    radius = x[:, :2].norm(dim=1)
    return x, (radius > 0.9).long() + (radius > 1.5).long()


def train(model, optimizer, x, y, steps, loss=F.cross_entropy):
    model.train()
    for i in range(steps):
        at = torch.arange(i * 50, i * 50 + 50) % len(x)
        optimizer.zero_grad()
        loss(model(x[at]), y[at]).backward()
        optimizer.step()


def trained(seed=0, steps=60, widths=(4, 3, 3, 3), **kwargs):
    torch.manual_seed(seed)
    model, (x, y) = mlp(*widths), rings()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, y, steps)
    return model, optimizer, x, y, Grower(model, optimizer, F.cross_entropy, x[:1], **kwargs)


def test_on_noise_nothing_pays():
    grown = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        nn.init.zeros_(model[2].weight)  # the best there is already
        nn.init.zeros_(model[2].bias)
        x, y = torch.randn(1000, 4), torch.randn(1000, 1)
        event = Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.mse_loss, x[:1], seed=seed).check([(x, y)])
        assert all(candidate.gain < 0.02 for candidate in event.candidates)
        grown += bool(event.growths)
    assert grown <= 1  # two standard errors are exceeded by chance once in 44 times


@pytest.mark.parametrize("seed", range(3))
def test_it_grows_and_gain_agrees_with_realised(seed):
    model, _, x, y, grower = trained(seed, max_params=200, policy=Proportional(price=-1.0))
    before = parameters(model)
    event = grower.check([(x, y)])
    assert event.growths
    assert event.params_before == before
    assert event.params_after == parameters(model) <= 200
    assert sum(growth.params for growth in event.growths) == event.params_after - event.params_before
    for growth in event.growths:
        assert growth.realised == pytest.approx(growth.gain, abs=0.5 * growth.gain + 2 * growth.se)
        assert growth.moved < 1e-5
        assert grower.sizes[growth.where] == growth.size_after == growth.size_before + growth.units
    assert event.seconds > 0
    assert event.flops > 0
    assert grower.flops == flops(model, x[:1])
    assert grower.history == [event]
    lines = str(event).split("\n")
    assert len(lines) == len(event.growths)
    assert all(LINE.fullmatch(line) for line in lines)


@pytest.mark.parametrize("budget", [39, 40, 46, 47, 48, 60, 75, 100])
def test_the_budget_is_never_exceeded(budget):
    model, _, x, y, grower = trained(max_params=budget)
    for _ in range(8):
        event = grower.check([(x, y)])
        assert event.params_after == parameters(model) <= grower.budget.max_params
    if budget < 46:  # less than one unit more
        assert str(event).startswith("no growth: ")


def test_the_printed_line_of_the_readme():
    growth = Growth("widen", "layer2.conv1", 8, 24, 32, 0.021, 0.003, 0.02, 0.0, 1152)
    event = Event(1, 0.1, (), (growth,), 100, 1252, "due", 0.1, 10)
    assert str(event) == ("grew layer2.conv1 24 -> 32: gain 0.0210 +- 0.0030 nats, realised 0.0200, +1,152 parameters")


def test_the_same_seed_gives_the_same_event():
    model, _, x, y, _ = trained()
    events, nets = [], []
    for seed in (0, 0, 1):
        copied = copy.deepcopy(model)
        torch.rand(7)  # the global random state plays no part
        grower = Grower(copied, torch.optim.SGD(copied.parameters(), 0.1), F.cross_entropy, x[:1], seed=seed)
        record = grower.check([(x, y)]).to_json()
        events.append({key: value for key, value in record.items() if key != "seconds"})
        nets.append(copied.state_dict())
    assert events[0] == events[1] != events[2]
    assert all(torch.equal(a, b) for a, b in zip(nets[0].values(), nets[1].values(), strict=True))


def test_what_cannot_be_grown_is_said_at_once():
    model, x = mlp(4, 3, 3), torch.zeros(1, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(InputError, match=r"one of random, closed.*'best'|'best'.*one of random, closed"):
        Grower(model, optimizer, F.cross_entropy, x, proposal="best")
    with pytest.raises(InputError, match="the budget of 10 parameters is below the seed's 27"):
        Grower(model, optimizer, F.cross_entropy, x, max_params=10)
    with pytest.raises(InputError, match="the optimizer has none of the model's parameters"):
        Grower(copy.deepcopy(model), optimizer, F.cross_entropy, x)
    with pytest.raises(InputError, match="nothing of Linear can grow"):
        Grower(nn.Linear(4, 2), optimizer, F.cross_entropy, x)
    with pytest.raises(InputError):
        Grower(model, optimizer, F.cross_entropy, torch.zeros(1, 5))


def test_an_edit_by_somebody_else_is_told():
    model, x = mlp(4, 3, 3), torch.zeros(1, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    axis = next(axis.name for axis in axes(model, x) if axis.growable)
    widen_(model, axis, 2, example=x)
    with pytest.raises(InputError, match=r"lacks 3 of the .* and has 3 that .* pass edits optimizer="):
        Grower(model, optimizer, F.cross_entropy, x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grower = Grower(model, optimizer, F.cross_entropy, x)
    widen_(model, axis, 1, example=x, optimizer=optimizer)
    with pytest.raises(InputError, match=r"somebody else has edited Sequential since .* make another Grower"):
        grower.check([(torch.randn(64, 4), torch.randint(3, (64,)))])
    widen_(model, axis, 1, example=x)
    with pytest.raises(InputError, match=r"the optimizer lacks 3"):
        grower.check([])


def test_exactly_one_of_loss_and_step():
    model, x = mlp(4, 3, 3), torch.zeros(1, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(InputError, match="received both: pass None as the loss"):
        Grower(model, optimizer, F.cross_entropy, x, step=lambda model, batch: model(batch).mean())
    with pytest.raises(InputError, match=r"None and step=step\(model, batch\), each returning the mean loss"):
        Grower(model, optimizer, None, x)
    grower = Grower(model, optimizer, F.cross_entropy, x)
    with pytest.raises(InputError, match="pairs, received str"):
        grower.check(["some", "strings"])


@pytest.mark.parametrize("loss", [F.l1_loss, lambda z, y: F.huber_loss(z, y, delta=0.1)])
def test_losses_of_straight_lines_grow_and_gain_no_more_than_realised(loss):
    torch.manual_seed(0)
    x = torch.randn(2000, 4)
    y = x[:, :2].prod(1, keepdim=True).tanh() + x[:, 2:3].abs() + 0.1 * torch.randn(2000, 1)
    model = mlp(4, 4, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, y, 80, loss)
    growths = Grower(model, optimizer, loss, x[:1], max_params=200).check([(x, y)]).growths
    assert growths
    for growth in growths:
        assert growth.gain > growth.se > 0
        assert 0.8 < growth.realised / growth.gain < 2.5


def test_autocast_changes_nothing_in_a_check():
    events = []
    for enabled in (False, True):
        _, _, x, y, grower = trained()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            events.append(grower.check([(x, y)]))
    assert events[0].growths == events[1].growths
    assert events[0].candidates == events[1].candidates


@pytest.mark.parametrize("options", [{"fisher": "empirical"}, {"convention": "reduce"}])
def test_other_factors_only_where_asked_for(options):
    scores = []
    for chosen in ({}, options):
        _, _, x, y, grower = trained(policy=Every(2, 2), **chosen)
        scores.append([candidate.score for candidate in grower.check([(x, y)]).candidates])
    assert (scores[0] == scores[1]) == ("convention" in options)  # one position: the conventions are one
    with pytest.raises(InputError, match="choose one of"):
        trained(**dict.fromkeys(options, "other"))


def test_outputs_may_be_any_nest_of_tensors():
    class Answers(nn.Sequential):
        def forward(self, x):
            return {"logits": super().forward(x), "features": (x, "a name"), "none": None}

    events = []
    for build, loss in ((nn.Sequential, F.cross_entropy), (Answers, lambda z, y: F.cross_entropy(z["logits"], y))):
        torch.manual_seed(0)
        x, y = rings(200)
        model = build(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
        events.append(Grower(model, torch.optim.SGD(model.parameters(), 0.1), loss, x[:1]).check([(x, y)]))
    assert events[0].candidates == events[1].candidates


def test_models_and_losses_that_a_check_can_not_read_are_named():
    x, y = rings(50)
    model = mlp(4, 3, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grower = Grower(model, optimizer, nn.CrossEntropyLoss(reduction="none"), x[:1])
    with pytest.raises(InputError, match="one number, received shape"):
        grower.check([(x, y)])
    with pytest.raises(InputError, match="pairs, received Tensor"):
        grower.check([x])
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no longer finite"):
        grower.check([(x, y)])


class Every:
    """A policy of a user's own: so many units on each axis, always."""

    def __init__(self, offer, take):
        self.offer, self.take, self.seen = offer, take, []

    def propose(self, now):
        return Plan(dict.fromkeys(now.sizes, self.offer), "always")

    def decide(self, now, candidates, present):
        after = now.cost_with({c.where: self.take for c in candidates})
        self.seen.append((now, tuple(candidates), present, after))
        return Decision({c.where: self.take for c in candidates}, "all")


def test_a_policy_of_the_users_own_sees_and_decides():
    policy = Every(3, 2)
    model, _, x, y, grower = trained(policy=policy)
    event = grower.check([(x, y)], progress=0.25)
    now, candidates, present, after = policy.seen[0]
    assert now.cost.params == event.params_before
    assert now.progress == 0.25
    assert (after.params, after.flops) == (event.params_after, grower.flops)
    assert candidates == event.candidates
    assert present.gain == event.gain_now > 0
    assert [growth.units for growth in event.growths] == [2, 2]
    assert (model[0].out_features, model[2].in_features, model[2].out_features) == (5, 5, 5)
    assert event.reason == "all"


def test_nothing_happens_while_the_policy_waits():
    model, _, _, _, grower = trained(policy=Proportional(events=4, share=0.4))

    def untouched():
        raise AssertionError("the loader was read")
        yield

    before = copy.deepcopy(model.state_dict())
    assert grower.check(untouched(), progress=0.05).event == 0
    assert grower.history == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_axis_whose_edit_fails_is_frozen_and_the_run_goes_on(monkeypatch):
    model, optimizer, x, y, grower = trained(policy=Every(2, 2))
    original = growing_module.apply_

    def stubborn(model, found, widenings, **kwargs):
        if any(widening.axis.name == "0" for widening in widenings):
            raise EditError("axis 0 won't")
        return original(model, found, widenings, **kwargs)

    monkeypatch.setattr(growing_module, "apply_", stubborn)
    event = grower.check([(x, y)])
    assert [growth.where for growth in event.growths] == ["2"]
    assert (model[0].out_features, model[2].out_features) == (3, 5)
    assert event.params_after - event.params_before == event.growths[0].params
    frozen = next(axis for axis in grower.axes if axis.name == "0")
    assert (frozen.growable, frozen.reason) == (False, "axis 0 won't")
    train(model, optimizer, x, y, 3)
    assert [c.where for c in grower.check([(x, y)]).candidates] == ["2"]


@pytest.mark.parametrize("proposal", ["random", "closed"])
@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), torch.optim.Adam, torch.optim.AdamW]
)
def test_optimizers_and_averages_follow(make, proposal):
    torch.manual_seed(0)
    model, (x, y) = mlp(4, 3, 3, 3), rings()
    optimizer, average = make(model.parameters()), AveragedModel(model)
    train(model, optimizer, x, y, 10)
    average.update_parameters(model)
    saved = []
    grower = Grower(
        model,
        optimizer,
        F.cross_entropy,
        x[:1],
        policy=Every(2, 2),
        proposal=proposal,
        averages=[average],
        before_growth=lambda verdict: saved.append(parameters(model)),
    )
    old = average.module[0].weight.clone()
    event = grower.check([[x, y]])
    assert saved == [event.params_before]
    assert {id(p) for p in model.parameters()} == {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert all(
        value.shape == parameter.shape
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    )
    assert torch.equal(average.module[0].weight[:3], old)
    assert average.module(x).shape == (600, 3)
    train(model, optimizer, x, y, 5)
    average.update_parameters(model)


def test_a_plain_loop():
    losses = []
    for seed in range(4):
        torch.manual_seed(seed)
        x, y = rings(1000)
        model = mlp(4, 2, 3)
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        grower = Grower(model, optimizer, F.cross_entropy, example=x[:1], max_params=150, seed=seed)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 50, shuffle=True)
        for _ in range(6):
            for inputs, targets in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            grower.check(loader)
        assert 40 < parameters(model) <= 150
        losses.append(float(F.cross_entropy(model(x), y).detach()))
    assert sum(losses) / 4 < 0.6


def test_double_precision_train_mode_buffers_and_gradients_survive_a_check():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(3, 3)
    ).double()
    x, y = rings(dtype=torch.float64)
    grower = Grower(model, torch.optim.Adam(model.parameters()), F.cross_entropy, x[:1], policy=Every(2, 2))
    model.train()
    model[1].eval()
    F.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(dict(model[1].named_buffers()))
    with torch.no_grad():
        event = grower.check([(x, y)])
    assert event.growths
    assert model.training
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    for key in ("running_mean", "running_var"):
        assert torch.equal(getattr(model[1], key)[:3], before[key])
    assert event.growths[0].moved < 1e-12


@pytest.mark.parametrize("kind", ["convnet", "resnet"])
@pytest.mark.parametrize("proposal", ["random", "closed"])
def test_seed_networks_on_images_grow(kind, proposal):
    torch.manual_seed(0)
    seed = Seed(kind, (1, 8, 8), 3, (2, 2))
    model = seed.build()
    x = torch.randn(200, 1, 8, 8)
    y = (x[:, 0, :4].mean((1, 2)) > 0).long() + (x[:, 0, 4:].mean((1, 2)) > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    train(model, optimizer, x, y, 5)
    grower = Grower(
        model, optimizer, F.cross_entropy, seed.example(), policy=Every(2, 2), proposal=proposal, sample=100
    )
    event = grower.check([(x, y)])
    assert len(event.growths) == len(grower.sizes) >= 2
    assert all(growth.moved < 1e-5 for growth in event.growths)
    train(model, optimizer, x, y, 2)


def test_outputs_without_a_class_dimension_are_judged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0))
    x, _ = rings()
    y = (x[:, 0] * x[:, 1] > 0).float()
    loss = F.binary_cross_entropy_with_logits
    event = Grower(model, torch.optim.SGD(model.parameters(), 0.1), loss, x[:1], policy=Every(2, 2)).check([(x, y)])
    assert event.growths[0].se > 0


def test_what_is_told_to_a_check_may_be_a_number_of_any_kind():
    _, _, x, y, grower = trained()
    loss = F.cross_entropy(grower.model(x), y)
    event = grower.check([(x, y)], progress=torch.tensor(0.25), epoch=np.float32(2), held_out=loss)
    assert json.loads(json.dumps(event.to_json()))["held_out"] == pytest.approx(loss.item())
    assert (type(event.progress), type(event.epoch), type(event.held_out)) == (float, float, float)


@pytest.mark.parametrize("policy", ["senn", Every])
def test_what_is_no_policy_is_told_at_once(policy):
    model = mlp(4, 3, 3)
    with pytest.raises(InputError, match=r"expected a policy such as outgrow.Proportional"):
        Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.cross_entropy, torch.zeros(1, 4), policy=policy)
