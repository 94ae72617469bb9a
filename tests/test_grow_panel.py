"""Panels: what candidates say is what happens when they are applied."""

import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow.block_panel import BlockPanel
from outgrow.grow.gain import KEPT, joint, judge, mean_loss, realised
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch, Sample
from outgrow.grow.setup import Setup
from outgrow.grow.trial import can_try
from outgrow.grow.unit_panel import UnitPanel
from outgrow.models.seed import Seed
from outgrow.net.axes import axes
from outgrow.net.cost import flops, flops_by_weight, parameters
from outgrow.net.deepen import insert_block_, late_first
from outgrow.net.places import places
from outgrow.net.widen import apply_
from outgrow.net.widening import Widening


def mlp():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Flatten(), nn.Linear(12, 3))


NETS = {
    "mlp": (mlp, (4,)),
    "convnet": (lambda: Seed("convnet", (1, 6, 6), 3, (3, 4)).build(), (1, 6, 6)),
    "resnet": (lambda: Seed("resnet", (1, 6, 6), 3, (3, 4)).build(), (1, 6, 6)),
    "pre-norm": (encoder, (3, 4)),
}
WITH_PLACES = [name for name in NETS if name != "convnet"]


def target_of(x):
    """Three classes by how much a quarter of an example's numbers stand out."""
    size = x.flatten(1)[:, : max(x[0].numel() // 4, 2)].square().mean(1)
    return (size > 0.6).long() + (size > 1.2).long()


@cache
def trained(name, n):
    """A network in training, a little trained, its data, axes, places and FLOPs."""
    build, shape = NETS[name]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(2 * n, *shape).double()
    y = target_of(x)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    found = [replace(a, growable=not why, reason=why) for a in axes(model, x[:2]) for why in [can_try(model, a)]]
    there = [place for place in places(model, x[:2]) if place.growable]
    counts = {key: count // 2 for key, count in flops_by_weight(model, x[:2]).items()}
    return model, x, y, found, there, counts


def setup_of(name, n=120, seed=0, **kwargs):
    """What a check of a small network goes by, with two batches of each part."""
    model, x, y, found, there, counts = trained(name, n)
    pieces = [slice(start, start + n // 2) for start in range(0, 2 * n, n // 2)]
    batches = [Batch(x[piece], y[piece], n // 2) for piece in pieces]
    return Setup(
        model=copy.deepcopy(model),
        axes=found,
        places=there,
        counts=counts,
        sample=Sample(batches[:2], batches[2:]),
        objective=OutputLoss(F.cross_entropy),
        example=x[:2],
        generator=torch.Generator().manual_seed(seed),
        **kwargs,
    )


def unit_panel(setup, count=2):
    return UnitPanel(setup, {axis: count for axis in setup.axes if axis.growable})


def cost_of(model, example):
    return parameters(model), flops(model, example) // len(example)


@pytest.mark.parametrize("proposal", ["random", "closed"])
@pytest.mark.parametrize("name", NETS)
def test_units_cost_what_applying_them_adds(name, proposal):
    setup = setup_of(name, proposal=proposal)
    panel = unit_panel(setup)
    assert len(panel.candidates) == len([axis for axis in setup.axes if axis.growable]) > 0
    before = cost_of(setup.model, setup.example)
    for candidate in panel.candidates:
        (units,), _ = panel.chosen({candidate.where: 2})
        edit = apply_(setup.model, setup.axes, [units.widening], inputs=setup.example, generator=setup.generator)
        after = cost_of(setup.model, setup.example)
        assert (candidate.params, candidate.flops) == (after[0] - before[0], after[1] - before[1])
        edit.undo()


@pytest.mark.parametrize("name", WITH_PLACES)
def test_blocks_cost_what_inserting_them_adds(name):
    found = setup_of(name).places
    assert found
    for i in range(len(found)):
        setup = setup_of(name)
        panel, before = BlockPanel(setup, setup.places), cost_of(setup.model, setup.example)
        candidate = panel.candidates[i]
        (block,) = panel.chosen([candidate.where])
        insert_block_(setup.model, block.insertion, example=setup.example)
        after = cost_of(setup.model, setup.example)
        assert (candidate.params, candidate.flops) == (after[0] - before[0], after[1] - before[1])
        assert block.params == candidate.params


@pytest.mark.parametrize("name", NETS)
def test_candidates_keep_what_they_promise_on_part_b(name):
    setup = setup_of(name)
    panel = unit_panel(setup)
    assert 0 <= panel.present.gain <= panel.judgement.alone(0).gain * (1 + 1e-12)
    for i, candidate in enumerate(panel.candidates, 1):
        assert (candidate.kind, candidate.units) == ("widen", 2)
        assert candidate.gain <= panel.judgement.beyond(i).gain * (1 + 1e-12)
        assert (candidate.alone, candidate.alone_se) == (panel.judgement.alone(i).gain, panel.judgement.alone(i).se)
        assert panel.drop(candidate.where, setup.sample.b) == pytest.approx(candidate.realised, abs=1e-12)
        assert candidate.realised >= KEPT * candidate.gain
        assert 0 <= candidate.bound <= candidate.score * (1 + 1e-9)


def test_the_drop_on_other_examples_is_that_of_the_same_step():
    setup = setup_of("mlp")
    panel = unit_panel(setup)
    for candidate, worth in zip(panel.candidates, panel._judged.worths, strict=True):
        trial = panel._trial.model
        moved = copy.deepcopy(trial)
        with torch.no_grad():
            for key, value in worth.tangent.items():
                moved.get_parameter(key).add_(worth.gain.step * value)
        batches = setup.sample.a
        before, after = (mean_loss(model, batches, setup.objective) for model in (trial, moved))
        assert panel.drop(candidate.where, batches) == pytest.approx(before - after, abs=1e-12)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_fewer_units_than_on_trial_are_judged_anew(name):
    setup = setup_of(name, n=600)
    panel = unit_panel(setup, 4)
    axis = max(panel.candidates, key=lambda candidate: candidate.gain).where
    offered, cost = {candidate.where: candidate for candidate in panel.candidates}, panel.flops
    (units,), _ = panel.chosen({axis: 1})
    assert panel.flops > cost
    tangent = panel._trial.scored(axis, 1)[2]
    directions = [panel._trial.present_step(), tangent]
    exact = judge(panel._trial.model, directions, setup.sample.b, setup.objective).beyond(1)
    assert units.widening.units == 1
    assert units.gain.gain != offered[axis].gain
    assert units.gain.gain == pytest.approx(exact.gain, rel=0.3, abs=2 * exact.se)  # its curvatures are drawn
    assert units.realised >= KEPT * units.gain.gain


def test_all_units_on_trial_are_not_judged_again():
    setup = setup_of("mlp")
    panel = unit_panel(setup)
    offered, cost = {candidate.where: candidate for candidate in panel.candidates}, panel.flops
    names = [candidate.where for candidate in panel.candidates]
    for chosen in (names, names[:1], names[::-1]):
        units, _ = panel.chosen(dict.fromkeys(chosen, 2))
        assert panel.flops == cost
        assert [one.widening.axis.name for one in units] == chosen
        for one in units:
            candidate = offered[one.widening.axis.name]
            assert (one.gain.gain, one.gain.se, one.realised) == (candidate.gain, candidate.se, candidate.realised)


def joint_drop(setup, moved):
    """How much a step of the real model, which has grown by now, lowers the loss on part B."""
    setup.model.eval()
    before = mean_loss(setup.model, setup.sample.b, setup.objective)
    with torch.no_grad():
        for key, value in moved.items():
            setup.model.get_parameter(key).add_(value)
    return before - mean_loss(setup.model, setup.sample.b, setup.objective)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_the_joint_step_of_units_saves_in_the_real_model_what_it_saves_on_trial(name, seed):
    setup = setup_of(name, n=300, seed=seed, jump_start=True)
    panel = unit_panel(setup)
    trial, tangents = panel._trial.model, panel._judged.tangents
    numbered = dict(enumerate(tangents, 1))
    steps, total = joint(trial, panel.judgement, numbered, setup.sample.b, setup.objective), {}
    for tangent, step in zip(tangents, steps, strict=True):
        for key, value in tangent.items():
            total[key] = total.get(key, 0) + step * value
    start = mean_loss(trial, setup.sample.b, setup.objective)
    tried = realised(trial, total, 1.0, setup.sample.b, setup.objective, start)
    units, moved = panel.chosen({candidate.where: 2 for candidate in panel.candidates})
    widenings = [one.widening for one in units]
    apply_(setup.model, setup.axes, widenings, inputs=setup.example, generator=setup.generator)
    assert joint_drop(setup, moved) == pytest.approx(tried, abs=1e-9)
    assert tried >= 0
    assert (tried > 0) == any(candidate.alone > 0 for candidate in panel.candidates)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", WITH_PLACES)
def test_the_joint_step_of_blocks_saves_in_the_real_model_what_it_promises(name, seed):
    setup = setup_of(name, n=300, seed=seed, jump_start=True)
    panel = BlockPanel(setup, setup.places)
    blocks = panel.chosen([place.name for place in setup.places])
    order = [place.name for place in late_first(setup.model, setup.places)]
    for block in sorted(blocks, key=lambda block: order.index(block.place.name)):
        insert_block_(setup.model, block.insertion, example=setup.example)
    moved = {
        name: value - setup.model.get_parameter(name).detach()
        for block in blocks
        for name, value in block.written(setup.model).items()
    }
    drop = joint_drop(setup, moved)
    assert drop >= 0
    assert (drop > 0) == any(candidate.alone > 0 for candidate in panel.candidates)


def test_without_a_jump_start_no_step_is_made():
    setup = setup_of("mlp")
    units = unit_panel(setup)
    assert units.chosen({candidate.where: 2 for candidate in units.candidates})[1] == {}


@pytest.mark.parametrize("name", WITH_PLACES)
def test_blocks_keep_what_they_promise(name):
    setup = setup_of(name, n=400)
    panel = BlockPanel(setup, setup.places)
    assert [candidate.where for candidate in panel.candidates] == [place.name for place in setup.places]
    blocks = panel.chosen([candidate.where for candidate in panel.candidates])
    for candidate, block in zip(panel.candidates, blocks, strict=True):
        assert (candidate.kind, candidate.units) == ("insert", 1)
        assert (block.gain.gain, block.gain.se) == (candidate.gain, candidate.se)
        assert block.realised == candidate.realised
        assert candidate.realised >= KEPT * candidate.gain


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("name", WITH_PLACES)
def test_every_panel_says_the_loss_that_it_judged_from(name, judged):
    setup = setup_of(name, judged=judged)
    expected = mean_loss(copy.deepcopy(setup.model).eval(), setup.sample.b, setup.objective)
    for panel in (unit_panel(setup), BlockPanel(setup, setup.places)):
        assert math.isnan(panel.present.loss) != judged
        assert not judged or panel.present.loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_what_is_added_is_what_the_widened_network_has_more(name):
    setup = setup_of(name)
    before, units = cost_of(setup.model, setup.example), {}
    assert setup.added(units) == (0, 0)
    for axis in [axis for axis in setup.axes if axis.growable]:
        units[axis.name] = 2
        widenings = [Widening(axis, 2) for axis in setup.axes if axis.name in units]
        edit = apply_(setup.model, setup.axes, widenings, inputs=setup.example, generator=setup.generator)
        after = cost_of(setup.model, setup.example)
        edit.undo()
        assert setup.added(units) == (after[0] - before[0], after[1] - before[1])
