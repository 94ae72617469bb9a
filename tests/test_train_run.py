"""A whole run: seeded, function kept, family whole, stopped cleanly by whatever goes wrong."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import outgrow
from optimizer_cases import carried
from outgrow.data import Batches, Dataset, Split
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policies.schedule import Schedule
from outgrow.models import Seed
from outgrow.net.axes import axes
from outgrow.net.cost import flops, parameters
from outgrow.net.enlargement import widen
from outgrow.net.widening import Widening
from outgrow.registry import policy_of
from outgrow.train.divergence import DivergedError
from outgrow.train.evaluate import StandardizedMSE, evaluate
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer


def rings(count: int, seed: int) -> Split:
    """Points in the plane, labelled by which of three rings they lie in."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return Split(x, x.norm(dim=1).mul(1.4).long().clamp_max(2))


def images(count: int, seed: int) -> Split:
    """8x8 images of noise with a bright row or column, labelled by which."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 90, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 4, (count,), generator=generator)
    for i, kind in enumerate(y.tolist()):
        x[i, 0, 2 * kind if kind < 2 else slice(None), slice(None) if kind < 2 else 2 * kind - 3] += 120
    return Split(x, y)


def waves(count: int, seed: int) -> Split:
    """A smooth function of two inputs, in a unit of its own."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return Split(x, 1000 + 50 * (2 * x[:, :1]).sin() * x[:, 1:])


CASES = {
    "rings": (rings, "classification", Seed("mlp", (2,), 3, widths=(2, 2))),
    "images": (images, "classification", Seed("convnet", (1, 8, 8), 4, widths=(2, 2))),
    "residual": (images, "classification", Seed("resnet", (1, 8, 8), 4, widths=(2, 3))),
    "waves": (waves, "regression", Seed("mlp", (2,), 1, (2, 2), (), (), (1000.0,), (50.0,))),
}


def dataset(case: str) -> Dataset:
    make, task, network = CASES[case]
    classes = tuple("abcd"[: network.outputs]) if task == "classification" else ()
    return Dataset(case, task, make(1280, 0), make(128, 1), make(256, 2), classes, False, {})


def trainer(tmp_path, case="rings", *, seed=0, records=None, epochs=20, **options) -> Trainer:
    folder = RunFolder(tmp_path)
    folder.claim(overwrite=False)
    network = CASES[case][2]
    folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
    keep = (lambda record: None) if records is None else records.append
    recipe = Recipe(epochs=epochs, batch_size=32, **options)
    return Trainer(dataset(case), network, recipe, folder, seed=seed, budget=Budget(max_params=600), on_record=keep)


def untimed(value):
    """A record without what differs between equal runs: times and energies."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not k.endswith(("seconds", "joules"))}
    return [untimed(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("case", CASES)
def test_a_run_grows_within_its_budget_and_keeps_the_function_at_every_edit(tmp_path, case):
    records = []
    family = trainer(tmp_path, case, records=records).run()
    growths = [growth for record in records for growth in record.get("growths", ())]
    assert growths
    assert all(growth["moved"] <= 1e-5 for growth in growths)
    assert all(growth["size_after"] == growth["size_before"] + growth["units"] for growth in growths)
    for event in (record for record in records if "event" in record):
        assert event["params_after"] - event["params_before"] == sum(g["params"] for g in event["growths"])
        assert event["params_after"] <= 600
    counts = [size["params"] for size in family["sizes"]]
    assert counts == sorted(set(counts))
    assert len(counts) == 1 + sum(bool(record.get("growths")) for record in records)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loading_each_size_gives_exactly_what_family_json_states(tmp_path, case, smoothing):
    trainer(tmp_path, case, smoothing=smoothing).run()
    family = json.loads((tmp_path / "family.json").read_text())
    data = dataset(case)
    loss = torch.nn.functional.cross_entropy
    if data.task == "regression":
        loss = StandardizedMSE(data.target_statistics()[1])
    for size in family["sizes"]:
        torch.manual_seed(123)  # loading must not depend on the random state
        net = outgrow.load(tmp_path, max_params=size["params"], max_flops=size["flops"])
        if parameters(net) != size["params"]:
            continue  # a smaller one is better on the validation part
        assert flops(net, data.test.x[:1].float()) == size["flops"]
        for split, stated in ((data.validation, size["validation"]), (data.test, size["test"])):
            assert evaluate(net, Batches(split, 256), loss, data.task) == stated


def test_who_learns_smoothed_labels_is_never_sure(tmp_path):
    """The loss is least where the answer has 1 - smoothing (1 - 1 / classes), and no less than that entropy."""
    found = {}
    for smoothing in (0.0, 0.6):
        records = []
        one = trainer(tmp_path / str(smoothing), "images", records=records, smoothing=smoothing)
        one.run()
        x, _ = next(iter(Batches(dataset("images").test, 256)))
        sure = one.model.eval()(x).softmax(1).amax(1).mean()
        found[smoothing] = sure.item(), [epoch["train_loss"] for epoch in records if epoch.get("record") == "epoch"]
    assert found[0.0][0] > 0.9
    assert abs(found[0.6][0] - 0.55) < 0.1
    entropy = -(0.55 * math.log(0.55) + 0.45 * math.log(0.15))
    assert found[0.0][1][-1] < entropy < min(found[0.6][1])


def test_runs_with_one_seed_are_equal_bit_for_bit_and_with_another_they_are_not(tmp_path):
    journals = []
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        records = []
        trainer(tmp_path / name, "images", seed=seed, records=records, epochs=4).run()
        journals.append([untimed(record) for record in records])
        files = sorted((tmp_path / name / "sizes").iterdir())
        journals[-1].append([file.read_bytes() for file in files])
    assert journals[0] == journals[1]
    assert journals[0][:-1] != journals[2][:-1]


def test_the_journal_on_disk_is_what_was_shown(tmp_path):
    records = []
    trainer(tmp_path, records=records, epochs=3).run()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines == json.loads(json.dumps(records))
    assert [lines[0]["record"], lines[-1]["record"], lines[-1]["reason"]] == ["start", "end", "finished"]


def test_checks_and_statistics_are_counted_in_the_flops_spent(tmp_path):
    records = []
    family = trainer(tmp_path, records=records).run()
    total = family["total"]
    assert total["check_flops"] == sum(r["flops"] for r in records if "event" in r)
    assert 0 < total["check_seconds"] < total["seconds"]
    spent = [size["train_flops"] for size in family["sizes"]]
    assert spent == sorted(spent)
    assert total["train_flops"] == spent[-1]


def test_a_loss_that_turns_nan_stops_the_run_with_the_last_good_size(tmp_path, monkeypatch):
    run = trainer(tmp_path, "rings", epochs=6)
    original, calls = Trainer._epoch, []

    def poisoned(self):
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                self._model[1].head.weight.fill_(float("nan"))
        return original(self)

    monkeypatch.setattr(Trainer, "_epoch", poisoned)
    with pytest.raises(DivergedError, match="no longer finite at step"):
        run.run()
    family = json.loads((tmp_path / "family.json").read_text())
    assert family["sizes"]
    last = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])
    assert "no longer finite" in last["reason"]
    for size in family["sizes"]:
        net = outgrow.load(tmp_path, max_params=size["params"])
        assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


def test_a_run_that_blows_up_within_its_only_epoch_saves_nothing_and_says_so(tmp_path):
    run = trainer(tmp_path, "rings", epochs=1, rate=1e30)
    with pytest.raises(DivergedError):
        run.run()
    assert json.loads((tmp_path / "family.json").read_text())["sizes"] == []
    for line in (tmp_path / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_full_disk_while_saving_leaves_the_previous_sizes_whole(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.claim(overwrite=False)
    folder.write_tensors("sizes/1.safetensors", {"w": torch.arange(3)})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device; what was saved before is whole") as caught:
        folder.write_tensors("sizes/1.safetensors", {"w": torch.zeros(3)})
    assert "\n" not in str(caught.value)
    assert [file.name for file in (tmp_path / "sizes").iterdir()] == ["1.safetensors"]
    assert folder.read_tensors("sizes/1.safetensors")["w"].tolist() == [0, 1, 2]


def test_a_disk_that_can_only_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"can't write .*family.json: Read-only file system; what was saved"):
        RunFolder(tmp_path).write_json("family.json", {})


def test_a_budget_below_the_seed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"budget of 5 parameters is below the seed's"):
        Trainer(dataset("rings"), CASES["rings"][2], Recipe(1, 8), RunFolder(tmp_path), budget=Budget(max_params=5))


def test_the_rate_rises_stays_and_falls_to_zero():
    recipe = Recipe(epochs=10, batch_size=8, rate=0.5)
    rates = [recipe.rate_at(i / 1000) for i in range(1001)]
    peak = rates.index(0.5)
    growing = rates[peak : int(1000 * recipe.share)]
    assert rates[0] == 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert set(growing) == {0.5}
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_the_peak_rate_rises_with_batch_and_length_where_there_is_batchnorm_and_only_there():
    normed, plain = Seed("convnet", (1, 8, 8), 3).build(), Seed("mlp", (4,), 3).build()
    by_batch = [Recipe(100, batch).suiting(normed, 50_000).rate for batch in (1, 32, 64, 96, 128, 1_024)]
    by_length = [Recipe(epochs, 128).suiting(normed, 50_000).rate for epochs in (1, 2, 3, 300)]
    for rates in (by_batch, by_length):
        assert rates == sorted(rates)
        assert min(rates) >= 3e-3
        assert max(rates) == 2e-2
    assert by_batch[0] == by_batch[1] == 3e-3
    assert {Recipe(epochs, 128).suiting(plain, 50_000).rate for epochs in (1, 300)} == {3e-3}


@pytest.mark.parametrize("seed", [0, 1])
def test_units_behind_a_norm_that_come_later_do_not_die_at_a_high_rate(seed):
    """3 of 10 labels are wrong. With new scales and shifts at that rate at once, 13 and 11 of 48 new units die."""
    torch.manual_seed(seed)
    x = torch.randn(4_096, 16)
    y = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))(x).argmax(1)
    hidden = (nn.Linear(16, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    model = nn.Sequential(*hidden, nn.Linear(8, 4))
    optimizer = Recipe(1, 64, rate=2e-2).optimizer(model)

    def train(steps: int) -> None:
        for batch in torch.randint(0, len(x), (steps, 64)):
            labels = torch.where(torch.rand(64) < 0.3, torch.randint(0, 4, (64,)), y[batch])
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels).backward()
            optimizer.step()

    train(100)
    found = axes(model, x[:1])
    more = [Widening(axis, 24) for axis in found if axis.growable]
    carried(model, lambda: widen(model, found, more), optimizer)
    train(800)
    model.eval()
    shares = torch.cat([(model[:end](x) > 0).float().mean(0) for end in (3, 6)])
    assert len(shares) == 60
    assert (shares < 0.002).sum() <= 3


@pytest.mark.parametrize("seed", [0, 1])
def test_every_size_of_a_run_that_inserts_blocks_can_be_loaded(seed, tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(overwrite=False)
    network, data = CASES["residual"][2], dataset("residual")
    folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
    policy = policy_of("random", {"depth": "1"})
    run = Trainer(data, network, Recipe(3, 32, share=0.6), folder, policy=policy, seed=seed)
    sizes = run.run()["sizes"]
    assert sizes[0]["blocks"] == []
    assert sizes[-1]["blocks"]
    for size in sizes:
        loaded = outgrow.load(tmp_path, max_params=size["params"], max_flops=size["flops"], min_accuracy=0.0)
        if parameters(loaded) == size["params"]:
            found = evaluate(loaded, Batches(data.validation, 128), F.cross_entropy, "classification")
            assert found["accuracy"] == pytest.approx(size["validation"]["accuracy"])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_rate_falls_once_the_policy_has_done(share, tmp_path):
    records = []
    folder = RunFolder(tmp_path)
    folder.claim(overwrite=False)
    run = Trainer(
        dataset("rings"),
        CASES["rings"][2],
        Recipe(10, 32),
        folder,
        policy=lambda run: Schedule(share=share, events=1),
        on_record=records.append,
    )
    run.run()
    rates = {record["epoch"]: record["rate"] for record in records if record.get("record") == "epoch"}
    assert all((rate == 3e-3) == (epoch / 10 <= max(share, 0.6)) for epoch, rate in rates.items())


def test_without_a_limit_a_check_goes_by_the_validation_loss_of_what_it_saves(tmp_path):
    network, data, records = CASES["rings"][2], dataset("rings"), []
    for name, budget in (("free", Budget()), ("limited", Budget(max_params=600))):
        folder = RunFolder(tmp_path / name)
        folder.claim(overwrite=False)
        recipe = Recipe(epochs=20, batch_size=32)
        records.append([])
        Trainer(data, network, recipe, folder, budget=budget, on_record=records[-1].append).run()
    free, limited = ([record for record in run if "event" in record] for run in records)
    assert {record["held_out"] for record in limited} == {None}
    saved = {size["params"]: size["validation"]["loss"] for size in records[0] if size.get("record") == "size"}
    grown = [record for record in free if record["growths"]]
    assert len(grown) > 1
    for record in grown:
        assert record["held_out"] == pytest.approx(saved[record["params_before"]])
