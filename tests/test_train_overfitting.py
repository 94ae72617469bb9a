"""Early stopping: a run ends where validation says that it overfits, with the weights of its best epoch."""

import copy
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import outgrow
from outgrow.data import Batches, Dataset, Split
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policies.schedule import Schedule
from outgrow.models import Seed
from outgrow.show.lines import lines
from outgrow.show.run import read_run
from outgrow.show.settings import settings
from outgrow.stored import Stored
from outgrow.train import trainer
from outgrow.train.branch import Branches
from outgrow.train.evaluate import evaluate, loss_of
from outgrow.train.finish import Finishing
from outgrow.train.folder import RunFolder
from outgrow.train.overfitting import LASTING, STRETCH, best_epoch, overfits, told_since_growth
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from test_train_run import CASES, dataset

RECIPE = Recipe(epochs=60, batch_size=16, rate=1e-2, events=2, early_stopping=True)
NOISY_SEED = Seed("mlp", (20,), 1, (4, 4))


def curve(rng, loss, accuracy, noise=0.01):
    """Evaluations whose loss and accuracy follow two lines, with noise."""
    return [
        {"loss": float(a + noise * rng.normal()), "accuracy": float(b + noise * rng.normal())}
        for a, b in zip(loss, accuracy, strict=True)
    ]


FALL, RISE, FLAT = np.linspace(1.0, 0.5, 10), np.linspace(0.5, 0.9, 20), np.full(20, 0.5)


@pytest.mark.parametrize(
    ("loss", "accuracy", "expected"),
    [
        ((FALL, RISE), (1 - FALL, 1 - RISE), True),
        ((FALL, FLAT), (1 - FALL, 1 - FLAT), False),
        ((FALL, RISE), (1 - FALL, FLAT), False),
        ((FALL, RISE), (1 - FALL, RISE), False),
        ((FALL, FLAT), (1 - FALL, 1 - RISE), False),
        ((FALL, FALL[::-1][:3]), (1 - FALL, 1 - FALL[::-1][:3]), False),
    ],
    ids=["both worse", "both level", "surer of its errors", "surer and better", "metric alone", "too soon"],
)
def test_a_run_overfits_where_loss_and_metric_are_both_worse_than_they_were(loss, accuracy, expected):
    found = [
        overfits("classification", curve(np.random.default_rng(seed), np.concatenate(loss), np.concatenate(accuracy)))
        for seed in range(20)
    ]
    assert found == [expected] * 20


@pytest.mark.parametrize("rise", [0.0, 1.0], ids=["level", "surer and surer"])
def test_noise_alone_is_hardly_ever_taken_for_it(rise):
    """Of runs whose metric stays as it is for 60 epochs, at most a few of a hundred are stopped at any of them."""
    stopped = 0
    for seed in range(100):
        told = curve(np.random.default_rng(seed), np.linspace(1.0, 1.0 + rise, 60), np.full(60, 0.5), noise=0.1)
        stopped += any(overfits("classification", told[:end]) for end in range(2 * STRETCH, 61))
    assert stopped <= 3


@given(st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_the_unit_of_the_loss_does_not_matter(scale, seed):
    rng = np.random.default_rng(seed)
    rmse = np.concatenate([FALL, rng.uniform(0.4, 0.6) + rng.uniform(0, 0.03) * np.arange(12)]) + rng.normal(
        0, 0.02, 22
    )
    told = [{"loss": float(one), "rmse": float(one)} for one in rmse]
    scaled = [{"loss": scale * float(one), "rmse": scale * float(one)} for one in rmse]
    assert overfits("regression", told) == overfits("regression", scaled)
    assert best_epoch(told) == best_epoch(scaled)


def test_only_epochs_of_the_present_network_count():
    epoch = [{"record": "epoch", "validation": {"loss": float(i)}} for i in range(4)]
    grown, refused = {"event": 1, "growths": [{"kind": "widen"}]}, {"event": 2, "growths": []}
    assert told_since_growth([epoch[0], grown, epoch[1], epoch[2], refused, epoch[3]]) == [
        {"loss": 1.0},
        {"loss": 2.0},
        {"loss": 3.0},
    ]


def noisy(count: int = 192) -> Dataset:
    """Few examples of many features, and as much noise as there is to learn."""

    def part(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, 20, generator=generator)
        return Split(x, x[:, :2].sum(1, keepdim=True) + torch.randn(count, 1, generator=generator))

    return Dataset("noisy", "regression", part(count, 0), part(128, 1), None, (), False, {})


def run(path, data, recipe, network=NOISY_SEED, **options):
    folder = RunFolder(path)
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
    return Trainer(data, network, recipe, folder, budget=Budget(max_params=900), seed=3, **options)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped early, and the same without early stopping."""
    paths = []
    for name, recipe in (("early", RECIPE), ("whole", replace(RECIPE, early_stopping=False))):
        paths.append(tmp_path_factory.mktemp(name))
        run(paths[-1], noisy(), recipe).run()
    return paths


def journal(path):
    return [json.loads(line) for line in (path / "journal.jsonl").read_text().splitlines()]


def test_a_run_that_overfits_ends_with_its_best_weights(stopped):
    early, whole = map(journal, stopped)
    (stop,) = (record for record in early if record.get("record") == "overfitted")
    epochs = [record for record in early if record.get("record") == "epoch"]
    told = told_since_growth(early)
    assert early[-1]["reason"] == "finished"
    assert len(epochs) == stop["epoch"] == early[-1]["epoch"] < RECIPE.epochs
    assert overfits("regression", told)
    assert not overfits("regression", told[:-1])
    assert stop["best_epoch"] == stop["epoch"] - len(told) + best_epoch(told) <= stop["epoch"] - LASTING
    same = [record["validation"] for record in whole if record.get("record") == "epoch"]
    assert [record["validation"] for record in epochs] == same[: len(epochs)]
    last, longer = (json.loads((path / "family.json").read_text())["sizes"][-1] for path in stopped)
    assert last["epoch"] == stop["best_epoch"]
    assert last["validation"]["loss"] < longer["validation"]["loss"]
    assert last["train_flops"] < longer["train_flops"]


def test_what_is_saved_is_the_average_at_the_end_of_the_best_epoch(tmp_path):
    averages = []

    def keep(record):
        if record["record" if "record" in record else "event"] == "epoch":
            averages.append(copy.deepcopy(running._average.module.state_dict()))

    running = run(tmp_path, noisy(), RECIPE, on_record=keep)
    entry = running.run()["sizes"][-1]
    saved = outgrow.Family(tmp_path)[entry["name"]].load().state_dict()
    assert entry["epoch"] < len(averages)
    for name, value in averages[entry["epoch"] - 1].items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=0)


def test_branches_are_shares_of_the_steps_up_to_there(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    branches = Branches(noisy(), NOISY_SEED, RECIPE, RunFolder(tmp_path / "run"), Finishing(length=0.1))
    sizes = branches.sizes
    largest, small = sizes[-1], sizes[0]
    after = branches.run([small["name"]])["sizes"][0]
    steps = largest["epoch"] * (len(noisy().train) // RECIPE.batch_size)
    assert after["branch_steps"] == round(0.1 * (largest["flops"] / small["flops"]) ** 0.5 * steps)
    again = Branches(noisy(), NOISY_SEED, RECIPE, RunFolder(tmp_path / "run"), Finishing(length=0.1))
    assert not again.is_due(again.sizes[0])


@pytest.mark.parametrize(
    ("policy", "until"),
    [
        (Schedule(events=2, share=0.8), 0.8),
        (Proportional(events=2, share=0.2, prune=True, price=-1.0), 0.44),
        (Proportional(events=2, share=0.2, price=-1.0), 0.2),
    ],
    ids=["late", "pruned later", "early"],
)
def test_a_run_does_not_end_before_the_looks_that_its_policy_plans(policy, until, tmp_path):
    run(tmp_path, noisy(), RECIPE, policy=lambda table: policy).run()
    told = journal(tmp_path)
    assert told[-1]["epoch"] > until * RECIPE.epochs
    looks = [record["progress"] for record in told if "event" in record]
    assert max(looks) == pytest.approx(until, abs=0.02)


def test_what_is_saved_then_is_what_family_json_tells(stopped):
    data, path = noisy(), stopped[0]
    entry = json.loads((path / "family.json").read_text())["sizes"][-1]
    net = outgrow.Family(path)[entry["name"]].load()
    assert evaluate(net, Batches(data.validation, 256), loss_of(data), data.task) == entry["validation"]


@pytest.mark.parametrize("case", ["images", "residual"])
def test_weights_of_an_earlier_epoch_get_their_statistics(case, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "overfits", lambda task, told: len(told) >= 7)
    data = dataset(case)
    monkeypatch.setattr(trainer, "best_epoch", lambda told: min(len(told), 5))
    entry = run(tmp_path, data, replace(RECIPE, batch_size=64), CASES[case][2]).run()["sizes"][-1]
    net = outgrow.Family(tmp_path)[entry["name"]].load()
    assert entry["epoch"] < journal(tmp_path)[-1]["epoch"] < RECIPE.epochs
    assert evaluate(net, Batches(data.validation, 256), loss_of(data), data.task) == entry["validation"]


def test_a_run_does_not_stop_while_its_rate_falls_but_ends_with_its_best_weights(stopped, tmp_path):
    stop = next(record for record in journal(stopped[0]) if record.get("record") == "overfitted")
    recipe = replace(RECIPE, constant=(stop["epoch"] - 1) / RECIPE.epochs - 0.02)
    last = run(tmp_path, noisy(), recipe).run()["sizes"][-1]
    (told,) = (record for record in journal(tmp_path) if record.get("record") == "overfitted")
    assert told["epoch"] == journal(tmp_path)[-1]["epoch"] == RECIPE.epochs
    assert last["epoch"] == told["best_epoch"] == stop["best_epoch"]


def test_overfitting_is_told(stopped):
    records = journal(stopped[0])
    stop = next(record for record in records if record.get("record") == "overfitted")
    (line,) = lines(stop, records[0])
    assert (
        line
        == f"overfitted: validation has become worse since epoch {stop['best_epoch']}, whose averaged weights are kept"
    )
    told = dict(settings(read_run(stopped[0])))
    assert told["overfitting"] == f"ended after epoch {stop['epoch']}, with the weights of epoch {stop['best_epoch']}"
    assert "overfitting" not in dict(settings(read_run(stopped[1])))


@pytest.mark.parametrize("early", [True, False])
def test_recipes_come_back_from_json(early):
    recipe = replace(Recipe(3, 32), early_stopping=early, smoothing=0.1)
    assert Recipe.from_json(Stored(asdict(recipe), "config.json")) == recipe


def test_recipes_of_earlier_runs_have_none():
    values = {key: value for key, value in asdict(RECIPE).items() if key not in ("early_stopping", "smoothing")}
    read = Recipe.from_json(Stored(values, "config.json"))
    assert not read.early_stopping
    assert not read.smoothing
    with pytest.raises(InputError, match="early_stopping: expected true or false, received 'yes'"):
        Recipe.from_json(Stored(values | {"early_stopping": "yes"}, "config.json"))


def test_who_says_how_long_gets_all_of_it():
    assert Recipe.fit(5_000).early_stopping
    assert not Recipe.fit(5_000, epochs=30).early_stopping
