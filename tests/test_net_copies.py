"""Copies that divide their parents' outgoing weights, and twins that cancel: the function is kept."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import outgrow
from copy_cases import (
    KEPT,
    KNOWN,
    able,
    axes_of_mlp,
    every_case,
    every_way,
    found_in,
    mlp,
    moved,
    seeded,
    some_cases,
)
from net_cases import CASES, IMAGE, ROW, block, noise
from outgrow.net.axes import axes, find_axis
from outgrow.net.edit import Change, Division
from outgrow.net.enlargement import widen
from outgrow.net.inits import divided, fresh, twins
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import apply_, widen_


@every_way
@every_case
def test_the_function_is_kept(name: str, way):
    model, inputs, found = found_in(name)
    assert {axis.name for axis in found if axis.growable} == KNOWN[name].growable.keys()
    choices = able(found, way)
    assert choices or name == "bilinear"
    for chosen in [*([axis] for axis in choices if len(choices) > 1), choices]:
        wider = copy.deepcopy(model)
        edit = widen(wider, found, [way(wider, axis, 5, seeded()) for axis in chosen])
        assert moved(model, wider, inputs) <= KEPT, [axis.name for axis in chosen]
    apply_(wider, edit.axes, [way(wider, axis, 3, seeded(1)) for axis in able(edit.axes, way)], inputs=inputs)
    assert moved(model, wider, inputs) <= KEPT


@every_case
def test_all_kinds_of_units_come_in_at_once(name: str):
    model, inputs, found = found_in(name)
    kinds = [divided, twins, fresh]
    for shift in range(3):
        wider = copy.deepcopy(model)
        chosen = [kinds[(i + shift) % 3](wider, axis, 4, seeded()) for i, axis in enumerate(able(found, twins))]
        widen(wider, found, chosen)
        assert moved(model, wider, inputs) <= KEPT


@every_way
@some_cases
def test_undo_puts_the_very_same_tensors_back(name: str, way):
    model, inputs, found = found_in(name)
    model = copy.deepcopy(model)
    averaged, optimizer = AveragedModel(model), torch.optim.AdamW(model.parameters())
    before = [(id(t), t.tolist()) for m in (model, averaged) for t in tensors_of(m).values()]
    widenings = [way(model, axis, 3, seeded()) for axis in able(found, way)]
    edit = apply_(model, found, widenings, inputs=inputs, optimizer=optimizer, averages=[averaged])
    edit.undo()
    assert [(id(t), t.tolist()) for m in (model, averaged) for t in tensors_of(m).values()] == before
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


# what comes in


def test_a_copy_takes_a_share_of_its_parent():
    model = mlp()
    rows, bias, columns = model[0].weight.clone(), model[0].bias.clone(), model[2].weight.clone()
    found = axes_of_mlp()
    widening = divided(model, find_axis(found, "0"), 6, seeded())
    apply_(model, found, [widening], inputs=ROW.double())
    parents, shares = widening.copies.parents, widening.copies.shares
    assert torch.equal(model[0].weight[4:], rows[parents])
    assert torch.equal(model[0].bias[4:], bias[parents])
    torch.testing.assert_close(model[2].weight[:, 4:], columns[:, parents] * shares, rtol=1e-12, atol=0)
    torch.testing.assert_close(model[2].weight[:, :4], columns * widening.copies.kept(4), rtol=1e-12, atol=0)


def test_between_two_the_shares_are_a_quarter_to_three_quarters():
    model, found = mlp(), axes_of_mlp()
    shares = [divided(model, find_axis(found, "0"), 1, seeded(i)).copies.shares.item() for i in range(200)]
    assert 0.25 <= min(shares) < 0.3
    assert 0.7 < max(shares) <= 0.75


def test_copies_of_two_layers_read_each_other():
    """New rows times new columns: a share of the parent's weight, as Net2Net has it, and no zero."""
    model = mlp()
    weight = model[2].weight.clone()
    found = axes_of_mlp()
    below, above = (divided(model, find_axis(found, name), 3, seeded()) for name in ("0", "2"))
    apply_(model, found, [below, above], inputs=ROW.double())
    expected = weight[above.copies.parents][:, below.copies.parents] * below.copies.shares
    torch.testing.assert_close(model[2].weight[5:, 4:], expected, rtol=1e-12, atol=0)
    assert all(bool((parameter != 0).all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "axis", "weight"), [("recurrent", "lstm", "lstm.weight_hh_l0"), ("shared", "side", "row.weight")]
)
def test_copies_that_read_each_other_through_their_own_layer(name, axis, weight):
    model, inputs, found = found_in(name)
    wider = copy.deepcopy(model)
    widen(wider, found, [divided(wider, find_axis(found, axis), 4, seeded())])
    assert moved(model, wider, inputs) <= KEPT
    assert bool((wider.get_parameter(weight) != 0).all())


def test_statistics_and_gains_are_copied():
    torch.manual_seed(0)
    model = nn.Sequential(block(3, 4), nn.Flatten(), nn.Linear(4 * 64, 2))
    model[0][1].running_mean.normal_()
    model[0][1].running_var.uniform_(0.5, 2)
    nn.init.normal_(model[0][1].weight)
    found = axes(model, IMAGE)
    widening = divided(model, find_axis(found, "0.0"), 3, seeded())
    apply_(model, found, [widening], inputs=IMAGE)
    for values in (model[0][1].weight, model[0][1].running_mean, model[0][1].running_var):
        assert torch.equal(values[4:], values[widening.copies.parents])


def test_twins_are_equal_and_read_with_opposite_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    widen_(model, "0", 5, example=IMAGE, init="twins", generator=seeded())
    columns = model[4].weight.view(2, 9, 36)[:, 4:].detach()
    for first in (4, 6):
        assert torch.equal(model[0].weight[first], model[0].weight[first + 1])
        assert torch.equal(model[0].bias[first], model[0].bias[first + 1])
        assert torch.equal(columns[:, first - 4], -columns[:, first - 3])
    assert not torch.equal(model[0].weight[4], model[0].weight[6])
    assert not columns[:, 4].any()
    bound = (9 * 36) ** -0.5  # the fan-in after widening
    assert 0.9 * bound < float(columns.abs().max()) <= bound


@pytest.mark.parametrize("init", ["net2net", "twins"])
def test_low_precision_rounds_and_no_more(init):
    model = copy.deepcopy(CASES["mlp"].model()).bfloat16()
    assert widen_(model, "mlp.hidden.1", 6, example=noise(4, 3, 2, 2).bfloat16(), init=init).moved <= 0.02


def test_parts_of_a_division():
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    division = Division(
        (torch.tensor([0, 1, -1]), torch.tensor([0, 1, 0])), (torch.ones(3), torch.tensor([0.25, 1, 0.75]))
    )
    made = Change("weight", old, torch.zeros(3, 3), (torch.arange(2), torch.arange(2)), division=division)
    assert made.repeat(old, 9.0).tolist() == [[0.25, 2, 0.75], [0.75, 4, 2.25], [9, 9, 9]]
    assert made.carry(old).tolist() == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]


def test_a_widening_that_was_drawn_comes_in_as_it_is():
    """Nothing is drawn when copies or twins come in: one generator, one network."""
    found = axes_of_mlp()
    for way in (divided, twins):
        made = way(mlp(), find_axis(found, "0"), 3, seeded())
        models = [mlp(), mlp()]
        for seed, model in enumerate(models):
            widen(model, found, [made], seeded(seed))
        assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_the_surface():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = noise(4, 3)
    before = model(x)
    for init in ("net2net", "twins"):
        outgrow.widen_(model, "0", 4, example=x, init=init)
        torch.testing.assert_close(model(x), before)
    assert model[2].in_features == 12
