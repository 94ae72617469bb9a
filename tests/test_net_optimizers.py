"""Several optimizers that share a model follow an edit as one would."""

import copy
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR

from net_cases import noise
from optimizer_cases import every_edit, gradient, inserted, layer, seed, widened
from optimizer_snapshot import everything_in
from outgrow.errors import GrowthError, InputError
from outgrow.grow.policy import Plan
from outgrow.net.deepen import deepen_
from outgrow.net.optimizers import each_of, owned_by
from outgrow.net.remove import remove_
from outgrow.net.widen import widen_
from outgrow.train.grower import Grower

if not hasattr(torch.optim, "Muon"):
    pytest.skip("this torch has no Muon", allow_module_level=True)


def steps(model: nn.Module, optimizers: Iterable[Optimizer], start: int, stop: int) -> None:
    for at in range(start, stop):
        for parameter in model.parameters():
            parameter.grad = gradient(parameter.shape, at).to(parameter.dtype)
        for optimizer in optimizers:
            optimizer.step()


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def others(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim != 2]


def muon_and_adamw(model: nn.Module) -> list[Optimizer]:
    return [torch.optim.Muon(matrices(model), lr=0.01), torch.optim.AdamW(others(model), lr=0.01)]


def trained(optimizers: Iterable[Optimizer]) -> list[list[int]]:
    return [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]


@every_edit
def test_two_optimizers_do_what_one_with_two_groups_does(edit):
    one, two = seed(), seed()
    alone = [torch.optim.Adam([{"params": matrices(one), "lr": 0.02}, {"params": others(one)}], lr=0.01)]
    pair = [torch.optim.Adam(matrices(two), lr=0.02), torch.optim.Adam(others(two), lr=0.01)]
    for model, optimizers in ((one, alone), (two, pair)):
        steps(model, optimizers, 0, 3)
        torch.manual_seed(1)
        edit(model, optimizers)
        steps(model, optimizers, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@every_edit
def test_undoing_puts_every_optimizer_back(edit):
    model = seed()
    optimizers = muon_and_adamw(model)
    steps(model, optimizers, 0, 2)
    before = [everything_in(optimizer) for optimizer in optimizers]
    edit(model, optimizers).undo()
    assert [everything_in(optimizer) for optimizer in optimizers] == before


def test_new_parameters_join_the_optimizers_of_those_that_they_are_like():
    model = seed()
    optimizers = muon_and_adamw(model)
    inserted(model, layer(**{"0_weight": "2.weight", "0_bias": "2.bias"}), optimizers)
    assert trained(optimizers) == trained(muon_and_adamw(model))


def test_a_new_parameter_that_is_like_none_joins_the_largest_group_that_can_train_it():
    model = seed()
    optimizers = muon_and_adamw(model)
    inserted(model, layer(), optimizers)
    held = trained(optimizers)
    assert id(model[3].weight) in held[0]
    assert id(model[3].bias) in held[1]


def test_a_new_parameter_that_is_like_one_of_an_optimizer_that_is_not_given_stays_out():
    model = seed()
    optimizers = [torch.optim.SGD(part.parameters()) for part in (model[:2], model[2:])]
    inserted(model, layer(**{"0_weight": "0.weight", "0_bias": "4.bias"}), optimizers[0])
    assert [id(p) for p in optimizers[0].param_groups[0]["params"]] == [
        id(p) for p in (*model[0].parameters(), model[3].weight)
    ]


@pytest.mark.parametrize("edit", [lambda m, o: widened(m, "0", 2, o), lambda m, o: inserted(m, layer(), o)])
def test_where_one_is_of_another_model_nothing_has_changed(edit):
    model = seed()
    optimizers = [torch.optim.SGD(model.parameters()), torch.optim.Adam(seed().parameters())]
    before = [id(p) for p in model.parameters()], [everything_in(optimizer) for optimizer in optimizers]
    with pytest.raises(GrowthError, match="expected an optimizer of this model, got Adam with 6 other parameters"):
        edit(model, optimizers)
    assert ([id(p) for p in model.parameters()], [everything_in(optimizer) for optimizer in optimizers]) == before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [("adam", "got str"), ([1, "a"], "got list of int, str"), ({}, "got dict"), (iter([]), "got list_iterator")],
)
def test_what_is_no_optimizer(wrong, told):
    with pytest.raises(GrowthError, match=f"optimizer: expected a torch.optim.Optimizer, or several in a list, {told}"):
        each_of(wrong)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


def residual() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Sequential(Block()), nn.Linear(6, 3))


def test_muon_and_adamw_follow_every_edit_by_hand():
    torch.manual_seed(0)
    model, x = residual(), noise(8, 4)
    optimizers = muon_and_adamw(model)
    steps(model, optimizers, 0, 2)
    widen_(model, "1.0.up", 2, example=x, optimizer=optimizers)
    deepen_(model, "1", example=x, optimizer=optimizers)
    remove_(model, "1.0.up", [0], example=x, optimizer=optimizers)
    assert trained(optimizers) == trained(muon_and_adamw(model))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    steps(model, optimizers, 2, 4)
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


class InTurn:
    """One more unit everywhere, then one more block."""

    def propose(self, now):
        if now.sizes["1.0.up"] == 5:
            return Plan(dict.fromkeys(now.sizes, 1), "units first", evidence="none")
        return Plan({}, "blocks then", blocks=("1.0",), evidence="none")


def fresh():
    torch.manual_seed(0)
    model, x = residual(), noise(300, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    optimizers = muon_and_adamw(model)
    grower = Grower(model, optimizers, F.cross_entropy, x[:2], policy=InTurn())
    return model, optimizers, grower, x, y


def test_a_grower_with_two_optimizers_grows_is_saved_and_goes_on():
    model, optimizers, grower, x, y = fresh()
    schedules = [LinearLR(optimizer) for optimizer in optimizers]
    for kind in ("widen", "insert"):
        steps(model, optimizers, 0, 2)
        assert [growth.kind for growth in grower.check([(x, y)]).growths] == [kind]
    assert trained(optimizers) == trained(muon_and_adamw(model))
    for schedule in schedules:
        schedule.step()
    again, held, other, *_ = fresh()
    other.load_state_dict(grower.state_dict())
    again.load_state_dict(model.state_dict())
    for ours, theirs in zip(held, optimizers, strict=True):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for one, few in ((model, optimizers), (again, held)):
        steps(one, few, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert owned_by(held) == {id(parameter) for parameter in again.parameters()}


@pytest.mark.parametrize(
    ("optimizers", "told"),
    [
        (
            lambda m: [torch.optim.Adam(m.parameters()), torch.optim.SGD(seed().parameters())],
            r"optimizer 2 \(SGD\) has none",
        ),
        (lambda m: [], "expected the optimizer that trains the model, or several in a list, got none"),
        (lambda m: None, "expected the optimizer that trains the model, or several in a list, got none"),
        (lambda m: torch.optim.SGD, "got type"),
    ],
)
def test_a_grower_refuses_what_does_not_train_its_model(optimizers, told):
    model = residual()
    with pytest.raises(InputError, match=told):
        Grower(model, optimizers(model), F.cross_entropy, noise(2, 4))
