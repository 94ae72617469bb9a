"""The Grower with blocks: a policy that inserts where it gains most, and what a check costs."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan, Timetable
from outgrow.models.seed import Seed
from outgrow.net.cost import flops, parameters
from outgrow.registry import POLICIES as POLICIES_BY_NAME
from outgrow.train.account import CHECK_MARGIN
from outgrow.train.grower import Grower
from test_grow_panel import encoder, target_of

LINE = re.compile(
    r"inserted a block behind (\S+): gain \d+\.\d{4} \+- \d+\.\d{4} nats, realised -?\d+\.\d{4}, \+([\d,]+) parameters"
)


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))


NETS = {
    "mlp": (mlp, (4,)),
    "resnet": (lambda: Seed("resnet", (1, 6, 6), 3, (3, 4)).build(), (1, 6, 6)),
    "pre-norm": (encoder, (3, 4)),
}


class Deepens:
    """Tries a block at every place and inserts the best by gain; keeps what it saw."""

    def __init__(self, most=1):
        self.most, self.names = most, []

    def propose(self, now):
        self.names.append(now.places())
        return Plan({}, "try blocks", now.places())

    def decide(self, now, candidates, present):
        best = sorted(candidates, key=lambda candidate: candidate.gain, reverse=True)
        return Decision({}, "the best", tuple(candidate.where for candidate in best[: self.most]))


def train(model, optimizer, x, y, steps):
    model.train()
    for i in range(steps):
        at = torch.arange(i * 50, i * 50 + 50) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()


def trained(name, n=400, steps=40, **kwargs):
    build, shape = NETS[name]
    torch.manual_seed(0)
    model, x = build(), torch.randn(n, *shape)
    y = target_of(x)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, y, steps)
    kwargs.setdefault("policy", Deepens())
    return model, optimizer, x, y, Grower(model, optimizer, F.cross_entropy, x[:2], **kwargs)


def answers(model, x):
    mode = model.training
    with torch.no_grad():
        found = model.eval()(x)
    model.train(mode)
    return found


@pytest.mark.parametrize("name", NETS)
def test_the_best_block_goes_in_and_the_function_is_kept(name):
    model, _, x, y, grower = trained(name)
    before, count, train_mode = answers(model, x), parameters(model), model.training
    event = grower.check([(x, y)])
    (growth,) = event.growths
    best = max(event.candidates, key=lambda candidate: candidate.gain)
    assert (growth.kind, growth.where, growth.units) == ("insert", best.where, 1)
    assert (growth.size_before, growth.size_after) == (0, 1)
    assert (growth.gain, growth.se, growth.realised) == (best.gain, best.se, best.realised)
    assert growth.params == best.params == parameters(model) - count
    assert (event.params_before, event.params_after) == (count, parameters(model))
    assert growth.moved < 1e-5
    torch.testing.assert_close(answers(model, x), before, rtol=1e-5, atol=1e-5)
    assert model.training == train_mode
    where, added = LINE.fullmatch(str(event)).groups()
    assert (where, int(added.replace(",", ""))) == (growth.where, growth.params)
    assert grower.history == [event]
    assert grower.flops == flops(model, x[:1])


@pytest.mark.parametrize("name", NETS)
def test_optimizer_axes_averages_and_training_go_on(name):
    build, shape = NETS[name]
    torch.manual_seed(0)
    model, x = build(), torch.randn(400, *shape)
    y, optimizer, average = target_of(x), torch.optim.Adam(model.parameters(), 0.01), AveragedModel(model)
    train(model, optimizer, x, y, 20)
    average.update_parameters(model)
    saved, policy = [], Deepens()
    grower = Grower(
        model,
        optimizer,
        F.cross_entropy,
        x[:2],
        policy=policy,
        averages=[average],
        before_growth=lambda verdict: saved.append((parameters(model), len(verdict.blocks))),
    )
    old, depth = grower.axes, len([*model.modules()])
    events = []
    for _ in range(2):
        events.append(grower.check([(x, y)]))
        owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(owned) == len(set(owned))
        assert set(owned) == {id(p) for p in model.parameters()}
        assert answers(average.module, x).shape == (400, 3)
        names = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
        assert {member.tensor for axis in grower.axes for member in axis.members} <= names
        before = [parameter.clone() for parameter in model.parameters()]
        train(model, optimizer, x, y, 3)
        average.update_parameters(model)
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert sum(changed) > 0.9 * len(changed)
    assert grower.axes is not old
    assert all(event.growths and event.growths[0].moved < 1e-5 for event in events)
    assert saved == [(event.params_before, 1) for event in events]
    assert len([*model.modules()]) > depth
    assert [event.event for event in events] == [1, 2]
    assert len(policy.names[-1]) > len(policy.names[0])  # behind a new block another can go


def test_after_a_block_widths_grow_as_ever():
    class Both(Deepens):
        def propose(self, now):
            if not now.history:
                return super().propose(now)
            return Plan(dict.fromkeys(now.sizes, 2), "widen")

        def decide(self, now, candidates, present):
            if not now.history:
                return super().decide(now, candidates, present)
            return Decision({candidate.where: candidate.units for candidate in candidates}, "all")

    for name in NETS:
        model, optimizer, x, y, grower = trained(name, policy=Both())
        assert grower.check([(x, y)]).growths[0].kind == "insert"
        sizes, before = grower.sizes, answers(model, x)
        event = grower.check([(x, y)])
        assert {growth.where for growth in event.growths} == {*sizes}
        assert {growth.kind for growth in event.growths} == {"widen"}
        assert grower.sizes == {axis: size + 2 for axis, size in sizes.items()}
        torch.testing.assert_close(answers(model, x), before, rtol=1e-5, atol=1e-5)
        train(model, optimizer, x, y, 2)


def test_a_policy_may_name_places_without_asking_for_them():
    class Knows(Deepens):
        def propose(self, now):
            return Plan({}, "it knows", ("1", "3"))

    _, _, x, y, grower = trained("mlp", policy=Knows())
    for _ in range(2):
        event = grower.check([(x, y)])
        assert [candidate.where for candidate in event.candidates] == ["1", "3"]
        assert len(event.growths) == 1


def test_several_blocks_go_in_at_one_event():
    model, optimizer, x, y, grower = trained("mlp", policy=Deepens(most=2))
    before, places = answers(model, x), [place.name for place in grower.places]
    event = grower.check([(x, y)])
    assert {growth.where for growth in event.growths} == {*places}
    assert sum(growth.params for growth in event.growths) == event.params_after - event.params_before
    torch.testing.assert_close(answers(model, x), before, rtol=1e-5, atol=1e-5)
    train(model, optimizer, x, y, 2)


class Widens(Deepens):
    """Adds two units on every axis."""

    def propose(self, now):
        return Plan(dict.fromkeys(now.sizes, 2), "try units")

    def decide(self, now, candidates, present):
        return Decision({candidate.where: candidate.units for candidate in candidates}, "all")


POLICIES = {"a block": Deepens, "all blocks": lambda: Deepens(most=9), "units": Widens}


def sample_of(x, y, count):
    """What a check of `count` examples judges with: every other one, from the second."""
    return x[1 : 2 * count : 2], y[1 : 2 * count : 2]


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("name", NETS)
def test_with_a_jump_start_the_loss_of_those_that_judged_falls(name, kind):
    verdicts = []
    model, _, x, y, grower = trained(
        name, n=800, policy=POLICIES[kind](), jump_start=True, sample=400, before_growth=verdicts.append
    )
    inputs, target = sample_of(x, y, 400)
    before = float(F.cross_entropy(answers(model, inputs), target))
    event = grower.check([(x, y)])
    drop = before - float(F.cross_entropy(answers(model, inputs), target))
    (verdict,) = verdicts
    assert len(event.growths) == len(verdict.units) + len(verdict.blocks) > 0
    where = {growth.where for growth in event.growths}
    promises = [candidate.alone for candidate in verdict.candidates if candidate.where in where]
    assert drop >= -1e-6
    assert (drop > 1e-6) == (max(promises) > 1e-6)
    if len(promises) == 1:  # the whole step, with the present weights' share of it; half is what curvature may cost
        assert drop >= 0.5 * promises[0] - 1e-6


@pytest.mark.parametrize("kind", ["all blocks", "units"])
@pytest.mark.parametrize("name", NETS)
def test_without_a_jump_start_nothing_moves(name, kind):
    verdicts = []
    model, _, x, y, grower = trained(name, policy=POLICIES[kind](), before_growth=verdicts.append)
    before = answers(model, x)
    assert grower.check([(x, y)]).growths
    torch.testing.assert_close(answers(model, x), before, rtol=1e-5, atol=1e-5)
    assert verdicts[0].step == {}


# what a check costs


SEEDS = {
    "mlp": Seed("mlp", (20,), 3, (16, 24)),
    "convnet": Seed("convnet", (1, 8, 8), 3, (4, 6)),
    "resnet": Seed("resnet", (1, 8, 8), 3, (4, 6)),
}


def grower_of(name, **kwargs):
    torch.manual_seed(0)
    seed = SEEDS[name]
    model = seed.build()
    return Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.cross_entropy, seed.example(), **kwargs)


def data_of(name, n):
    x = torch.randn(n, *SEEDS[name].inputs)
    return x, target_of(x)


@pytest.mark.parametrize("sample", [128, 400])
@pytest.mark.parametrize("name", SEEDS)
def test_the_cost_of_a_check_is_known_before(name, sample):
    grower = grower_of(name, policy=Proportional(price=-1.0), sample=sample)
    effort = grower.effort()
    assert effort.examples == sample
    assert grower.effort() == effort  # asking costs nothing
    event = grower.check([data_of(name, 2 * sample)])
    assert event.candidates
    assert event.examples == sample
    assert 0.5 < effort.flops / event.flops < 2
    assert effort.start > 0  # what starting modules costs comes beside that


@pytest.mark.parametrize("kind", POLICIES_BY_NAME)
@pytest.mark.parametrize("name", SEEDS)
def test_the_cost_of_a_check_follows_the_plan(name, kind):
    """With half of the run over, in which case every policy has something on trial, or adds it without a look."""
    grower = grower_of(name, policy=POLICIES_BY_NAME[kind](Timetable(events=4, share=0.6)), sample=192)
    said = grower.effort(grower.plan(0.59, 11.9))
    grower.check([data_of(name, 384)], 0.59, 11.9)
    first = grower.history[0]
    assert first.candidates
    assert said.flops / 3 <= first.flops <= CHECK_MARGIN * said.flops


@pytest.mark.parametrize("name", SEEDS)
def test_a_budget_bounds_the_examples(name):
    counts = []
    grower = grower_of(name)
    for budget in (1.0, 1e6, 1e8, 1e9, 1e10, 1e11, 1e13, 1e16):
        grower.check_flops = budget
        effort = grower.effort()
        counts.append(effort.examples)
        assert 128 <= effort.examples <= 16_384
        assert effort.flops <= budget or effort.examples == 128
        if effort.flops > budget:  # as little as can be, but for what costs little
            work = grower._now.work(grower._now.usual("mixed"), "mixed")
            assert effort.flops <= 1.1 * work.effort(128, 0).flops
            assert max(effort.positions.values()) > 1 or name == "mlp"
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (128, 16_384)


def test_a_check_reads_as_many_examples_as_its_budget_affords():
    grower = grower_of("mlp", check_flops=1e8, policy=Proportional(price=-1.0))
    wanted = grower.effort(grower.plan()).examples
    assert 128 < wanted < 4000
    assert grower.check([data_of("mlp", 2 * wanted + 50)]).examples == wanted
    grower.check_flops = 1.0
    assert grower.check([data_of("mlp", 600)]).examples == 128


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_budget_that_is_no_positive_number_is_refused(value):
    with pytest.raises(InputError, match="check_flops above zero"):
        grower_of("mlp", check_flops=value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_damping_below_zero_is_refused(value):
    with pytest.raises(InputError, match="damping of at least 0"):
        grower_of("mlp", damping=value)


@pytest.mark.parametrize("value", [1, 0, -5])
def test_a_sample_without_two_examples_is_refused(value):
    with pytest.raises(InputError, match="sample of at least 2 examples"):
        grower_of("mlp", sample=value)


# proportion


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("progress", [None, 0.07])
def test_what_is_proposed_is_what_is_added(name, progress):
    grower = grower_of(name, policy=Proportional(price=-1.0), sample=128)
    for step in range(2):
        now = grower.situation(None if progress is None else progress * (step + 1))
        proposed = grower.policy.propose(now)
        expected = now.cost_with(proposed.units).params
        event = grower.check([data_of(name, 256)], now.progress)
        assert {growth.where: growth.units for growth in event.growths} == proposed.units
        assert event.params_after == expected


def test_tilts_come_from_the_gains_of_the_last_event():
    grower = grower_of("mlp", policy=Proportional(price=-1.0, init=None), sample=128)
    first = grower.policy.propose(grower.situation())
    event = grower.check([data_of("mlp", 256)])
    assert event.growths
    tilted, plain = grower.policy.propose(grower.situation()), Proportional(price=-1.0, init=None, strength=0.0)
    tilts = grower.policy._tilts(grower.situation())
    even = plain.propose(grower.situation())
    growth = {axis: 1 + tilted.units.get(axis, 0) / size for axis, size in grower.sizes.items()}
    proportional = {axis: 1 + even.units.get(axis, 0) / size for axis, size in grower.sizes.items()}
    best = max(tilts, key=tilts.get)
    worst = min(tilts, key=tilts.get)
    assert tilts[best] > 1 > tilts[worst]
    assert growth[best] > proportional[best]
    assert growth[worst] < proportional[worst]
    assert proportional[best] == pytest.approx(proportional[worst], abs=0.1)
    ratios = [1 + units / size for units, size in zip(first.units.values(), (16, 24), strict=True)]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.1)  # nothing is known before the first event


@pytest.mark.parametrize("name", SEEDS)
def test_no_event_exceeds_the_budget(name):
    start = parameters(SEEDS[name].build())
    for budget in (start, int(1.1 * start), 3 * start):
        grower = grower_of(name, max_params=budget, policy=Proportional(price=-1.0, events=4), sample=32)
        for progress in (0.16, 0.31, 0.46, 0.6):
            event = grower.check([data_of(name, 64)], progress)
            assert event.params_after == parameters(grower.model) <= budget
    assert parameters(grower.model) > 2 * start
