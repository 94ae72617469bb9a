"""The default policy: what pays, where it tilts to, when depth wins, when units go again; pure functions of numbers."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Growth
from outgrow.grow.policies.proportional import PRICE, PRUNINGS, Proportional
from outgrow.grow.policy import Situation, Timetable
from outgrow.train.grower import Grower
from policy_cases import GROWN, LIMITED, SIZES, candidate, cost_with, event, limited, present, situation


@given(
    alone=st.lists(st.floats(0, 0.1), min_size=1, max_size=5),
    error=st.floats(0, 0.1),
    price=st.floats(1e-9, 1e-3),
)
def test_without_a_loss_only_what_the_steps_are_worth_now_pays(alone, error, price):
    tried = [candidate(f"axis{i}", alone=gain, alone_se=error) for i, gain in enumerate(alone)]
    decision = Proportional(price=price).decide(limited(), tried, present())
    worth = sum(alone) - len(alone) ** 0.75 * error  # between errors that are all one and independent ones
    assume(abs(worth - price * 100 * len(alone)) > 1e-9)
    pays = worth > price * 100 * len(alone)
    assert decision.units == ({c.where: c.units for c in tried} if pays else {})


@given(error=st.floats(1e-4, 0.1), ratio=st.floats(0.2, 3), looks=st.integers(0, 8))
def test_looks_at_the_same_size_tell_together_what_its_growth_is_worth(error, ratio, looks):
    tried = [candidate("a", alone=ratio * error, alone_se=error)]
    history = [event(n + 1, params=situation().cost.params, candidates=tried) for n in range(looks)]
    history.insert(0, event(params=1, candidates=[candidate("a", alone=-1.0, alone_se=9.0)]))  # another size
    pays = ratio - (looks + 1) ** -0.5
    assume(abs(pays) > 1e-3)
    decision = Proportional(price=0.0).decide(limited(history=history), tried, present())
    assert bool(decision.units) == (pays > 0)


def scaled(things, s):
    """Candidates or events of the same run with a loss that is s times as large."""
    if isinstance(things, Candidate):
        names = ("gain", "se", "realised", "alone", "alone_se")
        return replace(things, **{name: s * getattr(things, name) for name in names})
    growths = tuple(replace(one, gain=s * one.gain, se=s * one.se) for one in things.growths)
    candidates = tuple(scaled(one, s) for one in things.candidates)
    return replace(things, loss=s * things.loss, growths=growths, candidates=candidates)


@given(
    data=st.data(),
    power=st.integers(-40, 40),
    losses=st.lists(st.floats(-2, 2).filter(lambda loss: abs(loss) > 1e-9), min_size=1, max_size=5),
)
def test_the_scale_of_the_loss_changes_nothing(data, power, losses):
    s = 2.0**power  # exact
    gains = st.one_of(st.just(0.0), st.floats(1e-9, 1e-2))
    some = st.builds(candidate, st.sampled_from("ab"), gain=gains, se=gains, alone=gains, alone_se=gains)
    units = st.lists(some, max_size=2, unique_by=lambda c: c.where)
    history = [
        event(i, 100 + 50 * i, loss, tuple(data.draw(units)), (GROWN,) * (i == 0)) for i, loss in enumerate(losses)
    ]
    tried, block = data.draw(units), candidate("place", gain=data.draw(gains), kind="insert", units=1)
    gone = candidate(params=-100, gain=-data.draw(gains), kind="remove")
    policy, answers = Proportional(depth=True, prune=True, price=data.draw(st.floats(1e-9, 1e-3))), []
    for factor in (1.0, s):
        now = situation(history=[scaled(one, factor) for one in history], budget=LIMITED)
        later = replace(now, progress=0.99)
        ready = present(0.5 * factor)
        units, less = [scaled(one, factor) for one in [*tried, block]], [scaled(gone, factor)]
        decisions = (
            policy.decide(now, units[:-1], ready),
            policy.decide(now, units, ready),
            policy.decide(later, less, ready),
        )
        answers.append([policy.propose(now), policy.propose(later), *(replace(one, reason="") for one in decisions)])
    assert answers[0] == answers[1]


def grown(s):
    """Parameters after each check of a network whose loss is s times a squared error, trained at as small a rate."""
    torch.manual_seed(1)
    x = torch.randn(512, 5, dtype=torch.float64)
    y = x.square().sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02 / s)

    def loss(output, target):
        return s * nn.functional.mse_loss(output, target)

    grower = Grower(model, optimizer, loss, x[:1], max_params=150, sample=200, policy=Proportional(price=1e-5))
    for _ in range(5):
        for _ in range(20):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        grower.check([(x, y)])
    return [one.params_after for one in grower.history]


def test_a_network_grows_as_much_whatever_the_unit_of_its_loss():
    usual = grown(1.0)
    assert usual[-1] > usual[0]
    assert grown(2.0**-30) == grown(2.0**15) == usual


def test_the_price_is_a_share_of_the_first_loss_that_is_known():
    policy, tried = Proportional(price=1e-3), [candidate(params=100, alone=0.3)]
    unknown = [event(), event(2, loss=math.nan)]
    assert Proportional(price=-1e-9).decide(limited(), [candidate(alone=-9.0)], present(1e-9)).units
    for loss, pays in ((2.0, True), (4.0, False), (-2.0, True), (-4.0, False)):
        assert bool(policy.decide(limited(), tried, present(loss)).units) == pays
        assert bool(policy.decide(limited(history=[*unknown, event(3, loss=loss)]), tried, present(1e-3)).units) == pays
    assert not policy.decide(limited(history=[event(1, 200, -1.0)]), [candidate(alone=1e-9)], present(-2.0)).units


@pytest.mark.parametrize("a", [0.1, 0.3, 0.7])
def test_what_units_will_be_worth_follows_the_power_law_of_the_run_so_far(a):
    history = [event(i, params, params**-a) for i, params in enumerate((100, 200), 1)]
    worth = Proportional()._later(limited(cost=Cost(400, 800), history=history), present(400**-a), 400)
    seen = a * 2 / 3  # over two doublings, and one that brought nothing
    assert worth == pytest.approx(400**-a * (1 - 2**-seen))


def test_before_a_growth_has_brought_anything_only_what_is_worth_now_counts():
    assert Proportional()._later(limited(), present(0.5), 100) == 0
    assert Proportional()._later(limited(history=[event(1, 400, 0.7)], cost=Cost(400, 800)), present(0.5), 100) == 0


def test_a_loss_that_larger_networks_do_not_bring_down_ends_the_growth():
    flat = [event(i, 100 * 2**i, 0.5) for i in range(4)]
    rising = [event(i, 100 * 2**i, 0.5 + 0.1 * i) for i in range(4)]
    falling = [event(i, 100 * 2**i, 0.5 * 0.8**i) for i in range(4)]
    worth = [
        Proportional()._later(limited(cost=Cost(1600, 3200), history=history), present(loss), 800)
        for history, loss in ((rising, 0.9), (flat, 0.5), (falling, 0.5 * 0.8**4))
    ]
    assert worth[0] == worth[1] == 0 < worth[2]


def test_what_training_alone_brought_down_is_no_merit_of_the_size():
    trained = [event(1, 400, 2.0), event(2, 400, 0.5)]
    policy, now = Proportional(), limited(cost=Cost(400, 800))
    without = policy._later(now, present(0.4), 100)
    assert policy._later(replace(now, history=trained), present(0.4), 100) == without


def test_looks_that_grow_nothing_tell_the_loss_of_a_size_better():
    policy, now = Proportional(), limited(cost=Cost(400, 800), history=[event(1, 200, 0.6)])
    unlucky = replace(now, history=[*now.history, event(2, 400, 0.7)])
    assert policy._later(now, present(0.7), 100) == 0
    assert policy._later(unlucky, present(0.4), 100) == pytest.approx(
        0.4 * (1 - 1.25 ** -(math.log(0.36 / 0.28) / 4 / math.log(2)))
    )
    assert policy._later(unlucky, present(0.4), 100) < policy._later(now, present(0.4), 100)


def test_nothing_pays_where_the_loss_is_gone():
    falling = [event(i, 100 * 2**i, 0.5 * 0.8**i) for i in range(3)]
    now = limited(cost=Cost(800, 1600), history=falling)
    assert Proportional().decide(now, [candidate()], present(0.256)).units == {"a": 2}
    assert not Proportional().decide(now, [candidate()], present(1e-6)).units


@given(gain=st.floats(0, 1), params=st.integers(1, 10_000), wide=st.floats(0, 1), lead=st.floats(0.5, 3))
def test_a_block_goes_in_if_it_gains_more_for_its_parameters(gain, params, wide, lead):
    tried = [candidate(alone=1.0, gain=wide), candidate("place", params, gain, kind="insert", units=1)]
    decision = Proportional(depth=True, lead=lead).decide(limited(), tried, present())
    wins = gain > 0 and gain / params > max(lead * wide / 100, PRICE)
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
    tried, policy = (candidate("place", kind="insert", units=1),), Proportional(depth=True)
    for growths in ((grown,), ()):  # also where it could not go in
        history = [event(candidates=tried, growths=growths, progress=0.3, epoch=2.0)]
        assert policy.propose(situation(history=history, epoch=2.0, places=lambda: ("place",))).blocks == ()
        assert policy.propose(situation(history=history, epoch=2.1)) is None
        assert policy.propose(situation(history=history, epoch=2.0, progress=0.301)) is None  # an epoch told whole
    wider = Growth("widen", "a", 2, 8, 10, 0.1, 0.0, 0.1, 0.0, 50)
    history = [event(candidates=tried, growths=(wider,), progress=0.3, epoch=2.0)]
    assert policy.propose(situation(history=history, epoch=2.0)) is None


def test_it_tilts_towards_what_gained_more_for_its_cost():
    seen = (candidate("a", gain=0.09), candidate("b", gain=0.01), candidate("b", -100, -1.0, kind="remove"))
    now = situation(history=[event(candidates=seen)], budget=LIMITED)
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


def test_the_tilt_is_by_the_last_event_that_had_gains():
    judged = event(candidates=(candidate("a", gain=0.09), candidate("b", gain=0.01)))
    plain = event(
        2, candidates=(candidate("a", gain=math.nan, se=math.nan), candidate("b", gain=math.nan, se=math.nan))
    )
    now = limited()
    for before, same in (((judged, plain), (judged,)), ((plain,), ())):
        assert Proportional().propose(replace(now, history=before)) == Proportional().propose(
            replace(now, history=same)
        )


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.05, 0.99), steps=st.integers(500, 5_000))
@example(share=0.3, steps=1_000)
@example(share=0.3, steps=1_001)
@example(share=0.3, steps=9_262)
@example(share=0.9, steps=1_000)
def test_pruning_looks_are_as_many_however_steps_are_rounded(share, steps):
    policy, history = Proportional(prune=True, share=share), []
    for step in range(steps + 1):
        now = situation(progress=step / steps, history=history)
        if policy.propose(now) is not None:
            history.append(event(progress=now.progress))
    assert len(history) == policy.events + PRUNINGS
    *_, grown, first, second, third = (one.progress for one in history)
    looks = [first, second, third]
    assert grown == pytest.approx(share, abs=1 / steps)
    apart = min(0.08, (1 - share) / 4)
    assert all(
        later - earlier == pytest.approx(apart, abs=1.001 / steps) for earlier, later in pairwise([share, *looks])
    )


def test_before_and_during_the_growth_nothing_goes():
    policy = Proportional(prune=True, share=0.8)
    for last, progress in ((0.1, 0.19), (0.5, 0.55), (0.7, 0.79)):
        assert policy.propose(situation(progress=progress, history=[event(progress=last)])) is None


def test_what_is_said_where_no_unit_goes():
    decision = Proportional(prune=True).decide(
        situation(), [candidate(params=-10, gain=-1.0, kind="remove")], present()
    )
    assert (decision.removals, decision.reason) == ({}, "no unit is worth less than it costs")


def test_units_may_go_only_after_the_growth_and_not_at_once():
    grown = Growth("widen", "a", 4, 4, 8, 0.1, 0.0, 0.1, 0.0, 100)
    last = event(growths=(grown,), progress=0.6)
    policy = Proportional(prune=True, share=0.6)
    assert Proportional(share=0.6).propose(situation(progress=0.9, history=[last])) is None
    assert policy.propose(situation(progress=0.65, history=[last])) is None
    first = policy.propose(situation(progress=0.69, history=[last]))
    assert first is not None
    assert not first  # what has just grown rests
    second = policy.propose(situation(progress=0.77, history=[last, event(2, progress=0.69)]))
    assert second.removals == {"a": 1}
    done = [last, *(event(2 + i, progress=0.68 + 0.08 * i) for i in range(PRUNINGS))]
    assert policy.propose(situation(progress=0.99, history=done)) is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("events", 0),
        ("share", 0),
        ("multiple", 0),
        ("lead", -1),
        ("bounds", (2, 3)),
        ("factor", 1),
        ("recent", 0),
        ("strength", -3),
        ("init", "foo"),
        ("init", "net2net"),
        ("init", "twins"),
    ],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(InputError, match=option):
        Proportional(**{option: value})


def test_units_can_not_go_after_a_growth_that_never_ends():
    with pytest.raises(InputError, match="prune: expected a share of the run below 1"):
        Proportional(prune=True, share=1.0)


def network(stops, events, most=None):
    """Sizes after each event of a run with stops, of a network whose growths are all made [parameters]."""
    policy = Proportional(stops=stops, events=events, share=0.5)
    sizes, history, found = dict(SIZES), [], []
    for step in range(101):
        now = Situation(
            sizes=sizes,
            cost=cost_with({}, sizes),
            cost_with=partial(cost_with, sizes=sizes),
            progress=step / 100,
            budget=Budget(max_params=most),
            history=tuple(history),
        )
        if plan := policy.propose(now):
            assert policy.decide(now, [candidate(a) for a in plan.units], present()).units
            sizes = {a: size + plan.units.get(a, 0) for a, size in sizes.items()}
            found.append(cost_with({}, sizes).params)
            history.append(event(len(found), found[-1], progress=step / 100))
    return found, sizes


@given(stops=st.lists(st.integers(600, 50_000), min_size=1, max_size=5, unique=True).map(sorted))
def test_a_family_of_given_sizes_has_a_stage_for_each(stops):
    found, _ = network(tuple(stops), len(stops))
    for stop in stops:
        below = max(size for size in found if size <= stop)
        assert stop - below <= 1.1 * (20 + 5) * math.sqrt(stop)  # about one more unit
    last, sizes = network(tuple(stops), 1)
    assert len(last) == 1
    assert all(cost_with({axis: 1}, sizes).params > stops[-1] for axis in sizes)


def test_stops_keep_within_the_budget():
    found, _ = network((1_000, 4_000), 2, most=2_000)
    assert found[0] <= 1_000 < found[1] <= 2_000


def test_a_run_with_wanted_sizes_stops_at_each():
    policy = Proportional.over(Timetable(events=3, params=1_000, sizes=(2_000, 8_000)))
    assert policy.stops == (2_000, 4_000, 8_000)
