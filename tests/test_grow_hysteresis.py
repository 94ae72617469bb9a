"""What stopped paying is given back, and nothing goes back and forth."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow.errors import InputError
from outgrow.grow.budget import Cost
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.hysteresis import Hysteresis
from outgrow.grow.policy import Situation

COST = Cost(1000, 2000)


def growth(kind, where, before, after, gain=0.01, params=100):
    sign = 1 if after > before else -1
    return Growth(kind, where, abs(after - before), before, after, gain, 0.0, gain, 0.0, sign * params)


def event(*growths, candidates=()):
    return Event(1, 0.0, tuple(candidates), growths, 1000, 1000, "", 0.0, 0)


def situation(sizes, *history):
    return Situation(sizes=sizes, cost=COST, cost_with=lambda units: COST, history=history)


def candidate(where="a", units=2, params=-100, increase=0.0, se=0.0, kind="remove"):
    return Candidate(kind, where, units, params, 2 * params, -increase, se, -increase, -increase, se, 0.0, 0.0, 0.0)


GREW = event(growth("widen", "a", 4, 20))  # 1e-4 nats a parameter
IDLE = event()


def test_an_axis_rests_after_it_grew():
    policy = Hysteresis(rest=2)
    for idle, expected in ((0, {}), (1, {}), (2, {"a": 4})):
        now = situation({"a": 20}, GREW, *[IDLE] * idle)
        assert policy.propose(now) == expected
        assert policy.decide(now, [candidate()]) == ({"a": 2} if expected else {})


@pytest.mark.parametrize(("share", "expected"), [(0.2, 4), (0.9, 16), (0.01, 0)])
def test_at_most_a_share_goes_and_the_seed_stays(share, expected):
    policy = Hysteresis(share=share, rest=1)
    assert policy.propose(situation({"a": 20}, GREW, IDLE)).get("a", 0) == expected


def test_what_never_grew_is_the_seed():
    now = situation({"a": 20, "b": 20}, GREW, IDLE, IDLE)
    assert set(Hysteresis().propose(now)) == {"a"}


@pytest.mark.parametrize(
    ("increase", "se", "pays"),
    [(0.0024, 0.0, True), (0.0026, 0.0, False), (0.002, 0.0006, False), (-0.001, 0.003, True), (math.nan, 0.0, False)],
)
def test_a_removal_pays_if_its_loss_is_a_fraction_of_what_growth_saved(increase, se, pays):
    now = situation({"a": 20}, GREW, IDLE, IDLE)
    assert Hysteresis().worth(now) == pytest.approx(1e-4)
    assert bool(Hysteresis().decide(now, [candidate(increase=increase, se=se)])) == pays


def test_only_the_last_growths_say_what_a_parameter_is_worth():
    old = event(growth("widen", "a", 4, 8, gain=10.0))
    later = [event(growth("widen", "a", 8, 9, gain=0.003)), IDLE, event(growth("widen", "b", 8, 9, gain=0.001))]
    assert Hysteresis(recent=2).worth(situation({}, old, *later)) == pytest.approx(0.004 / 200)
    assert Hysteresis(recent=3).worth(situation({}, old, *later)) > 0.01
    unseen, shrunk = event(growth("widen", "a", 8, 9, gain=math.nan)), event(growth("remove", "a", 9, 8, gain=-1.0))
    assert Hysteresis(recent=1).worth(situation({}, *later, unseen, shrunk)) == pytest.approx(0.001 / 100)
    assert Hysteresis(price=0.5).worth(situation({})) == 0.5


def test_other_candidates_are_not_removed():
    now = situation({"a": 20}, GREW, IDLE, IDLE)
    assert Hysteresis().decide(now, [candidate(kind="widen")]) == {}


def test_a_trial_that_did_not_pay_is_made_with_half_as_many():
    history, counts = [GREW, IDLE, IDLE], []
    for _ in range(4):
        now = situation({"a": 20}, *history)
        counts.append(Hysteresis().propose(now)["a"])
        history.append(event(candidates=[candidate(units=counts[-1], increase=1.0)]))
    assert counts == [4, 2, 1, 1]
    paid = event(growth("remove", "a", 20, 19), candidates=[candidate(units=1)])
    assert Hysteresis().propose(situation({"a": 19}, *history, paid)) == {"a": 3}


@pytest.mark.parametrize("field", ["ratio", "share", "price", "rest", "recent"])
def test_what_is_out_of_range_is_refused(field):
    with pytest.raises(InputError, match=field):
        replace(Hysteresis(), **{field: -1})


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rest=st.integers(1, 4), share=st.floats(0.1, 0.9))
def test_sizes_never_turn_within_the_rest(data, rest, share):
    """Whatever noise says: growth wherever it may, removals wherever they pay; no axis turns within `rest` events."""
    policy = Hysteresis(rest=rest, share=share)
    sizes, history, seed = {"a": 10, "b": 4}, [], {"a": 10, "b": 4}
    turns: dict[str, list[tuple[int, str]]] = {"a": [], "b": []}
    for number in range(20):
        now = situation(dict(sizes), *history)
        tried = policy.propose(now)
        candidates = [
            candidate(axis, count, increase=data.draw(st.floats(-1, 1)), se=data.draw(st.floats(0, 0.1)))
            for axis, count in tried.items()
        ]
        gone, growths = policy.decide(now, candidates), []
        for axis, count in gone.items():
            assert count <= share * sizes[axis]
            assert sizes[axis] - count >= seed[axis]
            growths.append(growth("remove", axis, sizes[axis], sizes[axis] - count))
        for axis in sizes.keys() - gone.keys() - policy.turned(now, "remove"):
            if data.draw(st.booleans()):
                growths.append(growth("widen", axis, sizes[axis], sizes[axis] + 2, data.draw(st.floats(0, 1))))
        history.append(event(*growths, candidates=candidates))
        for one in growths:
            sizes[one.where] = one.size_after
            if turns[one.where] and turns[one.where][-1][1] != one.kind:
                assert number - turns[one.where][-1][0] > rest
            turns[one.where].append((number, one.kind))
