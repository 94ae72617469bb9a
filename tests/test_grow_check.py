"""One check: what a policy may decide, and that looking changes nothing."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import InputError
from outgrow.grow.budget import Cost
from outgrow.grow.check import check
from outgrow.grow.policy import Decision, Plan, Situation
from outgrow.grow.proposals import NAMES as PROPOSALS
from outgrow.net.cost import flops, flops_after, parameters, parameters_after
from outgrow.net.deepen import insert_block_
from outgrow.net.widen import apply_
from test_grow_panel import NETS, WITH_PLACES, setup_of


class Takes:
    """A policy that decides on what it was told to."""

    def __init__(self, units=None, blocks=()):
        self.decision, self.seen = Decision(units or {}, "told", tuple(blocks)), []

    def propose(self, now):
        raise AssertionError("a check is told what to put on trial")

    def decide(self, now, candidates, present):
        self.seen.append((now, candidates, present))
        return self.decision


def everything(setup, count=2):
    return Plan(
        {axis.name: count for axis in setup.axes if axis.growable}, "all", tuple(place.name for place in setup.places)
    )


def situation_of(setup):
    model, found, counts = setup.model, setup.axes, setup.counts
    cost = Cost(parameters(model), sum(counts.values()))
    return Situation(
        sizes={axis.name: axis.size for axis in found if axis.growable},
        cost=cost,
        cost_with=lambda units: cost.after(
            parameters_after(model, found, units), flops_after(model, found, units, counts)
        ),
    )


def checked(setup, policy, proposed=None):
    return check(setup, proposed or everything(setup), policy, situation_of(setup))


def in_words(verdict):
    """All that a verdict says, without the objects that hold it."""
    return (
        verdict.gain_now,
        verdict.candidates,
        verdict.decision,
        [(one.widening.axis.name, one.widening.units, one.gain, one.realised) for one in verdict.units],
        [(one.place.name, one.gain, one.realised, one.params) for one in verdict.blocks],
        {name: value.tolist() for name, value in verdict.step.items()},
        verdict.flops,
    )


@pytest.mark.parametrize("name", NETS)
def test_the_policy_sees_every_candidate_and_the_verdict_repeats_it(name):
    setup, policy = setup_of(name), Takes()
    verdict = checked(setup, policy)
    ((_, candidates, present),) = policy.seen
    assert (verdict.candidates, verdict.gain_now, verdict.decision) == (candidates, present.gain, policy.decision)
    asked = everything(setup)
    assert [c.where for c in candidates if c.kind == "widen"] == [*asked.units]
    assert [c.where for c in candidates if c.kind == "insert"] == [*asked.blocks]
    assert (verdict.units, verdict.blocks, verdict.step) == ((), (), {})
    assert verdict.flops > 0


@pytest.mark.parametrize("name", ["mlp", "pre-norm"])
def test_units_and_blocks_add_the_parameters_and_flops_that_they_said(name):
    asked = everything(setup_of(name))
    wholes = [*((axis, "widen") for axis in asked.units), *((place, "insert") for place in asked.blocks)]
    for where, kind in wholes:
        setup = setup_of(name)
        policy = Takes({where: 2}) if kind == "widen" else Takes(blocks=[where])
        model, before = setup.model, (parameters(setup.model), flops(setup.model, setup.example))
        verdict = checked(setup, policy)
        for one in verdict.units:
            apply_(model, setup.axes, [one.widening], inputs=setup.example, generator=setup.generator)
        for one in verdict.blocks:
            insert_block_(model, one.insertion, example=setup.example)
        (candidate,) = [c for c in verdict.candidates if (c.where, c.kind) == (where, kind)]
        assert parameters(model) - before[0] == candidate.params > 0
        assert flops(model, setup.example) - before[1] == candidate.flops * len(setup.example)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_policy_may_take_fewer_units_and_gets_another_gain(name):
    setup = setup_of(name, n=300)
    axis = next(axis.name for axis in setup.axes if axis.growable)
    verdict = checked(setup, Takes({axis: 1}), everything(setup, 4))
    (units,) = verdict.units
    (candidate,) = [c for c in verdict.candidates if c.where == axis and c.kind == "widen"]
    assert (units.widening.units, candidate.units) == (1, 4)
    assert units.gain.gain != candidate.gain or candidate.gain == 0
    all_four = checked(setup_of(name, n=300), Takes({axis: 4}), everything(setup, 4)).units[0]
    assert (all_four.gain.gain, all_four.realised) == (candidate.gain, candidate.realised)


def told(error, *words):
    message = str(error.value)
    assert message.startswith("policy Takes decided on")
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"0": 3}, ("3 units of '0'", "1 to 2")),
        ({"0": 0}, ("0 units of '0'", "1 to 2")),
        ({"0": -1}, ("-1 units of '0'", "1 to 2")),
        ({"2": 1}, ("units of '2'", "on trial: 0")),
        ({"no such axis": 1}, ("units of 'no such axis'", "on trial: 0")),
        ({"0": 2, "2": 2}, ("units of '2'", "on trial: 0")),
    ],
)
def test_a_policy_that_decides_on_units_that_were_not_on_trial_is_told(units, words):
    setup = setup_of("mlp")
    with pytest.raises(InputError) as error:
        checked(setup, Takes(units), Plan({"0": 2}, "one"))
    told(error, *words)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_a_policy_that_decides_on_blocks_that_were_not_on_trial_is_told(name):
    setup = setup_of(name)
    place = setup.places[0].name
    with pytest.raises(InputError) as error:
        checked(setup, Takes(blocks=["nowhere"]))
    told(error, "a block at 'nowhere'", place)
    with pytest.raises(InputError) as error:
        checked(setup, Takes(blocks=[place]), Plan(everything(setup).units, "units only"))
    told(error, f"a block at '{place}'", "none")


def test_a_policy_that_decides_on_units_and_blocks_at_once_is_told():
    setup = setup_of("mlp")
    with pytest.raises(InputError) as error:
        checked(setup, Takes({"0": 2}, [setup.places[0].name]))
    told(error, "units and blocks", "one of them")


def test_a_block_that_is_asked_for_twice_goes_in_once_or_is_refused():
    setup = setup_of("mlp")
    place = setup.places[0].name
    try:
        verdict = checked(setup, Takes(blocks=[place, place]))
    except InputError:
        return
    assert [block.place.name for block in verdict.blocks] == [place]


@pytest.mark.parametrize("name", NETS)
def test_what_can_not_be_tried_is_left_out(name):
    setup, policy = setup_of(name), Takes()
    fixed = {axis.name: 1 for axis in setup.axes if not axis.growable}
    assert fixed
    verdict = checked(setup, policy, Plan({**fixed, "no such axis": 1}, "odd", ("no such place",)))
    assert (verdict.candidates, verdict.flops) == ((), 0)
    assert math.isnan(verdict.gain_now)
    assert math.isnan(verdict.loss)
    with pytest.raises(InputError):
        checked(setup, Takes({next(iter(fixed)): 1}), Plan(fixed, "odd"))


def state_of(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()},
        {name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize(
    ("name", "proposal"), [*((name, "random") for name in NETS), *(("mlp", p) for p in PROPOSALS if p != "random")]
)
def test_a_check_changes_nothing(name, proposal):
    setup = setup_of(name, n=60, proposal=proposal)
    model, batch = setup.model, setup.sample.a[0]
    model.train()
    next(model.children()).eval()
    F.cross_entropy(model(batch.inputs), batch.target).backward()
    next(model.parameters()).requires_grad_(False)
    inputs = copy.deepcopy(setup.sample)
    tensors, before = {name: id(p) for name, p in model.named_parameters()}, state_of(model)
    asked = everything(setup)
    checked(setup, Takes(asked.units))
    if asked.blocks:
        checked(setup, Takes(blocks=asked.blocks))
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)
    assert {name: id(p) for name, p in model.named_parameters()} == tensors
    for ours, theirs in zip((*setup.sample.a, *setup.sample.b), (*inputs.a, *inputs.b), strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.target, theirs.target)


@pytest.mark.parametrize("kind", ["units", "blocks"])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_the_same_seed_gives_the_same_verdict(name, kind):
    found = []
    for seed in (0, 0, 1):
        setup = setup_of(name, n=60, seed=seed)
        asked = everything(setup)
        torch.rand(3 + len(found))  # torch's own random state plays no part
        found.append(in_words(checked(setup, Takes(asked.units) if kind == "units" else Takes(blocks=asked.blocks))))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", WITH_PLACES)
def test_panels_stand_beside_each_other(name):
    both, asked = setup_of(name), everything(setup_of(name))
    verdict = checked(both, Takes())
    units = checked(setup_of(name), Takes(), Plan(asked.units, "units"))
    blocks = checked(setup_of(name), Takes(), Plan({}, "blocks", asked.blocks))
    assert [c for c in verdict.candidates if c.kind == "widen"] == [*units.candidates]
    assert [c.where for c in verdict.candidates] == [c.where for c in (*units.candidates, *blocks.candidates)]
    assert verdict.flops == pytest.approx(units.flops + blocks.flops, rel=0.2)
    assert verdict.gain_now >= units.gain_now


@pytest.mark.parametrize("kind", ["blocks", "removals", "units"])
def test_the_loss_is_known_wherever_something_was_judged(kind):
    setup = setup_of("resnet", n=60)
    asked = everything(setup)
    units = dict.fromkeys(asked.units, 1)
    plan = {"units": Plan(units, ""), "blocks": Plan({}, "", asked.blocks), "removals": Plan({}, "", removals=units)}
    policy = Takes()
    verdict = checked(setup, policy, plan[kind])
    with torch.no_grad():
        losses = [F.cross_entropy(setup.model.eval()(batch.inputs), batch.target) for batch in setup.sample.b]
    sizes = [batch.size for batch in setup.sample.b]
    mean = sum(float(loss) * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    assert verdict.loss == policy.seen[0][2].loss == pytest.approx(mean)
    assert math.isnan(verdict.gain_now) == (kind == "removals")
