"""Averages of the weights grow and shrink along with the network."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from net_cases import CASES
from optimizer_cases import X, layer, narrowed, old_entries, seed
from outgrow.errors import GrowthError
from outgrow.net.axes import axes, find_axis
from outgrow.net.carry import carry_average_
from outgrow.net.edit import Edit
from outgrow.net.enlargement import widen
from outgrow.net.setting import Setting
from outgrow.net.surgery import insert_
from outgrow.net.widening import Widening


def averaged_along(model: nn.Module, averaged: AveragedModel, example: Tensor) -> Edit:
    found = axes(model, example)
    edit = widen(model, found, [Widening(find_axis(found, "convnet.blocks.1.conv"), 2)])
    carry_average_(averaged, edit, {})
    return edit


def test_averages_grow_along():
    case = CASES["convnet"]
    model = case.model()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.update_parameters(model)
    old = {name: tensor.clone() for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    edit = averaged_along(model, averaged, case.example)
    now, live = averaged.module.state_dict(), model.state_dict()
    for name, (where, _) in old_entries(edit).items():
        assert torch.equal(now[name][where], old[name])
        new = torch.ones(now[name].shape, dtype=torch.bool)
        new[where] = False
        assert torch.equal(now[name][new], live[name][new])
    averaged.update_parameters(model)
    averaged(case.example)
    kept = {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    averaged_along(model, averaged, case.example).undo()
    assert kept == {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}


def test_averages_follow_removal():
    model = seed()
    averaged = AveragedModel(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.update_parameters(model)
    old = copy.deepcopy(averaged.module.state_dict())
    optimizer = torch.optim.SGD(model.parameters())
    edit = narrowed(model, [1], optimizer)
    carry_average_(averaged, edit, {})
    rest = [0, 2, 3]
    assert torch.equal(averaged.module[0].weight, old["0.weight"][rest])
    assert torch.equal(averaged.module[2].weight, old["2.weight"][:, rest])
    averaged.update_parameters(model)
    assert averaged(X).shape == (4, 2)
    edit.undo()
    assert all(torch.equal(averaged.module.state_dict()[name], tensor) for name, tensor in old.items())


def test_averages_follow_insertion():
    model = seed()
    averaged = AveragedModel(model, device="cpu")
    averaged.eval()
    layers = list(averaged.module)
    insertion = layer()
    edit = Edit("inserting", insertions=(insertion,), _undo=[insert_(model, insertion)])
    carry_average_(averaged, edit, {})
    assert not {id(p) for p in averaged.parameters()} & {id(p) for p in model.parameters()}
    assert torch.equal(averaged.module[3].weight, model[3].weight)
    assert not averaged.module[3].training
    with torch.no_grad():
        model[3].weight.add_(1.0)
    assert not torch.equal(averaged.module[3].weight, model[3].weight)
    averaged.update_parameters(model)
    averaged(X)
    edit.undo()
    assert list(averaged.module) == layers


@dataclass
class Config:
    heads: int


def test_averages_follow_settings():
    model = seed()
    model.config = Config(2)
    averaged = AveragedModel(model)
    edit = Edit("more heads", settings=(Setting("", "config.heads", 3),))
    carry_average_(averaged, edit, {})
    assert (model.config.heads, averaged.module.config.heads) == (2, 3)
    edit.undo()
    assert averaged.module.config.heads == 2


OTHER_MODELS = {
    "other names": (nn.ReLU(), "got none of this name"),
    "other shapes": (nn.Sequential(nn.Linear(3, 7)), r"got \[7, 3\]"),
}


@pytest.mark.parametrize(("other", "message"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_an_average_of_another_model_is_refused(other: nn.Module, message: str):
    model = seed()
    found = axes(model, X)
    edit = widen(model, found, [Widening(find_axis(found, "0"), 2)])
    shapes = [p.shape for p in other.parameters()]
    with pytest.raises(GrowthError, match=rf"expected an average of this model with 0\.weight \[4, 3\], {message}"):
        carry_average_(AveragedModel(other), edit, {})
    assert [p.shape for p in other.parameters()] == shapes
