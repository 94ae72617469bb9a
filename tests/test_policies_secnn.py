"""SECNN's policy: its rule, its pace and its sizes, its score on trial, and what a diagonal does not see."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from outgrow import Grower
from outgrow.errors import InputError
from outgrow.grow.block_panel import BlockPanel
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.check import check
from outgrow.grow.diagonal import diagonal_score
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.kink import Halfway
from outgrow.grow.objective import OutputLoss
from outgrow.grow.policies.secnn import Secnn
from outgrow.grow.policies.senn import Senn
from outgrow.grow.policy import Plan, Present, Situation, Timetable
from outgrow.grow.proposals import PASSES, PROPOSALS
from outgrow.grow.sample import Batch, Sample
from outgrow.grow.setup import Setup
from outgrow.grow.unit_panel import UnitPanel
from outgrow.models.seed import Seed
from outgrow.net.axes import axes
from outgrow.net.cost import flops_by_weight
from outgrow.net.deepen import insert_block_, late_first
from outgrow.net.widen import apply_
from outgrow.net.widening import Widening
from test_grow_panel import NETS, WITH_PLACES, setup_of, unit_panel

PRESENT = Present(math.nan, score=math.nan, ceiling=math.nan, diagonal=5.0)


def candidate(where="a", diagonal=0.0, params=5, kind="widen", units=2):
    nans = dict.fromkeys(("gain", "se", "realised", "alone", "alone_se", "score", "bound", "gradient"), math.nan)
    return Candidate(kind, where, units if kind == "widen" else 1, params, 10, diagonal=diagonal, **nans)


def event(epoch, kind="widen", where="a"):
    growths = (Growth(kind, where, 1, 1, 2, math.nan, math.nan, math.nan, 0.0, 5),) if kind else ()
    return Event(1, None, (), growths, 0, 0, "", 0.0, 0, None, 0, epoch)


def situation(places=(), **kwargs):
    def cost_with(units):
        return Cost(100 + 5 * sum(units.values()), 1000)

    return Situation({"a": 3, "b": 3}, cost_with({}), cost_with, places=lambda: tuple(places), **kwargs)


@given(
    st.floats(0.5, 4),
    st.lists(
        st.builds(
            candidate,
            where=st.sampled_from("abcdef"),
            diagonal=st.floats(0, 20),
            params=st.integers(0, 5000),
            kind=st.sampled_from(["widen", "insert"]),
        ),
        max_size=6,
        unique_by=lambda c: c.where,
    ),
)
def test_it_adds_the_best_discounted_score_if_it_is_tau_times_the_present_one(tau, found):
    def score(c):
        return (5.0 + c.diagonal) * math.exp(-1e-7 * c.params**2)

    decision = Secnn(tau=tau).decide(situation(), found, PRESENT)
    chosen = [c for c in found if c.where in decision.units or c.where in decision.blocks]
    assert len(chosen) == any(score(c) > tau * 5.0 for c in found)
    assert decision.reason
    assert not decision.again
    for c in chosen:
        assert score(c) == max(map(score, found))
        assert (decision.units, decision.blocks) == (({c.where: 2}, ()) if c.kind == "widen" else ({}, (c.where,)))


@pytest.mark.parametrize("present", [0.0, math.nan])
def test_nothing_is_added_where_nothing_is_known(present):
    found = [candidate(diagonal=present)]
    assert not Secnn().decide(situation(), found, replace(PRESENT, diagonal=present)).units
    assert not Secnn().decide(situation(), [], PRESENT).units


def test_what_the_budget_does_not_allow_is_neither_tried_nor_added():
    now = situation(budget=Budget(max_params=112), epoch=1.0)
    found = [candidate("a", 50.0, params=13), candidate("b", 20.0, params=12)]
    assert Secnn().decide(now, found, PRESENT).units == {"b": 2}
    assert not Secnn().decide(now, found[:1], PRESENT).units
    assert Secnn().propose(now).units == {"a": 2, "b": 2}
    assert Secnn().propose(replace(now, history=[event(-20.0)])).units == {"b": 2}  # four of a are too many
    plan = Secnn().propose(replace(now, budget=Budget(max_params=105)))
    assert not plan
    assert "105 parameters" in plan.reason


def test_an_axis_grows_by_two_and_then_by_four():
    history = [event(-30.0, where="b"), event(-20.0, where="b"), event(-19.0, kind="")]
    plan = Secnn().propose(situation(epoch=1.0, history=history))
    assert (plan.units, plan.evidence, plan.diagonal) == ({"a": 2, "b": 4}, "score", True)
    assert Secnn(channels=(3,)).propose(situation(epoch=1.0, history=history)).units == {"a": 3, "b": 3}


def test_a_block_takes_a_layer_behind_its_last_one_while_it_has_less_than_it_may():
    places = ["s.0.0", "s.0.1", "s.1.0", "stem"]
    assert Secnn().propose(situation(places, epoch=1.0)).blocks == ("s.0.1", "s.1.0", "stem")
    assert Secnn(layers=2).propose(situation(places, epoch=1.0)).blocks == ("s.1.0", "stem")
    assert Secnn(layers=0).propose(situation(places, epoch=1.0)).blocks == ()


@given(st.floats(0, 5), st.lists(st.tuples(st.floats(0.01, 1.5), st.booleans()), min_size=1, max_size=30))
def test_it_looks_once_an_epoch_and_not_while_it_cools_down(cooldown, steps):
    policy, history, epoch = Secnn(cooldown=cooldown), [], 0.0
    for step, grows in steps:
        epoch += step
        grew = max((one.epoch for one in history if one.growths), default=-math.inf)
        looked = math.floor(max((one.epoch for one in history), default=0.0) + 1e-9)
        plan = policy.propose(situation(epoch=epoch, history=history))
        assert (plan is not None) == (math.floor(epoch + 1e-9) > looked and epoch >= grew + cooldown - 1e-9)
        if plan:
            history.append(event(epoch, kind="widen" if grows else ""))
    grown = [one.epoch for one in history if one.growths]
    assert all(later - earlier >= cooldown - 1e-6 for earlier, later in pairwise(grown))


def test_the_cooldown_is_a_share_of_the_run_and_exact_in_the_paper():
    assert Secnn.over(Timetable(epochs=300, share=0.6)) == Secnn(cooldown=10.0, share=0.6)
    assert Secnn.over(Timetable(epochs=60)).cooldown == pytest.approx(2.0)
    paper = Secnn.paper(Timetable(epochs=60))
    assert (paper.cooldown, paper.tau, paper.rate, paper.channels, paper.layers) == (10.0, 2.0, 1e-7, (2, 4), 10)
    assert Secnn(share=0.5).propose(situation(progress=0.6, epoch=5.0)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()},
        {"channels": (2, 0)},
        {"tau": 0.0},
        {"every": -1.0},
        {"rate": -1},
        {"layers": -1},
        {"cooldown": -1},
        {"share": 0},
        {"share": 5},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Secnn(**wrong)


def terms_of(setup):
    """The terms of every parameter of the real model, by name."""
    setup.model.eval()
    names = [name for name, _ in setup.model.named_parameters()]
    return diagonal_score(setup.model, names, setup.sample.a, setup.objective)


@pytest.mark.parametrize("name", NETS)
def test_scores_of_units_are_those_of_the_widened_network(name):
    setup = setup_of(name, diagonal=True, judged=False)
    panel = unit_panel(setup)
    before = sum(float(term.sum()) for term in terms_of(setup).values())
    assert panel.present.diagonal == pytest.approx(before, rel=1e-9)
    for one in panel.candidates:
        (units,), _ = panel.chosen({one.where: 2})
        edit = apply_(setup.model, setup.axes, [units.widening], inputs=setup.example, generator=setup.generator)
        after = sum(float(term.sum()) for term in terms_of(setup).values())
        edit.undo()
        assert one.diagonal > 0
        assert after == pytest.approx(before + one.diagonal, rel=1e-6)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_scores_of_blocks_are_those_of_the_deeper_network(name):
    for i in range(len(setup_of(name).places)):
        setup = setup_of(name, diagonal=True, judged=False)
        panel, before = BlockPanel(setup, setup.places), sum(float(term.sum()) for term in terms_of(setup).values())
        assert panel.present.diagonal == pytest.approx(before, rel=1e-9)
        one = panel.candidates[i]
        (block,) = panel.chosen([one.where])
        insert_block_(setup.model, block.insertion, example=setup.example)
        with Halfway():  # the new layer may sit at kinks
            after = sum(float(term.sum()) for term in terms_of(setup).values())
        assert one.diagonal > 0
        assert after == pytest.approx(before + one.diagonal, rel=1e-6)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_scores_alone_leave_the_second_part_of_the_sample_alone(name):
    for make in (unit_panel, lambda setup: BlockPanel(setup, setup.places)):
        judged, alone = setup_of(name), setup_of(name, judged=False, jump_start=True)
        alone = replace(alone, sample=Sample(alone.sample.a, ()))
        dear, cheap = make(judged), make(alone)
        assert [c.score for c in cheap.candidates] == pytest.approx([c.score for c in dear.candidates])
        assert all(math.isnan(c.gain) and math.isnan(c.realised) for c in cheap.candidates)
        assert math.isnan(cheap.present.gain)
        assert cheap.flops < dear.flops
    blocks = cheap.chosen([place.name for place in late_first(alone.model, alone.places)])
    for block in blocks:
        insert_block_(alone.model, block.insertion, example=alone.example)
    for block in blocks:
        for key, value in block.written(alone.model).items():
            torch.testing.assert_close(alone.model.get_parameter(key).detach(), value, rtol=0, atol=0)


def test_a_diagonal_costs_passes_and_leaves_the_model_on_trial_frozen():
    plain, diagonal = (
        unit_panel(setup_of("mlp", judged=False)),
        unit_panel(setup_of("mlp", judged=False, diagonal=True)),
    )
    assert diagonal.flops > plain.flops
    assert all(math.isnan(c.diagonal) for c in plain.candidates)
    assert math.isnan(plain.present.diagonal)
    assert not any(p.requires_grad for p in diagonal._trial.model.parameters())


def copies(model, units, batches, objective, generator):
    """Units that are exact copies of the first one, which any of their readers has already."""
    found = []
    for axis, count in units.items():
        rows, channels = {}, {}
        for member in axis.members:
            tensor = model.state_dict()[member.tensor]
            taken = tensor.index_select(member.dim, member.index[0]).repeat_interleave(count, member.dim)
            (rows if "out" in member.roles else channels if "channel" in member.roles else {})[member.tensor] = taken
        found.append(Widening(axis, count, rows, channels))
    return found


def test_copies_of_a_good_neuron_pass_under_a_diagonal_and_not_under_the_exact_score(monkeypatch):
    monkeypatch.setitem(PROPOSALS, "copies", copies)
    monkeypatch.setitem(PASSES, "copies", 0)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 1)).double(), torch.randn(200, 3).double()
    y = 3 * (x[:, :1] + 1).tanh()
    found = axes(model, x[:2])
    setup = Setup(
        model=model,
        axes=found,
        places=(),
        counts={key: count // 2 for key, count in flops_by_weight(model, x[:2]).items()},
        sample=Sample([Batch(x[::2], y[::2], 100)], [Batch(x[1::2], y[1::2], 100)]),
        objective=OutputLoss(F.mse_loss),
        example=x[:2],
        generator=torch.Generator().manual_seed(0),
        proposal="copies",
        judged=False,
        diagonal=True,
    )
    secnn, senn, now = Secnn(), Senn(), situation()
    accepted = [
        bool(check(setup, Plan({"0": count}, "", evidence="score", diagonal=True), policy, now))
        for policy in (secnn, senn)
        for count in (1, 20, 40)
    ]
    assert accepted == [False, True, True, False, False, False]
    (one,), (many,) = (UnitPanel(setup, {found[0]: count}).candidates for count in (1, 40))
    assert many.diagonal == pytest.approx(40 * one.diagonal)
    assert many.score < 0.1 * many.present


def trained(name, policy, epochs=6, **kwargs):
    """A network that grows while it learns which half of an image is brighter, and where."""
    torch.manual_seed(0)
    x = torch.randn(128, 1, 6, 6)
    y = (x[:, 0, :3].mean((1, 2)) > 0).long() + (x[:, 0, :, :2].mean((1, 2)) > 0).long()
    model = Seed(name, (1, 6, 6), 3, (3, 4)).build()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    grower = Grower(model, optimizer, F.cross_entropy, x[:1], sample=64, policy=policy, **kwargs)
    for epoch in range(1, epochs + 1):
        for part in range(0, 128, 32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part : part + 32]), y[part : part + 32]).backward()
            optimizer.step()
        grower.check([(x, y)], progress=epoch / epochs, epoch=epoch)
    return grower


@pytest.mark.parametrize("name", ["convnet", "resnet"])
def test_a_network_grows_and_keeps_its_function(name):
    grower = trained(name, Secnn(tau=1.001, cooldown=2.0))
    growths = [(one.epoch, growth) for one in grower.history for growth in one.growths]
    assert [epoch for epoch, _ in growths] == [1, 3, 5]
    assert all(growth.moved < 1e-4 for _, growth in growths)
    seen = Counter()
    for _, growth in growths:
        if growth.kind == "widen":
            assert growth.units == (4 if seen[growth.where] else 2)
            seen[growth.where] += 1
    assert seen


def test_a_residual_network_grows_in_depth_where_it_has_no_room_for_channels():
    grower = trained("resnet", Secnn(tau=1.0001, cooldown=1.0), epochs=2, max_params=600)
    growths = [growth for one in grower.history for growth in one.growths]
    assert [(growth.kind, growth.params) for growth in growths] == [("insert", 87)]


def test_the_published_threshold_asks_for_more_than_new_weights_at_zero_have():
    grower = trained("resnet", Secnn(cooldown=1.0), epochs=2)
    assert not any(one.growths for one in grower.history)
    assert "not above 2 times" in grower.history[-1].reason
