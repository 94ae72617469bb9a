"""SENN's policy: its rule, its order, its bound on additions, and networks that grow by it until nothing is missing."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from outgrow import Grower
from outgrow.errors import InputError
from outgrow.grow.additions import additions_bound
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.policies.senn import Senn
from outgrow.grow.policy import Present, Situation, Timetable

PRESENT = Present(math.nan, score=0.4, ceiling=2.0, diagonal=math.nan)
GROWTH = Growth("widen", "a", 1, 1, 2, math.nan, math.nan, math.nan, 0.0, 5)


def candidate(where="a", score=0.0, bound=0.0, present=0.1, kind="widen", params=5):
    nans = dict.fromkeys(("gain", "se", "realised", "alone", "alone_se", "gradient"), math.nan)
    return Candidate(kind, where, 1, params, 10, score=score, bound=bound, present=present, **nans)


def event(epoch, growths=(GROWTH,), progress=None):
    return Event(1, None, (), tuple(growths), 0, 0, "", 0.0, 0, progress, 0, epoch)


def situation(sizes=("a", "b"), places=(), **kwargs):
    def cost_with(units):
        return Cost(100 + 5 * sum(units.values()), 1000)

    return Situation(dict.fromkeys(sizes, 3), cost_with({}), cost_with, places=lambda: tuple(places), **kwargs)


numbers = st.floats(0, 2)
candidates = st.lists(
    st.builds(
        candidate,
        where=st.sampled_from("abcdef"),
        score=numbers,
        bound=numbers,
        present=numbers,
        kind=st.sampled_from(["widen", "insert"]),
    ),
    max_size=6,
    unique_by=lambda c: c.where,
)
policies = st.builds(
    Senn,
    tau=st.floats(0.01, 3),
    alpha=st.floats(1e-3, 0.5),
    relative=st.sampled_from(["layer", "total"]),
    bound=st.booleans(),
)


@given(policies, candidates)
@example(Senn(bound=True), [candidate("a", bound=0.5, present=0.0), candidate("b", bound=1.0, present=2e-309)])
def test_it_adds_the_one_with_the_largest_ratio_of_those_that_pass_both_thresholds(policy, found):
    def increase(c):
        return c.bound if policy.bound else c.score

    def eta(c):
        return c.present if policy.relative == "layer" else PRESENT.score

    passing = [c for c in found if increase(c) > policy.tau * eta(c) and increase(c) > policy.alpha * PRESENT.ceiling]
    decision = policy.decide(situation(), found, PRESENT)
    chosen = [*decision.units, *decision.blocks]
    assert len(chosen) == bool(passing)
    assert decision.again == bool(passing)
    assert decision.reason
    for c in passing:
        if c.where == chosen[0]:
            assert (decision.units, decision.blocks) == (({c.where: 1}, ()) if c.kind == "widen" else ({}, (c.where,)))
            best = c
    for c in passing:
        assert increase(c) * eta(best) <= increase(best) * eta(c) * (1 + 1e-9)


def test_the_layer_and_the_total_are_two_measures():
    found = [candidate("a", 0.3, present=0.01), candidate("b", 0.5, present=0.6)]
    assert Senn(relative="layer").decide(situation(), found, PRESENT).units == {"a": 1}
    assert Senn(relative="total").decide(situation(), found, PRESENT).units == {"b": 1}


def test_the_bound_may_refuse_what_the_exact_score_takes():
    found = [candidate(score=0.5, bound=0.05)]
    assert Senn().decide(situation(), found, PRESENT).units
    assert not Senn(bound=True).decide(situation(), found, PRESENT).units


@pytest.mark.parametrize("increase", [0.0, math.nan])
def test_nothing_is_added_where_nothing_rises(increase):
    found = [candidate(score=increase, present=0.0)]
    assert not Senn().decide(situation(), found, replace(PRESENT, ceiling=0.0)).units
    assert not Senn().decide(situation(), [], PRESENT).units


def test_what_the_budget_does_not_allow_is_neither_tried_nor_added():
    now = situation(budget=Budget(max_params=104), history=())
    found = [candidate("a", 1.0, params=9), candidate("b", 0.5, params=4)]
    assert Senn().decide(now, found, PRESENT).units == {"b": 1}
    assert not Senn().decide(now, found[:1], PRESENT).units
    plan = Senn().propose(replace(now, epoch=1.0))
    assert not plan
    assert "104 parameters" in plan.reason


def test_it_tries_a_unit_on_every_axis_and_a_block_at_every_place():
    now = situation(places=["p", "q"], epoch=1.0)
    plan = Senn(units=2).propose(now)
    assert (plan.units, plan.blocks, plan.evidence, plan.init) == ({"a": 2, "b": 2}, ("p", "q"), "score", "closed")
    assert Senn(depth=False).propose(now).blocks == ()


@given(st.floats(0.1, 3), st.lists(st.floats(0, 0.5), min_size=1, max_size=30))
def test_moments_are_as_far_apart_as_they_should_be(every, steps):
    policy, history, epoch, moments = Senn(every=every), [], 0.0, []
    for step in steps:
        epoch += step
        if policy.propose(situation(epoch=epoch, history=history)):
            moments.append(epoch)
            history.append(event(epoch, ()))
        assert policy.propose(situation(epoch=epoch, history=history)) is None
    assert len(moments) <= epoch / every + 1e-6
    assert len(moments) >= min(len(steps), math.floor(epoch / max(every, 0.5) / 2))


def test_growth_ends_with_its_share_of_the_run():
    policy = Senn(share=0.5)
    assert policy.propose(situation(epoch=4.0, progress=0.5))
    assert policy.propose(situation(epoch=5.0, progress=0.51)) is None


@settings(max_examples=50)
@given(
    st.floats(0.02, 3),
    st.floats(1e-3, 0.9),
    st.integers(0, 30),
    st.lists(st.sampled_from(["widen", "insert"]), min_size=1, max_size=3),
)
def test_a_moment_never_has_more_additions_than_the_bound(tau, alpha, before, kinds):
    policy = Senn(tau=tau, alpha=alpha)
    found = [candidate(str(i), 1e9, 1e9, kind=kind) for i, kind in enumerate(kinds)]  # passes, whatever has been added
    history, added = [event(1.0, progress=0.1)] * before, 0
    while plan := policy.propose(situation(epoch=2.0, progress=0.2, history=history, places=["p"])):
        decision = policy.decide(situation(history=history), found, PRESENT)
        assert decision.again
        history.append(event(2.0, progress=0.2))
        added += 1
    assert added == policy.most == additions_bound(1.0, tau, alpha)
    assert added < 1 + math.log(1 / alpha) / math.log1p(tau)
    assert "the most that there can be" in plan.reason
    history.append(event(2.0, (), progress=0.2))
    assert policy.propose(situation(epoch=2.0, progress=0.2, history=history)) is None
    assert policy.propose(situation(epoch=3.0, progress=0.3, history=history))


def test_the_paper_is_a_preset_and_a_run_sets_the_pace():
    paper = Senn.paper(Timetable())
    assert (paper.tau, paper.alpha, paper.bound, paper.units, paper.share) == (1.0, 2.5e-3, True, 1, 1.0)
    policy = Senn.over(Timetable(events=4, share=0.5, epochs=16))
    assert (policy.every, policy.share) == (2.0, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0.0},
        {"alpha": 0.0},
        {"tau": math.nan},
        {"relative": "both"},
        {"units": 0},
        {"every": 0.0},
        {"share": 5},
        {"share": -1},
        {"init": "net2net"},
    ],
)
def test_what_has_no_bound_or_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Senn(**wrong)


def wave(n=50):
    x = torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]
    return x, (3 * x).sin() + 0.3 * x


def fitted(model, optimizer, x, y, epochs, each):
    for epoch in range(1, epochs + 1):
        for _ in range(40):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        each(epoch)
    return float(F.mse_loss(model(x), y).detach())


@pytest.mark.parametrize(
    "policy",
    [
        Senn(depth=False),
        Senn(depth=False, relative="total"),
        Senn.paper(Timetable()),
    ],
    ids=["layer", "total", "paper"],
)
def test_one_hidden_unit_grows_until_it_fits_and_then_stops(policy):
    torch.manual_seed(0)
    x, y = wave()
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    alone = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    policy = replace(policy, every=5.0)
    grower = Grower(model, optimizer, F.mse_loss, x[:1], sample=25, policy=policy)
    epochs = 25
    grown = fitted(model, optimizer, x, y, epochs, lambda e: grower.check([(x, y)], progress=e / epochs, epoch=e))
    kept = fitted(alone, torch.optim.Adam(alone.parameters(), 0.03), x, y, epochs, lambda e: None)
    assert 2 <= model[0].out_features <= 20
    assert grown < 0.3 * kept
    moments = [[one for one in grower.history if one.epoch == epoch] for epoch in (5, 10, 15, 20, 25)]
    for events in moments:
        assert not events[-1].growths
        assert len(events) <= policy.most + 1
        assert all(len(one.growths) == 1 and math.isnan(one.growths[0].gain) for one in events[:-1])
    assert len(moments[-1]) == 1


def test_it_takes_layers_as_well_as_units():
    torch.manual_seed(0)
    x = torch.randn(400, 2).double()
    y = (x.prod(1, keepdim=True) * 2).sin()
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    policy = Senn(tau=1.0, alpha=2.5e-3, every=2.0)
    grower = Grower(model, optimizer, F.mse_loss, x[:1], sample=200, policy=policy)
    fitted(model, optimizer, x, y, 4, lambda e: grower.check([(x, y)], epoch=e))
    growths = [growth for one in grower.history for growth in one.growths]
    assert {growth.kind for growth in growths} == {"widen", "insert"}
    assert all(growth.moved < 1e-8 for growth in growths)
