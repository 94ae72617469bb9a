"""The default policy: what pays, where it tilts to, when depth wins, when units go again; pure functions of numbers."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.policies.proportional import PRUNINGS, Proportional
from outgrow.grow.policy import Present, Situation, Timetable

SIZES = {"a": 8, "b": 16}


def cost_with(units, sizes=SIZES):
    a, b = (size + units.get(axis, 0) for axis, size in sizes.items())
    params = 20 * a + a * b + 5 * b
    return Cost(params, 2 * params)


def situation(**known):
    return Situation(**{"sizes": SIZES, "cost": cost_with({}), "cost_with": cost_with, "progress": 0.3, **known})


def candidate(where="a", params=100, gain=0.0, se=0.0, alone=0.0, alone_se=0.0, kind="widen", units=2):
    return Candidate(kind, where, units, params, 2 * params, gain, se, gain, alone, alone_se, 0.0, 0.0, 0.0)


def event(number=1, params=400, loss=math.nan, candidates=(), growths=(), progress=0.1, epoch=1.0):
    return Event(number, 0.0, candidates, growths, params, params, "", 0.0, 0, progress, epoch=epoch, loss=loss)


def present(loss=0.0):
    return Present(0.0, 0.0, math.nan, math.nan, loss)


@given(
    alone=st.lists(st.floats(0, 0.1), min_size=1, max_size=5),
    error=st.floats(0, 0.1),
    price=st.floats(1e-9, 1e-3),
)
def test_without_a_loss_only_what_the_steps_are_worth_now_pays(alone, error, price):
    tried = [candidate(f"axis{i}", alone=gain, alone_se=error) for i, gain in enumerate(alone)]
    decision = Proportional(price=price).decide(situation(), tried, present())
    pays = sum(alone) - len(alone) * error > price * 100 * len(alone)
    assert decision.units == ({c.where: c.units for c in tried} if pays else {})


@pytest.mark.parametrize("a", [0.1, 0.3, 0.7])
def test_what_units_will_be_worth_follows_the_power_law_of_the_run_so_far(a):
    history = [event(i, params, params**-a) for i, params in enumerate((100, 200), 1)]
    worth = Proportional()._later(situation(cost=Cost(400, 800), history=history), present(400**-a), 400)
    seen = a * 2 / 3  # over two doublings, and one that brought nothing
    assert worth == pytest.approx(400**-a * (1 - 2**-seen))


def test_before_a_growth_has_brought_anything_only_what_is_worth_now_counts():
    assert Proportional()._later(situation(), present(0.5), 100) == 0
    assert Proportional()._later(situation(history=[event(1, 400, 0.7)], cost=Cost(400, 800)), present(0.5), 100) == 0


def test_a_loss_that_larger_networks_do_not_bring_down_ends_the_growth():
    flat = [event(i, 100 * 2**i, 0.5) for i in range(4)]
    rising = [event(i, 100 * 2**i, 0.5 + 0.1 * i) for i in range(4)]
    falling = [event(i, 100 * 2**i, 0.5 * 0.8**i) for i in range(4)]
    worth = [
        Proportional()._later(situation(cost=Cost(1600, 3200), history=history), present(loss), 800)
        for history, loss in ((rising, 0.9), (flat, 0.5), (falling, 0.5 * 0.8**4))
    ]
    assert worth[0] == worth[1] == 0 < worth[2]


def test_what_training_alone_brought_down_is_no_merit_of_the_size():
    trained = [event(1, 400, 2.0), event(2, 400, 0.5)]
    policy, now = Proportional(), situation(cost=Cost(400, 800))
    without = policy._later(now, present(0.4), 100)
    assert policy._later(replace(now, history=trained), present(0.4), 100) == without


def test_nothing_pays_where_the_loss_is_gone():
    falling = [event(i, 100 * 2**i, 0.5 * 0.8**i) for i in range(3)]
    now = situation(cost=Cost(800, 1600), history=falling)
    assert Proportional().decide(now, [candidate()], present(0.256)).units == {"a": 2}
    assert not Proportional().decide(now, [candidate()], present(1e-6)).units


@given(gain=st.floats(0, 1), params=st.integers(1, 10_000), wide=st.floats(0, 1), lead=st.floats(0.5, 3))
def test_a_block_goes_in_if_it_gains_more_for_its_parameters(gain, params, wide, lead):
    tried = [candidate(alone=1.0, gain=wide), candidate("place", params, gain, kind="insert", units=1)]
    decision = Proportional(depth=True, lead=lead).decide(situation(), tried, present())
    wins = gain > 0 and gain / params > max(lead * wide / 100, Proportional().price)
    assert decision.blocks == (("place",) if wins else ())
    assert bool(decision.blocks) != bool(decision.units)
    assert decision.again == bool(decision.blocks)


def test_a_block_beyond_the_budget_or_within_its_error_stays_out():
    block = candidate("place", 500, 0.1, kind="insert", units=1)
    tried = [candidate(alone=1.0), block]
    tight = situation(budget=Budget(max_params=cost_with({}).params + 499))
    assert not Proportional(depth=True).decide(tight, tried, present()).blocks
    unsure = [candidate(alone=1.0), replace(block, se=0.2)]
    assert not Proportional(depth=True).decide(situation(), unsure, present()).blocks


def test_units_are_planned_again_at_once_after_a_block():
    grown = Growth("insert", "place", 1, 0, 1, 0.1, 0.0, 0.1, 0.0, 50)
    history = [event(growths=(grown,), progress=0.3, epoch=2.0)]
    policy = Proportional(depth=True)
    assert policy.propose(situation(history=history, epoch=2.0, places=lambda: ("place",))).blocks == ()
    assert policy.propose(situation(history=history, epoch=2.1)) is None


def test_it_tilts_towards_what_gained_more_for_its_cost():
    seen = (candidate("a", gain=0.09), candidate("b", gain=0.01), candidate("b", -100, -1.0, kind="remove"))
    now = situation(history=[event(candidates=seen)], budget=Budget(max_params=20_000))
    tilted, plain = Proportional().propose(now).units, Proportional(strength=0.0).propose(now).units
    assert tilted["a"] > plain["a"]
    assert tilted["b"] < plain["b"]


@given(multiple=st.integers(1, 8), most=st.integers(500, 20_000))
def test_sizes_are_multiples_where_they_are_large_enough(multiple, most):
    now = situation(budget=Budget(max_params=most), progress=0.6)
    plan = Proportional(multiple=multiple, most=100.0).propose(now)
    for axis, units in plan.units.items():
        size = SIZES[axis] + units
        assert units == 1 or size < 2 * multiple or size % multiple == 0
    assert now.fits(plan.units)


def test_on_a_gpu_sizes_are_multiples_of_eight():
    assert Proportional.over(Timetable(device="cuda:0")).multiple == 8
    assert Proportional.over(Timetable()).multiple == 1


def test_units_may_go_only_after_the_growth_and_not_at_once():
    grown = Growth("widen", "a", 4, 4, 8, 0.1, 0.0, 0.1, 0.0, 100)
    last = event(growths=(grown,), progress=0.6)
    policy = Proportional(prune=True)
    assert Proportional().propose(situation(progress=0.9, history=[last])) is None
    assert policy.propose(situation(progress=0.65, history=[last])) is None
    first = policy.propose(situation(progress=0.69, history=[last]))
    assert first is not None
    assert not first  # what has just grown rests
    second = policy.propose(situation(progress=0.77, history=[last, event(2, progress=0.69)]))
    assert second.removals == {"a": 1}
    done = [last, *(event(2 + i, progress=0.7 + i / 100) for i in range(PRUNINGS))]
    assert policy.propose(situation(progress=0.99, history=done)) is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("events", 0), ("share", 0), ("multiple", 0), ("lead", -1), ("bounds", (2, 3)), ("factor", 1)],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(InputError, match=option):
        Proportional(**{option: value})
