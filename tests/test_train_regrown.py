"""A fresh model grows again to a saved one's sizes, and goes on as that would have."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Plan
from outgrow.train.grower import Grower


class Deepens:
    """Widens at its first look and inserts a block at its second."""

    def propose(self, now):
        if not now.history:
            return Plan(dict.fromkeys(now.sizes, 2), "wider", evidence="none")
        return Plan({}, "deeper", blocks=now.places()[:1], evidence="none") if len(now.history) == 1 else None

    def decide(self, now, candidates, present):
        raise AssertionError("nothing is on trial")


def fresh(policy=None, widths=(4, 5, 5, 3), averages=False, optimizer=torch.optim.AdamW):
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    model = nn.Sequential(*layers[:-2])
    made = optimizer(model.parameters(), lr=0.01)
    average = [AveragedModel(model)] if averages else []
    policy = policy or Proportional(price=-1.0, events=2)
    return (
        model,
        made,
        average,
        Grower(model, made, F.cross_entropy, torch.zeros(2, 4), policy=policy, averages=average),
    )


def rings(n=400):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :2].norm(dim=1) > 1.1).long()


def train(model, optimizer, average, steps):
    x, y = rings()
    model.train()
    for step in range(steps):
        at = torch.arange(40 * step, 40 * step + 40) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()
        for one in average:
            one.update_parameters(model)


@pytest.mark.parametrize("policy", [None, Deepens()], ids=["wider", "deeper"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_saved_loop_goes_on_bit_for_bit(policy, optimizer):
    def end(model, made, average, grower):
        train(model, made, average, 7)
        grower.check([rings()])
        train(model, made, average, 7)
        return [*model.state_dict().values(), *(t for one in average for t in one.state_dict().values())], grower

    model, made, average, grower = fresh(policy, averages=True, optimizer=optimizer)
    for _ in range(2):
        train(model, made, average, 7)
        grower.check([rings()])
    assert model[0].out_features > 5
    parts = (grower, model, made, *average)
    saved = copy.deepcopy([one.state_dict() for one in parts])
    wanted, _ = end(model, made, average, grower)

    model, made, average, grower = fresh(policy, averages=True, optimizer=optimizer)
    for one, state in zip((grower, model, made, *average), saved, strict=True):
        one.load_state_dict(state)
    found, _ = end(model, made, average, grower)
    assert all(map(torch.equal, wanted, found))


def test_what_grew_is_unset_until_weights_are_loaded():
    model, _, _, grower = fresh()
    grower.check([rings()])
    other, made, _, again = fresh()
    again.load_state_dict(grower.state_dict())
    assert other[0].out_features == model[0].out_features
    assert not other[0].weight.isfinite().any()
    assert {id(p) for group in made.param_groups for p in group["params"]} == set(map(id, other.parameters()))


def test_a_model_that_has_grown_already_stays_as_it_is():
    model, _, _, grower = fresh()
    grower.check([rings()])
    before = [*model.parameters()]
    grower.load_state_dict(grower.state_dict())
    assert all(map(torch.equal, before, model.parameters()))
    assert [*map(id, before)] == [*map(id, model.parameters())]


@pytest.mark.parametrize("widths", [(4, 5, 3), (4, 5, 5, 5, 3)], ids=["fewer layers", "more layers"])
def test_another_model_is_told(widths):
    _, _, _, grower = fresh()
    grower.check([rings()])
    with pytest.raises(InputError, match=r"expected the Sequential whose state was saved.*differs in"):
        fresh(widths=widths)[3].load_state_dict(grower.state_dict())


def test_a_seed_without_the_place_of_a_block_is_told():
    _, _, _, grower = fresh(Deepens())
    grower.check([rings()])
    grower.check([rings()])
    with pytest.raises(InputError, match="as it was before it grew"):
        fresh(widths=(4, 5, 3))[3].load_state_dict(grower.state_dict())


class Gated(nn.Module):
    """Has a buffer along its hidden axis that no state dict holds."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 3), nn.Linear(3, 2)
        self.register_buffer("gate", torch.tensor([1.0, 2.0, 4.0]), persistent=False)

    def forward(self, x):
        return self.out(self.hidden(x).relu() * self.gate)


class Turned(nn.Module):
    """Flattens its channels last, which one channel does not tell."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.second(self.first(x).relu()).relu().permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize(("make", "shape"), [(Gated, (4,)), (Turned, (1, 4, 4))])
def test_axes_and_buffers_that_no_state_dict_holds_are_those_that_had_grown(make, shape):
    def fresh():
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return model, Grower(model, optimizer, F.cross_entropy, torch.randn(1, *shape), policy=Widens())

    model, grower = fresh()
    grower.check([])
    other, again = fresh()
    again.load_state_dict(copy.deepcopy(grower.state_dict()))
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, *shape)
    assert torch.equal(other(x), model(x))
    one, two = (
        [(axis.name, axis.growable, [(m.tensor, m.dim, m.run) for m in axis.members]) for axis in each.axes]
        for each in (grower, again)
    )
    assert one == two


class Widens:
    """Widens its first axis."""

    def propose(self, now):
        return Plan({next(iter(now.sizes)): 2}, "wider", evidence="none")

    def decide(self, now, candidates, present):
        raise AssertionError("nothing is on trial")
