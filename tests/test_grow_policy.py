"""The contract between policies and checks: what a plan asks for is what is done, known and recorded."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import EditError, InputError
from outgrow.grow.check import add_unseen, check
from outgrow.grow.policy import Decision, Plan
from outgrow.grow.unit_panel import UnitPanel
from outgrow.net.cost import flops, parameters
from outgrow.train import grower as grower_module
from outgrow.train import growing as growing_module
from outgrow.train.grower import Grower
from test_grow_check import Takes, everything, situation_of, state_of
from test_grow_panel import NETS, WITH_PLACES, setup_of, target_of

JUDGED = ("gain", "se", "realised", "alone", "alone_se")
SCORED = ("score", "bound", "gradient", "present")


class Plans:
    """A policy that plans what it was told to, and takes all of it."""

    def __init__(self, plan, again=False):
        self.plan, self.again, self.situations, self.presents = plan, again, [], []

    def propose(self, now):
        self.situations.append(now)
        return self.plan(now)

    def decide(self, now, candidates, present):
        self.presents.append(present)
        units = {c.where: c.units for c in candidates if c.kind == "widen"}
        blocks = [c.where for c in candidates if c.kind == "insert"]
        return Decision(units, "all", () if units else tuple(blocks), again=self.again)


def wider(now, units=2, **options):
    return Plan(dict.fromkeys(now.sizes, units), "wider", **options)


def grower_of(name, plan, again=False, **options):
    """A Grower in float64 with a policy, and its data."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    model, x = build().double(), torch.randn(120, *shape).double()
    y, optimizer = target_of(x), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    options = {"sample": 60, "policy": Plans(plan, again), **options}
    return Grower(model, optimizer, F.cross_entropy, x[:2], **options), x, y


def answers(model, x):
    """What a model says in both modes, its running statistics left alone."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    with torch.no_grad():
        for training in (True, False):
            found.append(model.train(training)(x))
    model.train().load_state_dict(state)
    return found


# costs


@pytest.mark.parametrize("evidence", ["none", "score", "gain"])
@pytest.mark.parametrize("name", NETS)
def test_a_candidate_costs_what_the_situation_says(name, evidence):
    grower, x, y = grower_of(name, lambda now: wider(now, evidence=evidence))
    now = grower.situation()
    alone = {axis: now.cost_with({axis: 2}) for axis in now.sizes}
    together = now.cost_with(dict.fromkeys(now.sizes, 2))
    for candidate in grower.check([(x, y)]).candidates:
        cost = alone[candidate.where]
        assert (candidate.params, candidate.flops) == (cost.params - now.cost.params, cost.flops - now.cost.flops)
    assert (together.params, together.flops) == (parameters(grower.model), flops(grower.model, x[:1]))
    assert grower.cost() == together


# scores alone


@pytest.mark.parametrize("name", NETS)
def test_scores_are_the_same_with_and_without_gains(name):
    found = {}
    for evidence in ("gain", "score"):
        setup = setup_of(name, judged=evidence == "gain")
        plan = replace(everything(setup), evidence=evidence)
        policy = Takes()
        verdict = check(setup, plan, policy, situation_of(setup))
        ((_, candidates, present),) = policy.seen
        found[evidence] = verdict, candidates, present
        known = [getattr(candidate, key) for candidate in candidates for key in JUDGED] + [verdict.gain_now]
        assert all(math.isnan(value) == (evidence == "score") for value in known)
    units = len(everything(setup_of(name)).units)
    for judged, scored in zip(found["gain"][1][:units], found["score"][1][:units], strict=True):
        assert [getattr(judged, key) for key in SCORED] == [getattr(scored, key) for key in SCORED]
        assert (judged.where, judged.params, judged.flops) == (scored.where, scored.params, scored.flops)
    assert [c.where for c in found["gain"][1]] == [c.where for c in found["score"][1]]
    assert found["score"][0].flops < found["gain"][0].flops
    assert (found["score"][0].examples, found["gain"][0].examples) == (0, 120)


@pytest.mark.parametrize("name", WITH_PLACES)
def test_scores_of_blocks_are_the_same_with_and_without_gains(name):
    found = []
    for evidence in ("gain", "score"):
        setup, policy = setup_of(name, judged=evidence == "gain"), Takes()
        blocks = tuple(place.name for place in setup.places)
        check(setup, Plan({}, "blocks", blocks, evidence=evidence), policy, situation_of(setup))
        ((_, candidates, present),) = policy.seen
        found.append((present.score, [getattr(c, key) for c in candidates for key in SCORED]))
        assert all(math.isnan(c.gain) == (evidence == "score") for c in candidates)
    assert found[0] == found[1]


@pytest.mark.parametrize("asked", ["none", "score", "diagonal", "removals"])
@pytest.mark.parametrize("name", NETS)
def test_looking_changes_nothing_whatever_is_asked_for(name, asked):
    setup = setup_of(name, n=60, judged=asked == "removals", diagonal=asked == "diagonal")
    plan, model = everything(setup), setup.model.train()
    next(model.children()).eval()
    before = state_of(model)
    if asked == "none":
        add_unseen(setup, Plan(plan.units, "units"))
        add_unseen(setup, Plan({}, "blocks", plan.blocks))
    else:
        removals = dict.fromkeys(plan.units, 1) if asked == "removals" else {}
        plan = replace(plan, evidence="gain" if removals else "score", removals=removals)
        check(setup, plan, Takes(), situation_of(setup))
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("jump_start", [False, True])
def test_a_policy_may_grow_by_scores(jump_start):
    grower, x, y = grower_of("mlp", lambda now: wider(now, evidence="score", jump_start=jump_start))
    before = answers(grower.model, x)
    event = grower.check([(x, y)])
    torch.testing.assert_close(answers(grower.model, x), before, rtol=1e-9, atol=1e-9)
    record = json.loads(json.dumps(event.to_json(), allow_nan=False))
    assert all(candidate["score"] > 0 and candidate["gain"] is None for candidate in record["candidates"])
    assert all(growth["gain"] is None for growth in record["growths"])


# what the present weights are worth


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_score_of_the_present_weights_is_that_of_a_dense_matrix(damping):
    """eta = g^T (S (x) A)^-1 g, the factors of one layer taken from single examples."""
    setup = setup_of("mlp", damping=damping, fisher="empirical")
    axis = next(axis for axis in setup.axes if axis.name == "0")
    panel = UnitPanel(setup, {axis: 2})
    model, batches = setup.model.eval(), setup.sample.a
    x, y = (torch.cat([getattr(batch, key) for batch in batches]) for key in ("inputs", "target"))
    a = torch.cat([model[:2](x), torch.ones(len(x), 1).double()], 1).detach()
    z = model[2](a[:, :-1]).detach().requires_grad_()
    (u,) = torch.autograd.grad(F.cross_entropy(model[3:](z), y, reduction="sum"), z)

    def damped(matrix):
        return matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix)).double()

    fisher = torch.kron(damped(u.T @ u / len(u)), damped(a.T @ a / len(a)))
    gradient = (u.T @ a / len(u)).flatten()
    expected = float(gradient @ torch.linalg.pinv(fisher, hermitian=True) @ gradient)
    assert panel.present.score == pytest.approx(expected, rel=1e-8)
    assert panel.candidates[0].present == panel.present.score


@pytest.mark.parametrize("name", NETS)
def test_what_the_present_weights_are_worth(name):
    setup, policy = setup_of(name, judged=False), Takes()
    plan = Plan(everything(setup).units, "scores", evidence="score")
    check(setup, plan, policy, situation_of(setup))
    ((_, candidates, present),) = policy.seen
    shares = [candidate.present for candidate in candidates]
    assert 0 < max(shares) <= present.score * (1 + 1e-12)
    assert present.score <= sum(shares) * (1 + 1e-12)  # a layer may read several axes
    model, squares = setup.model.eval(), 0.0
    for batch in setup.sample.a:
        z = model(batch.inputs).detach().requires_grad_()
        (u,) = torch.autograd.grad(F.cross_entropy(z, batch.target, reduction="sum"), z)
        squares += float(u.square().sum())
    assert present.ceiling == pytest.approx(squares / 120, rel=1e-9)
    assert math.isnan(present.gain)


def test_only_scores_have_a_ceiling_and_only_gains_a_gain():
    for evidence in ("score", "gain"):
        grower, x, y = grower_of("mlp", lambda now, evidence=evidence: wider(now, evidence=evidence))
        grower.check([(x, y)])
        (present,) = grower.policy.presents
        assert math.isnan(present.ceiling) == (evidence == "gain")
        assert math.isnan(present.gain) == (evidence == "score")
        assert present.score > 0


# a plan overrides the Grower


@pytest.mark.parametrize("evidence", ["none", "score", "gain"])
def test_the_plan_says_how_units_come_in(evidence):
    events, nets = [], []
    for planned, own in (("closed", "random"), (None, "closed"), (None, "random")):
        grower, x, y = grower_of("mlp", lambda now, i=planned: wider(now, init=i, evidence=evidence), proposal=own)
        record = grower.check([(x, y)]).to_json()
        events.append({key: value for key, value in record.items() if key != "seconds"})
        nets.append([tensor.tolist() for tensor in grower.model.state_dict().values()])
        assert grower.proposal == own
    assert (events[0], nets[0]) == (events[1], nets[1])
    assert nets[0] != nets[2]


def test_an_unknown_way_to_come_in_is_refused():
    grower, x, y = grower_of("mlp", lambda now: wider(now, init="best"))
    with pytest.raises(InputError, match="unknown proposal 'best': choose one of random"):
        grower.check([(x, y)])


@pytest.mark.parametrize(("own", "planned"), [(False, None), (False, True), (True, None), (True, False)])
@pytest.mark.parametrize(("name", "kind"), [("mlp", "units"), ("resnet", "blocks")])
def test_the_plan_says_whether_steps_are_taken(name, kind, own, planned):
    def plan(now):
        units = dict.fromkeys(now.sizes, 2) if kind == "units" else {}
        return Plan(units, "one kind", () if units else now.places(), jump_start=planned)

    grower, x, y = grower_of(name, plan, jump_start=own)
    before = answers(grower.model, x)
    event = grower.check([(x, y)])
    moved = max(float((a - b).abs().max()) for a, b in zip(answers(grower.model, x), before, strict=True))
    assert max(candidate.alone for candidate in event.candidates) > 1e-6
    assert (moved > 1e-6) == (own if planned is None else planned)


# several events at once


def grow_until(size, **options):
    """A unit on the first axis while it is smaller than that."""

    def plan(now):
        axis = next(iter(now.sizes))
        return Plan({axis: 1} if now.sizes[axis] < size else {}, "one more", **options)

    return plan


@pytest.mark.parametrize("evidence", ["score", "gain"])
def test_a_policy_looks_again_until_nothing_grows(evidence):
    saved = []
    plan = grow_until(6, evidence=evidence)
    grower, x, y = grower_of("mlp", plan, again=True, before_growth=lambda verdict: saved.append(verdict))
    event = grower.check([(x, y)], 0.25, 1.5)
    assert [len(one.growths) for one in grower.history] == [1, 1, 1, 0]
    assert grower.history[-2] is event  # the last that changed something
    assert [one.event for one in grower.history] == [1, 2, 3, 4]
    assert {(one.progress, one.epoch) for one in grower.history} == {(0.25, 1.5)}
    assert [now.sizes["0"] for now in grower.policy.situations] == [3, 4, 5, 6]
    assert [len(now.history) for now in grower.policy.situations] == [0, 1, 2, 3]
    assert [bool(verdict) for verdict in saved] == [True, True, True]
    for one, following in zip(grower.history, grower.history[1:], strict=False):
        assert one.params_after == following.params_before


def test_a_policy_that_is_no_longer_due_leaves_the_event_before():
    grower, x, y = grower_of("mlp", lambda now: None if now.history else wider(now), again=True)
    event = grower.check([(x, y)])
    assert event.growths
    assert grower.history == [event]


def test_a_policy_that_wants_to_look_again_but_adds_nothing_does_not():
    class Never(Plans):
        def decide(self, now, candidates, present):
            return Decision({}, "never", again=True)

    grower, x, y = grower_of("mlp", None, policy=Never(wider))
    assert not grower.check([(x, y)]).growths
    assert len(grower.history) == len(grower.policy.situations) == 1


def test_a_policy_that_never_ends_is_told(monkeypatch):
    monkeypatch.setattr(grower_module, "AGAIN_AT_MOST", 3)
    grower, x, y = grower_of("mlp", lambda now: wider(now, 1), again=True)
    with pytest.raises(InputError, match="policy Plans: expected its looks at one moment to end, received again=True"):
        grower.check([(x, y)])
    assert len(grower.history) == 3


def test_a_block_that_can_not_be_inserted_does_not_cost_the_units_their_look(monkeypatch):
    def stubborn(*args, **kwargs):
        raise EditError("it won't")

    def plan(now):
        here = [event for event in now.history if event.epoch == now.epoch]
        return Plan({}, "blocks", now.places()[:1]) if not here else wider(now) if len(here) == 1 else None

    monkeypatch.setattr(growing_module, "insert_block_", stubborn)
    grower, x, y = grower_of("resnet", plan, again=True)
    before = [place.name for place in grower.places]
    event = grower.check([(x, y)])
    assert [growth.kind for growth in event.growths] == ["widen"] * len(event.growths) != []
    assert [len(one.growths) > 0 for one in grower.history] == [False, True]
    assert [place.name for place in grower.places] == before[1:]


# nonsense


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"evidence": "gains"}, ("evidence", "none, score, gain", "'gains'")),
        ({"removals": {"0": 1}, "evidence": "none"}, ("evidence", "removals", "'none'")),
        ({"removals": {"0": 0}}, ("removals of '0'", "whole number above zero", "received 0")),
        ({"units": {"0": -2}}, ("units of '0'", "whole number above zero", "received -2")),
        ({"units": {"0": 2.5}}, ("units of '0'", "received 2.5")),
        ({"units": {"0": "2"}}, ("units of '0'", "received '2'")),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError) as error:
        Plan(**{"units": {}, "reason": "nonsense", **options})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("returned", [Decision({}, "no plan"), {"0": 2}, "wider", 0])
def test_what_is_no_plan_is_told(returned):
    grower, x, y = grower_of("mlp", lambda now: returned)
    with pytest.raises(InputError, match="policy Plans: expected propose to return a Plan or None, received"):
        grower.check([(x, y)])


@pytest.mark.parametrize("returned", [None, {"0": 2}, Plan({}, "no decision")])
def test_what_is_no_decision_is_told(returned):
    class Odd(Plans):
        def decide(self, now, candidates, present):
            return returned

    grower, x, y = grower_of("mlp", None, policy=Odd(wider))
    with pytest.raises(InputError, match="policy Odd: expected decide to return a Decision, received"):
        grower.check([(x, y)])


@pytest.mark.parametrize("count", [1.5, 0, 3, "1"])
def test_a_decision_on_what_is_no_number_of_those_on_trial_is_told(count):
    class Odd(Plans):
        def decide(self, now, candidates, present):
            return Decision({"0": count}, "odd")

    grower, x, y = grower_of("mlp", None, policy=Odd(wider))
    with pytest.raises(InputError, match=f"policy Odd decided on {count} units of '0', expected 1 to 2"):
        grower.check([(x, y)])


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan({"typo": 2}, ""), ("axes", "'typo'", "0, ")),
        (Plan({}, "", removals={"typo": 2}), ("axes", "'typo'")),
        (Plan({"0": 1}, "", ("typo",)), ("places", "'typo'")),
    ],
)
@pytest.mark.parametrize("look", ["plan", "check"])
def test_a_plan_with_unknown_names_is_told(plan, words, look):
    grower, x, y = grower_of("mlp", lambda now: plan)
    with pytest.raises(InputError) as error:
        grower.plan() if look == "plan" else grower.check([(x, y)])
    assert all(word in str(error.value) for word in ("policy Plans: expected", *words))
    with pytest.raises(InputError, match=r"expected axes among .*, received 'typo'"):
        grower.situation().fits({"typo": 10**6})


def test_an_axis_that_can_not_be_tried_is_left_out():
    grower, x, y = grower_of("mlp", lambda now: Plan({"0": 1, fixed[0]: 1}, "one of them"))
    fixed = [axis.name for axis in grower.axes if not axis.growable]
    assert {growth.where for growth in grower.check([(x, y)]).growths} == {"0"}


def test_events_without_again_come_one_by_one_and_count_the_calls():
    grower, x, y = grower_of("mlp", lambda now: wider(now, evidence="none"))
    for number in (1, 2, 3):
        event = grower.check([(x, y)])
        assert (event.event, event.epoch, len(grower.history)) == (number, number - 1, number)
    assert grower.check([(x, y)], epoch=0.75).epoch == 0.75


def test_waiting_counts_as_a_call_and_leaves_no_event():
    grower, x, y = grower_of("mlp", lambda now: wider(now) if now.epoch == 2 else None)
    events = [grower.check([(x, y)]) for _ in range(4)]
    assert [event.event for event in events] == [0, 0, 1, 0]
    assert [event.epoch for event in events] == [0, 1, 2, 3]
    assert grower.history == [events[2]]
