"""Groups of an optimizer keep their options, and new parameters join that of those they are like."""

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import outgrow
from optimizer_cases import CLOSE, every_edit, gradient, inserted, layer, seed, steps, widened
from optimizer_snapshot import everything_in
from outgrow.errors import GrowthError


def test_groups_keep_their_options_and_parameters():
    model = seed()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[0].weight, model[2].weight], "lr": 0.1, "betas": (0.5, 0.7)},
            {"params": [model[0].bias], "weight_decay": 0.0},
            {"params": [*model[4].parameters(), model[2].bias]},
        ],
        lr=0.01,
    )
    steps(model, optimizer, 0, 2)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    widened(model, "0", 2, optimizer)
    assert options == [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in group]
        for group in ([model[0].weight, model[2].weight], [model[0].bias], [*model[4].parameters(), model[2].bias])
    ]
    assert set(map(id, optimizer.state)) == set(map(id, model.parameters()))
    newborns = [(nn.Parameter(model[0].weight.detach()[4:]), 0), (nn.Parameter(model[0].bias.detach()[4:]), 1)]
    alone = torch.optim.AdamW([{**options[at], "params": [newborn]} for newborn, at in newborns])
    for at in range(2, 9):
        steps(model, optimizer, at, at + 1)
        newborns[0][0].grad, newborns[1][0].grad = gradient((6, 3), at)[4:], gradient((6,), at)[4:]
        alone.step()
    torch.testing.assert_close(model[0].weight[4:], newborns[0][0], **CLOSE)
    torch.testing.assert_close(model[0].bias[4:], newborns[1][0], **CLOSE)


def test_an_optimizer_of_some_parameters():
    model = seed()
    optimizer = torch.optim.Adam(model[4].parameters())
    with pytest.warns(UserWarning, match="Adam does not train 0.weight, 0.bias, 2.weight, which") as told:
        outgrow.widen_(model, "0", 2, example=torch.zeros(1, 3).double(), optimizer=optimizer)
    assert told[0].filename == __file__
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[4].parameters()]


@every_edit
def test_an_optimizer_of_another_model_is_refused_and_nothing_has_changed(edit):
    model = seed()
    optimizer = torch.optim.Adam(seed().parameters())
    before, layers = [id(p) for p in model.parameters()], list(model)
    held = everything_in(optimizer)
    with pytest.raises(
        GrowthError, match="expected an optimizer of this model, got Adam with 6 other parameters; pass"
    ):
        edit(model, optimizer)
    assert [id(p) for p in model.parameters()] == before
    assert list(model) == layers
    assert everything_in(optimizer) == held


def decayed_and_not(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )


def test_new_parameters_join_the_groups_of_those_that_they_are_like():
    model = seed()
    optimizer = decayed_and_not(model)
    steps(model, optimizer, 0, 2)
    before = everything_in(optimizer)
    edit = inserted(model, layer(**{"0_weight": "2.weight", "0_bias": "2.bias"}), optimizer)
    fresh = decayed_and_not(model)  # in the order in which an optimizer of the grown model would have them
    ids = [[[id(p) for p in group["params"]] for group in each.param_groups] for each in (optimizer, fresh)]
    assert ids[0] == ids[1]
    fresh.load_state_dict(optimizer.state_dict())
    steps(model, optimizer, 2, 3)
    assert int(optimizer.state[model[3].weight]["step"]) == 1
    edit.undo()
    assert [group["params"] for group in decayed_and_not(model).param_groups] == [
        group["params"] for group in optimizer.param_groups
    ]
    assert [(p, s) for p, s, _ in everything_in(optimizer)[1]] == [(p, s) for p, s, _ in before[1]]


def test_a_new_parameter_that_is_like_none_joins_the_largest_group():
    model = seed()
    optimizer = decayed_and_not(model)
    inserted(model, layer(), optimizer)
    assert {id(p) for p in model[3].parameters()} <= {id(p) for p in optimizer.param_groups[0]["params"]}


def test_a_new_parameter_that_is_like_a_frozen_one_is_trained():
    model = seed()
    model[2].requires_grad_(False)
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    inserted(model, layer(**{"0_weight": "2.weight", "0_bias": "2.bias"}), optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters() if p.requires_grad
    ]


def test_frozen_and_tied_new_parameters_stay_out():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    insertion = layer()
    insertion.modules[0].weight = nn.Parameter(torch.eye(3).double(), requires_grad=False)
    insertion.modules[0].bias = model[2].bias
    inserted(model, insertion, optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters() if p.requires_grad
    ]


def test_a_new_parameter_that_is_like_nothing_there():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(GrowthError, match=r"expected a parameter of the model that a new one is like, got '9\.weight'"):
        inserted(model, layer(**{"0_weight": "9.weight"}), optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


@every_edit
def test_names_that_an_optimizer_keeps_follow(edit):
    model = seed()
    optimizer = torch.optim.Adam([("mine", model[0].weight), *list(model.named_parameters())[1:]])
    if "param_names" not in optimizer.param_groups[0]:
        pytest.skip("this torch keeps no names")
    before = list(optimizer.param_groups[0]["param_names"])
    done = edit(model, optimizer)
    assert optimizer.param_groups[0]["param_names"] == ["mine", *list(dict(model.named_parameters()))[1:]]
    done.undo()
    assert optimizer.param_groups[0]["param_names"] == before
