"""The rivals and controls: same times, same sizes, never beyond the budget, and pure."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Event
from outgrow.grow.policies.chance import RandomGrowth
from outgrow.grow.policies.firefly import Firefly
from outgrow.grow.policies.gradmax import GradMax
from outgrow.grow.policies.net2net import Net2Net
from outgrow.grow.policies.pace import room_with
from outgrow.grow.policies.schedule import Schedule
from outgrow.grow.policies.tiny import Tiny
from outgrow.grow.policy import Present, Situation, Timetable
from outgrow.grow.sample import draw
from outgrow.grow.unseen import unknown
from outgrow.models.seed import Seed
from outgrow.net.cost import parameters
from outgrow.train.grower import Grower

CONTROLS = (Schedule, RandomGrowth, GradMax, Net2Net, Tiny, Firefly)
NOTHING = Present(math.nan, math.nan, math.nan, math.nan)
BUDGETS = {
    "parameters": Budget(max_params=20_000),
    "flops": Budget(max_flops=9_000),
    "both": Budget(max_params=20_000, max_flops=11_000),
    "latency": Budget(max_latency=0.008),
}
SEED = (("a", 6), ("b", 3), ("c", 10))


def situation(sizes, history=(), budget=None, progress=None):
    """What a policy sees of an MLP with 100 inputs and 10 outputs."""

    def cost_with(units):
        widths = [100, *(size + units.get(axis, 0) for axis, size in sizes.items()), 10]
        flops = sum(2 * a * b for a, b in pairwise(widths))
        return Cost(sum((a + 1) * b for a, b in pairwise(widths)), flops, flops * 1e-6)

    present = cost_with({})

    def predicted(units):
        then = cost_with(units)
        return present.after(then.params, then.flops)

    return Situation(sizes, present, predicted, progress, history=history, budget=budget or Budget())


def candidates_of(now, plan):
    """What a check would find, with gradients that depend on the axis alone."""
    gradients = {"a": 1.0, "b": 3.0, "c": 2.0}
    for axis, count in plan.units.items():
        params = now.cost_with({axis: count}).params - now.cost.params
        yield replace(unknown("widen", axis, count, params, 0), gradient=gradients[axis] * math.sqrt(count))


def decided(policy, now, plan):
    if plan.evidence == "none":
        return dict(plan.units)
    return dict(policy.decide(now, [*candidates_of(now, plan)], NOTHING).units)


def played(policy, budget=None, calls=50, ends=True):
    """Yield every situation of a run, what was planned and what was added, with `calls` looks."""
    sizes, history = dict(SEED), []
    for i in range(calls):
        now = situation(dict(sizes), tuple(history), budget, i / calls if ends else None)
        plan = policy.propose(now)
        units = decided(policy, now, plan) if plan else {}
        yield now, plan, units
        if plan is not None:
            history.append(Event(len(history) + 1, None, (), (), 0, 0, "", 0.0, 0, now.progress))
        sizes = {axis: size + units.get(axis, 0) for axis, size in sizes.items()}


def of_run(control, **kwargs):
    return control.over(Timetable(events=6, share=0.7, seed=3, **kwargs))


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("budget", [None, *BUDGETS.values()], ids=str)
def test_all_controls_have_the_times_and_sizes_of_the_schedule(budget, ends):
    policies, events = [of_run(control) for control in CONTROLS], 0
    for now, plan, _ in played(of_run(Schedule), budget, ends=ends):
        others = [policy.propose(now) for policy in policies]
        assert [other is None for other in others] == [plan is None] * len(others)
        if not plan:
            continue
        events += 1
        room = of_run(Schedule).room(now)
        for policy, other in zip(policies, others, strict=True):
            units = decided(policy, now, other)
            assert room_with(now, units) >= room
            fuller = [axis for axis in now.sizes if room_with(now, {**units, axis: units.get(axis, 0) + 1}) >= room]
            if isinstance(policy, Firefly):  # one more on trial would be too much
                assert all(units[axis] == other.units[axis] for axis in fuller)
            elif isinstance(policy, RandomGrowth):
                assert not fuller
            else:
                assert other.units == plan.units
    assert events == 6


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("control", CONTROLS)
def test_the_budget_is_used_up_and_never_exceeded(control, budget):
    policy = of_run(control)
    for now, _, _ in played(policy, budget):
        assert budget.fits(now.cost)
    assert policy.propose(now) is None
    left = [axis for axis in now.sizes if now.fits({axis: 1})]
    assert len(left) < len(now.sizes) if control is Firefly else not left


@pytest.mark.parametrize("ends", [True, False])
def test_the_cost_grows_geometrically(ends):
    found = [now.cost.params for now, plan, _ in played(of_run(Schedule), BUDGETS["parameters"], 500, ends) if plan]
    found.append(20_000)
    factors = [b / a for a, b in pairwise(found)]
    assert factors == pytest.approx([(20_000 / found[0]) ** (1 / 6)] * 6, rel=0.08)


def test_without_a_budget_the_parameters_grow_by_the_factor():
    for now, plan, units in played(Schedule(factor=1.7), calls=8, ends=False):
        assert plan
        assert now.cost_with(units).params == pytest.approx(1.7 * now.cost.params, rel=0.08)


def test_all_axes_grow_by_one_factor():
    now = situation({"a": 60, "b": 30, "c": 100})
    units = Schedule().units(now)
    factors = [units[axis] / now.sizes[axis] for axis in now.sizes]
    assert 0 < max(factors) < min(factors) + 0.03  # of the smallest axis, one unit is 0.033


def test_where_rounding_leaves_nothing_the_unit_comes_in_that_takes_least_of_what_is_limited():
    def cost_with(units):  # of a, parameters are cheap and FLOPs dear
        a, b = units.get("a", 0), units.get("b", 0)
        return Cost(200 + 5 * a + 50 * b, 1_000 + 500 * a + 100 * b)

    for budget, expected in (
        (Budget(max_flops=1_400), {"b": 1}),
        (Budget(max_params=240), {"a": 1}),
        (Budget(max_flops=1_510, max_params=220), {"a": 1}),
        (Budget(max_flops=1_099), {}),
    ):
        now = Situation({"a": 2, "b": 2}, cost_with({}), cost_with, budget=budget, progress=0.1)
        assert Schedule(events=5_000).units(now) == expected


def test_where_rounding_leaves_nothing_one_unit_comes_in():
    now = situation(dict(SEED), budget=Budget(max_params=8_000), progress=0.1)
    assert Schedule(events=5_000).units(now) == {"a": 1, "b": 1, "c": 1}
    cheap = now.cost_with({"c": 1}).params  # 14 parameters more, where others take 18 and 104
    assert Schedule(events=5_000).units(replace(now, budget=Budget(max_params=cheap))) == {"c": 1}
    assert Schedule(events=5_000).units(replace(now, budget=Budget(max_params=cheap - 1))) == {}


@pytest.mark.parametrize("control", CONTROLS)
def test_the_same_situation_gets_the_same_answer(control):
    for now, plan, units in played(of_run(control), BUDGETS["parameters"]):
        torch.rand(3)
        again = of_run(control)
        assert again.propose(now) == plan
        assert not plan or decided(again, now, plan) == units


def test_chance_draws_anew_by_event_and_seed():
    plans = [plan.units for _, plan, _ in played(of_run(RandomGrowth)) if plan]
    assert len({max(plan, key=plan.get) for plan in plans}) > 1
    now = situation(dict(SEED))
    assert len({str(RandomGrowth(seed=seed).propose(now).units) for seed in range(9)}) > 5


def test_chance_prefers_no_axis():
    now, shares = situation({"a": 60, "b": 30, "c": 100}), {"a": 0.0, "b": 0.0, "c": 0.0}
    price = {axis: now.cost_with({axis: 1}).params - now.cost.params for axis in now.sizes}
    for seed in range(400):
        cost = {axis: count * price[axis] for axis, count in RandomGrowth(seed=seed).propose(now).units.items()}
        for axis, part in cost.items():
            shares[axis] += part / sum(cost.values()) / 400
    assert [*shares.values()] == pytest.approx([1 / 3] * 3, abs=0.04)  # a share has sd 0.236, its mean 0.012


def test_firefly_takes_the_steepest_axes_first():
    now = situation({"a": 60, "b": 30, "c": 100})
    policy = Firefly()
    plan, wanted = policy.propose(now), policy.units(now)
    assert plan.units == {axis: 2 * count for axis, count in wanted.items()}
    units = decided(policy, now, plan)
    assert units["b"] == plan.units["b"]  # gradients are 1, 3 and 2
    assert 0 < units.get("c", 0) <= plan.units["c"]
    assert units.get("a", 0) < wanted["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": 0}, "events: expected at least one, received 0"),
        ({"share": 1.5}, "share: expected a share of the run above 0 and at most 1, received 1.5"),
        ({"factor": 1.0}, "factor: expected a factor above 1 .* received 1.0"),
        ({"init": "mixed"}, "init: 'mixed' makes a pool"),
        ({"init": "foo"}, "init: expected one of random, closed, .* received 'foo'"),
    ],
)
def test_what_makes_no_schedule_is_said_at_once(arguments, message):
    with pytest.raises(InputError, match=message):
        Schedule(**arguments)
    with pytest.raises(InputError, match="candidates: expected at least one"):
        Firefly(candidates=0)
    for depth in (7, -1, math.nan):
        with pytest.raises(InputError, match="depth: expected a chance from 0 to 1"):
            RandomGrowth(depth=depth)


def loud(shape, count):
    """Two classes by the mean square of the pixels, in double precision."""
    x = torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, (x.flatten(1).square().mean(1) > 1).long()


def grower_of(kind, policy, widths=(2, 3), sample=48, **kwargs):
    torch.manual_seed(1)
    seed = Seed("mlp", (6,), 2, (4, 3)) if kind == "mlp" else Seed(kind, (1, 8, 8), 2, widths)
    model = seed.build().double()
    x, y = loud(seed.inputs, 2 * sample)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y, Grower(model, optimizer, F.cross_entropy, x[:1], policy=policy, sample=sample, **kwargs)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
@pytest.mark.parametrize("control", CONTROLS)
def test_growing_keeps_the_function_and_the_budget(control, kind):
    model, x, y, grower = grower_of(kind, control(events=2, share=0.6), max_params=220)
    for progress in (0.35, 0.65):
        with torch.no_grad():
            before = model(x)
        event = grower.check([(x, y)], progress)
        assert event.growths
        assert event.params_after == parameters(model) <= 220
        assert all(growth.moved < 1e-9 for growth in event.growths)  # before a jump-start
        if control is not Tiny:
            torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    assert control is Firefly or not any(grower.situation().fits({axis: 1}) for axis in grower.sizes)
    assert grower.check([(x, y)], 0.9).event == 0


@pytest.mark.parametrize("control", CONTROLS)
def test_only_those_that_ask_for_evidence_read_data(control):
    def unread():
        raise AssertionError("read")
        yield

    _, _, _, grower = grower_of("mlp", control(events=1))
    if control in (Schedule, RandomGrowth, Net2Net):
        assert grower.check(unread(), 1.0).growths
    else:
        with pytest.raises(AssertionError, match="read"):
            grower.check(unread(), 1.0)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_tiny_takes_steps_that_lower_the_loss_on_its_part_b(kind):
    model, x, y, grower = grower_of(kind, Tiny(events=1), sample=150)
    part = draw([(x, y)], 150, torch.device("cpu")).b

    def loss():
        with torch.no_grad():
            return sum(float(F.cross_entropy(model(b.inputs), b.target)) * b.size for b in part) / 150

    before = loss()
    event = grower.check([(x, y)], 1.0)
    assert len(event.growths) == len(event.candidates) > 0
    assert any(candidate.alone > 0 for candidate in event.candidates)
    assert loss() < before


def test_chance_inserts_blocks_as_the_budget_allows():
    model, x, y, grower = grower_of("resnet", RandomGrowth(events=1, depth=1.0), widths=(2,))
    before = model(x).detach()
    (growth,) = grower.check([(x, y)], 1.0).growths
    assert growth.kind == "insert"
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    tight = parameters(model) - growth.params + growth.params // 2
    model, x, y, grower = grower_of("resnet", RandomGrowth(events=1, depth=1.0), widths=(2,), max_params=tight)
    event = grower.check([(x, y)], 1.0)
    assert str(event) == "no growth: no budget for the block"
