"""The default policy where nothing limits the network: it grows on while that pays, by gains and held-out losses."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from outgrow.grow.budget import Budget, Cost
from outgrow.grow.policies.proportional import FREE_PRICE, PRICE, PRUNINGS, Proportional
from policy_cases import GROWN, candidate, event, limited, present, situation


@given(gain=st.floats(0, 1e-3), error=st.floats(0, 1e-3), alone=st.floats(0, 1))
def test_without_a_limit_gains_count_and_a_parameter_is_dearer(gain, error, alone):
    tried = [candidate(gain=gain, se=error, alone=alone)]
    pays = gain - error - FREE_PRICE * 100
    assume(abs(pays) > 1e-9)
    now = situation(history=[event(growths=(GROWN,))])
    assert bool(Proportional().decide(now, tried, present()).units) == (pays > 0)
    assert bool(Proportional(price=PRICE).decide(now, [candidate(gain=2e-5)], present()).units)


def test_without_a_limit_the_first_event_grows_where_held_out_examples_show_what_it_brings():
    tried, told = [candidate(gain=-1.0)], {"held_out": 0.5}
    assert Proportional().decide(situation(**told), tried, present(0.5)).units
    assert not Proportional().decide(situation(), tried, present(0.5)).units
    assert not Proportional().decide(limited(**told), tried, present(0.5)).units
    assert not Proportional().decide(situation(**told), [], present(0.5)).units
    assert not Proportional().decide(situation(**told, history=[event(growths=(GROWN,))]), tried, present(0.5)).units


def test_a_loss_on_held_out_examples_counts_where_it_is_told():
    by_heart = [event(i, 100 * 2**i, 0.5**i, growths=(GROWN,)) for i in range(4)]
    told = [replace(one, held_out=0.5 + 0.1 * i) for i, one in enumerate(by_heart)]
    now = situation(cost=Cost(1600, 3200), history=by_heart)
    assert Proportional().decide(now, [candidate()], present(0.03)).units
    assert not Proportional().decide(replace(now, history=told, held_out=0.9), [candidate()], present(0.03)).units
    falling = [replace(one, held_out=2 * 0.8**i) for i, one in enumerate(by_heart)]
    assert Proportional().decide(replace(now, history=falling, held_out=0.8), [candidate()], present(math.nan)).units


@given(
    a=st.floats(0.05, 1),
    sizes=st.lists(st.integers(100, 10_000), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_without_a_limit_the_power_law_is_fitted_to_all_sizes(a, sizes):
    assume(sizes[-1] >= 1.1 * sizes[0])
    policy, last = Proportional(), sizes[-1]
    now = situation(cost=Cost(last, 2 * last), history=[event(i, n, n**-a) for i, n in enumerate(sizes[:-1], 1)])
    worth = policy._later(now, present(last**-a), last)
    logs = [math.log(n / last) for n in sizes]
    spread = sum((one - sum(logs) / len(logs)) ** 2 for one in logs)
    seen = a * spread / (spread + math.log(2) ** 2)  # as if one doubling had brought nothing
    level = last**-a * math.exp(-(a - seen) * sum(logs) / len(logs))
    assert worth == pytest.approx(level * (1 - 2**-seen), rel=1e-6)
    assert policy._later(replace(now, history=[]), present(last**-a), last) == 0


@given(events=st.integers(1, 12), share=st.floats(0.05, 0.5), until=st.floats(0, 1))
def test_without_a_limit_events_go_on_ever_further_apart_while_they_pay(events, share, until):
    policy = Proportional(events=events, share=share, until=until)
    history, moments = [], [step / 400 for step in range(401)]
    for progress in moments:
        if policy.propose(situation(progress=progress, history=history)):
            history.append(event(progress=progress, growths=(GROWN,)))
    later = [one.progress for one in history[events - 1 :]]
    assert later[0] <= share + 1 / 400
    assert all(one <= max(until, share) + 1 / 400 for one in later)
    assert all(abs(b - a * (1 + 1 / events)) <= 2 / 400 * (1 + 1 / events) for a, b in pairwise(later))
    assert share * (1 + 1 / events) + 1 / 200 > until or len(later) > 1


@pytest.mark.parametrize(
    ("growths", "known"),
    [
        ((), {}),
        ((replace(GROWN, kind="remove"),), {}),
        ((GROWN,), {"budget": Budget(max_params=20_000)}),
    ],
    ids=["the last one added nothing", "the last one took units", "a limit"],
)
def test_the_events_that_were_planned_are_the_last_with(growths, known):
    last = event(progress=0.15, growths=growths)
    for progress in (0.2, 0.5, 1.0):
        assert Proportional().propose(situation(progress=progress, history=[last], **known)) is None


def test_sizes_that_are_wanted_and_growth_at_any_price_keep_to_the_plan():
    last = event(progress=0.15, growths=(GROWN,))
    for policy in (Proportional(stops=(500,)), Proportional(price=-1.0), Proportional(until=0.15)):
        assert policy.propose(situation(progress=0.4, history=[last])) is None
    assert Proportional().propose(situation(progress=0.4, history=[last]))


@pytest.mark.parametrize("events", [1, 2, 8])
def test_without_a_limit_units_go_only_when_the_growth_has_ended(events):
    courses = []
    for prune in (False, True):
        policy, history = Proportional(prune=prune, events=events), []
        for step in range(201):
            now = situation(progress=step / 200, history=history)
            if (plan := policy.propose(now)) is not None:
                grown = (GROWN,) if plan.units else ()
                history.append(event(len(history) + 1, growths=grown, progress=now.progress))
        courses.append([(one.progress, bool(one.growths)) for one in history])
    plain, pruned = courses
    assert pruned[:-PRUNINGS] == plain
    assert not any(grown for _, grown in pruned[-PRUNINGS:])
    assert all(grown for _, grown in plain)
    assert plain[-1][0] > 0.5
