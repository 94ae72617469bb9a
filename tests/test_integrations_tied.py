"""Axes that one number sets are one axis to a policy, and grow alike."""

import math
from dataclasses import replace

import pytest

from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan, Present, Situation
from outgrow.integrations.tied import Tied, pattern

SIZES = {"layer.0.wide": 4, "layer.1.wide": 4, "head": 3}
TIES = {"layer.#.wide": "wide"}


def cost_with(units):
    return Cost(10 * sum(SIZES.values()) + 10 * sum(units.values()), 0)


NOW = Situation(SIZES, cost_with({}), cost_with, progress=0.5, places=lambda: ("layer.0", "act"))
NONE = Candidate("widen", "", 0, 0, 0, *[0.0] * 8)
PRESENT = Present(math.nan, math.nan, math.nan, math.nan, 1.0)


class Spy:
    """Plans what it was made with, decides for all of it, and keeps what it saw."""

    def __init__(self, **units):
        self.units = units

    def propose(self, now):
        self.now = now
        return Plan(self.units, "due", now.places())

    def decide(self, now, candidates, present):
        self.candidates = candidates
        return Decision({c.where: c.units for c in candidates}, "all")


def on_trial(**units):
    return [
        replace(NONE, where=axis, units=count, params=10 * count, gain=1.0, se=3.0) for axis, count in units.items()
    ]


def test_a_policy_sees_a_tie_as_one_axis():
    spy = Spy(wide=2)
    plan = Tied(spy, TIES, lambda: {"layer.0"}).propose(NOW)
    assert plan.units == {"layer.0.wide": 2, "layer.1.wide": 2}
    assert plan.blocks == ("layer.0",)
    assert spy.now.sizes == {"wide": 4}
    assert spy.now.cost_with({"wide": 1}).params == cost_with({}).params + 20


def test_candidates_of_a_tie_are_one_with_what_they_gain_together():
    spy = Spy()
    policy, found = Tied(spy, TIES), on_trial(**{"layer.0.wide": 2, "layer.1.wide": 2, "head": 1})
    assert policy.decide(NOW, found, PRESENT).units == {"layer.0.wide": 2, "layer.1.wide": 2}
    (seen,) = spy.candidates
    assert (seen.where, seen.units, seen.params, seen.gain) == ("wide", 2, 40, 2.0)
    assert seen.se == pytest.approx(3 * math.sqrt(2))


def test_a_tie_of_which_an_axis_is_missing_does_not_grow():
    assert Tied(Spy(), TIES).decide(NOW, on_trial(**{"layer.0.wide": 2}), PRESENT).units == {}
    uneven = replace(NOW, sizes={**SIZES, "layer.1.wide": 5})
    spy = Spy()
    Tied(spy, TIES).propose(uneven)
    assert spy.now.sizes == {}


@pytest.mark.parametrize(("planned", "budget", "found"), [(3, None, 2), (1, None, 2), (1, 120, 0)])
def test_the_nearest_size_is_planned_that_is_valid_and_affordable(planned, budget, found):
    policy = Tied(Spy(wide=planned), TIES, takes=lambda tie, size: size % 2 == 0)
    plan = policy.propose(replace(NOW, budget=Budget(max_params=budget)))
    assert set(plan.units.values()) == ({found} if found else set())
    assert plan.reason == ("due" if found else "no size near the planned one is valid")


def test_without_ties_each_axis_grows_by_itself():
    spy = Spy(head=1)
    assert Tied(spy, None).propose(NOW).units == {"head": 1}
    assert spy.now.sizes == SIZES


def test_the_budget_is_kept_with_the_default():
    policy = Tied(Proportional(events=1, share=1.0), TIES)
    plan = policy.propose(replace(NOW, progress=1.0, budget=Budget(max_params=175)))
    assert plan.units == {"layer.0.wide": 3, "layer.1.wide": 3}


def test_numbers_within_a_name_stay():
    assert pattern("0.layers.12.fc1") == "#.layers.#.fc1"
