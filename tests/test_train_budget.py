"""Budgets: no run exceeds one, whatever it limits; what a policy does at one moment is recorded event by event."""

import json
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import EditError, InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan
from outgrow.net.cost import flops, parameters
from outgrow.registry import POLICIES as POLICIES_BY_NAME
from outgrow.train import growing as growing_module
from outgrow.train import inventory as inventory_module
from outgrow.train.folder import RunFolder
from outgrow.train.grower import Grower
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from test_train_blocks import SEEDS, data_of
from test_train_run import CASES, dataset, untimed


def grower_of(name, seed=0, policy=None, **budget):
    torch.manual_seed(seed)
    model = SEEDS[name].build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    policy = policy or Proportional(price=-1.0, events=4, share=0.6)
    return Grower(
        model, optimizer, F.cross_entropy, SEEDS[name].example(), policy=policy, sample=32, seed=seed, **budget
    )


def cost_of(name):
    model = SEEDS[name].build()
    return parameters(model), flops(model, SEEDS[name].example())


def growing(grower, name, moments=(0.16, 0.31, 0.46, 0.6)):
    """The events of a run that hardly trains."""
    for progress in moments:
        yield grower.check([data_of(name, 64)], progress)


# networks


LIMITED = [
    ("mlp", "params", 0),
    ("mlp", "flops", 1),
    ("mlp", "both", 2),
    ("convnet", "params", 0),
    ("convnet", "flops", 1),
    ("resnet", "both", 0),
]


@pytest.mark.parametrize(("name", "limited", "seed"), LIMITED)
def test_no_event_exceeds_what_a_network_may_cost(name, limited, seed):
    params, forward = cost_of(name)
    budget = {"max_params": 3 * params, "max_flops": 2 * forward}
    if limited != "both":
        budget = {f"max_{limited}": budget[f"max_{limited}"]}
    grower = grower_of(name, seed, **budget)
    for event in growing(grower, name):
        assert event.params_after == parameters(grower.model) <= budget.get("max_params", math.inf)
        assert grower.flops == flops(grower.model, grower.example) <= budget.get("max_flops", math.inf)
    assert grower.budget.room(grower.cost()) < 1.4  # and it is used
    assert grower.budget.room(grower.situation().cost_with(dict.fromkeys(grower.sizes, 1))) < 1.3


@pytest.mark.parametrize("name", SEEDS)
def test_no_event_exceeds_the_latency(name, monkeypatch):
    """A pass takes as long as it takes to start it, and longer the more parameters there are."""
    calls = []

    def latency(model, example):
        calls.append(model)
        return 1e-4 + 1e-7 * parameters(model)

    monkeypatch.setattr(inventory_module, "latency", latency)
    limit = 1e-4 + 1e-7 * 3 * cost_of(name)[0]
    grower = grower_of(name, max_latency=limit)
    for event in growing(grower, name):
        assert grower.cost().latency == latency(grower.model, None) <= limit
        assert event.growths
    assert parameters(grower.model) > 1.5 * cost_of(name)[0]
    assert len(calls) <= 10  # once after each growth, beside those of this test


def test_nothing_is_timed_where_latency_is_not_limited(monkeypatch):
    monkeypatch.setattr(inventory_module, "latency", lambda model, example: pytest.fail("it was measured"))
    grower = grower_of("mlp", max_params=2_000)
    assert next(iter(growing(grower, "mlp"))).growths
    assert grower.cost().latency is None


@pytest.mark.parametrize("name", SEEDS)
def test_a_budget_of_just_the_seed_is_spent(name):
    params, forward = cost_of(name)
    for budget in ({"max_params": params}, {"max_flops": forward}):
        grower = grower_of(name, **budget)
        for event in growing(grower, name):
            assert (event.growths, event.flops) == ((), 0)
            assert event.reason == f"the budget of {grower.budget} is spent"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_params": 10}, "the budget of 10 parameters is below the seed's 819"),
        ({"max_flops": 100}, "the budget of 100 FLOPs is below the seed's 1,552"),
        ({"max_latency": 0.001}, "the latency of 1.0 ms is below the seed's 2.0 ms"),
        ({"max_params": 0}, "expected max_params as a whole number above zero"),
    ],
)
def test_a_seed_above_a_budget_is_refused(budget, message, monkeypatch):
    monkeypatch.setattr(inventory_module, "latency", lambda model, example: 0.002)
    with pytest.raises(InputError) as error:
        grower_of("mlp", **budget)
    assert message in str(error.value)


# whole runs


class Blocks:
    """Judges a block at every place at every moment; inserts the cheapest that is affordable."""

    def propose(self, now):
        return Plan({}, "blocks", now.places()) if self._due(now) else None

    def decide(self, now, candidates, present):
        affordable = sorted((c for c in candidates if now.affords(c)), key=lambda c: c.params)
        return Decision({}, "the cheapest", tuple(c.where for c in affordable[:1]))

    def _due(self, now):
        return 0.15 * (len(now.history) + 1) < now.progress < 0.6


class OneByOne:
    """Adds a unit on each axis, one axis an event, all at one moment; some moments a run, without a price."""

    def __init__(self, evidence="gain", rounds=3, moments=4):
        self.evidence, self.rounds, self.moments = evidence, rounds, moments

    def propose(self, now):
        at_once = [event for event in now.history if event.progress == now.progress]
        if not at_once and now.progress < 0.15 * (len({event.progress for event in now.history}) + 1):
            return None
        if len(at_once) >= self.rounds or now.progress > 0.6:
            return Plan({}, "enough") if at_once else None
        units = {}
        for axis in now.sizes:
            units |= {axis: 1} if now.fits({**units, axis: 1}) else {}
        return Plan(units, "one by one", evidence=self.evidence)

    def decide(self, now, candidates, present):
        best = max(candidates, key=lambda candidate: candidate.score)
        return Decision({best.where: 1}, "the best", again=True)


class Unseen(OneByOne):
    """Adds them all, unseen."""

    def __init__(self):
        super().__init__("none", rounds=1)


POLICIES = {
    "proportional": lambda run: Proportional(price=-1.0, init=None, events=run.events, share=run.share),
    "unseen": lambda run: Unseen(),
    "one by one": lambda run: OneByOne(),
    "by scores": lambda run: OneByOne("score"),
    "blocks": lambda run: Blocks(),
}


def trainer_of(path, case="rings", *, epochs=6, records=None, **options):
    folder = RunFolder(path)
    folder.claim(overwrite=True)
    keep = (lambda record: None) if records is None else records.append
    return Trainer(dataset(case), CASES[case][2], Recipe(epochs, 32, share=0.6), folder, on_record=keep, **options)


def least_of(path, case, epochs):
    """What training the seed takes, as the message says that refuses less."""
    with pytest.raises(InputError) as error:
        trainer_of(path / "refused", case, epochs=epochs, max_train_flops=1.0)
    words = str(error.value).split()
    assert f"training the seed for {epochs} epochs takes" in str(error.value)
    assert "raise it, or start with smaller widths than" in str(error.value)
    return float(words[words.index("takes") + 1])


TIGHT = [
    *((policy, times, seed) for seed, policy in enumerate(POLICIES) for times in (1.5, 4.0)),
    *(("proportional", times, seed) for seed in (1, 2) for times in (1.01, 2.5)),
]


@pytest.mark.parametrize(("policy", "times", "seed"), TIGHT)
def test_no_run_exceeds_its_training_flops(tmp_path, policy, times, seed):
    case = "residual" if policy == "blocks" else "rings"
    epochs = 4
    limit = times * least_of(tmp_path, case, epochs)
    run = trainer_of(tmp_path / "run", case, epochs=epochs, max_train_flops=limit, seed=seed, policy=POLICIES[policy])
    family = run.run()
    assert family["total"]["train_flops"] <= limit
    assert family["total"]["train_flops"] == family["sizes"][-1]["train_flops"]
    if times == 4:
        assert len(family["sizes"]) > 1


@pytest.mark.parametrize("policy", POLICIES_BY_NAME)
@pytest.mark.parametrize("case", ["rings", "residual"])
def test_no_policy_exceeds_the_training_flops(tmp_path, case, policy):
    limit = 2 * least_of(tmp_path, case, 2)
    make = POLICIES_BY_NAME[policy]
    family = trainer_of(tmp_path / "run", case, epochs=2, max_train_flops=limit, policy=make).run()
    assert family["total"]["train_flops"] <= limit


@pytest.mark.parametrize("case", ["images", "residual"])
def test_training_flops_limit_networks_on_images_too(tmp_path, case):
    limit = 4 * least_of(tmp_path, case, 3)
    run = trainer_of(tmp_path / "run", case, epochs=3, max_train_flops=limit, policy=POLICIES["proportional"])
    family = run.run()
    assert 0.4 * limit < family["total"]["train_flops"] <= limit
    assert len(family["sizes"]) > 1


def test_more_training_flops_make_a_larger_network(tmp_path):
    least, last = least_of(tmp_path, "rings", 6), []
    for times in (1.01, 2, 4):
        run = trainer_of(tmp_path / str(times), max_train_flops=times * least, policy=POLICIES["proportional"])
        last.append(run.run()["sizes"][-1]["params"])
    assert last == sorted(set(last))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_params=5), "the budget of 5 parameters is below the seed's"),
        (Budget(max_flops=5), "the budget of 5 FLOPs is below the seed's"),
        (Budget(max_latency=1e-9), "is below the seed's"),
    ],
)
def test_a_run_says_how_to_keep_within_a_budget(tmp_path, budget, message):
    with pytest.raises(InputError) as error:
        trainer_of(tmp_path, budget=budget)
    assert message in str(error.value)
    assert str(error.value).endswith("raise it, or start with smaller widths than 2 2")


def test_a_limit_that_is_not_reached_changes_nothing(tmp_path):
    journals = []
    for limit in (None, 1e15):
        records = []
        trainer_of(tmp_path, max_train_flops=limit, budget=Budget(max_params=100), records=records).run()
        journals.append([{**untimed(record), "max_train_flops": None} for record in records])
    assert journals[0] == journals[1]


# several events at one moment


@pytest.mark.parametrize("policy", ["one by one", "by scores"])
def test_every_event_of_a_moment_is_recorded_and_one_size_saved(tmp_path, policy):
    records = []
    family = trainer_of(tmp_path, policy=POLICIES[policy], records=records).run()
    events = [record for record in records if "event" in record]
    moments = {event["step"] for event in events if event["growths"]}
    assert len(moments) == 4
    for step in moments:
        here = [event for event in events if event["step"] == step]
        assert [len(event["growths"]) for event in here] == [1, 1, 1, 0]
        assert len({event["epoch"] for event in here}) == 1
        assert all(a["params_after"] == b["params_before"] for a, b in pairwise(here))
    assert [event["event"] for event in events] == [*range(1, len(events) + 1)]
    assert len(family["sizes"]) == len(moments) + 1
    first = {event["step"]: event["params_before"] for event in reversed(events) if event["step"] in moments}
    assert [size["params"] for size in family["sizes"]] == [*sorted(first.values()), events[-1]["params_after"]]
    assert family["total"]["check_flops"] == sum(event["flops"] for event in events)


@pytest.mark.parametrize("policy", ["proportional", "unseen", "one by one", "by scores"])
def test_the_journal_is_json_whatever_is_known(tmp_path, policy):
    trainer_of(tmp_path, policy=POLICIES[policy], epochs=3).run()
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) for line in lines]
    grown = [event for event in records if event.get("growths")]
    assert grown
    for event in grown:
        known = [growth["gain"] is not None for growth in event["growths"]]
        assert set(known) == {policy not in ("unseen", "by scores")}


def test_the_policy_is_made_for_the_run(tmp_path):
    tables = []

    def make(run):
        tables.append(run)
        return Proportional.over(run)

    run = trainer_of(tmp_path, seed=7, epochs=6, policy=make)
    table, recipe = tables[-1], Recipe(6, 32, share=0.6)
    assert (table.epochs, table.seed, table.share) == (6, 7, recipe.share)
    assert 1 <= table.events <= recipe.events
    run.run()


def test_a_policy_knows_the_epoch(tmp_path):
    seen = []

    class Waits:
        def propose(self, now):
            seen.append((now.progress, now.epoch))

    trainer_of(tmp_path, epochs=2, policy=lambda run: Waits()).run()
    assert seen == [(i / 80, i / 40) for i in range(80)]


def test_a_check_whose_edits_fail_is_counted_once(tmp_path, monkeypatch):
    def stubborn(*args, **kwargs):
        raise EditError("it won't")

    monkeypatch.setattr(growing_module, "apply_", stubborn)
    records = []
    total = trainer_of(tmp_path, policy=POLICIES["proportional"], records=records).run()["total"]
    events = [record for record in records if "event" in record]
    assert events[0]["flops"] > 0
    assert not any(event["growths"] for event in events)
    assert total["check_flops"] == sum(event["flops"] for event in events)
