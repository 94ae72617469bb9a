"""A run that was stopped at any moment goes on to the very end that it would have had."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.data import Batches, Split
from outgrow.grow.budget import Budget
from outgrow.grow.event import Event
from outgrow.registry import policy_of
from outgrow.train import checkpoints
from outgrow.train.checkpoints import Checkpoints
from outgrow.train.folder import RunFolder
from outgrow.train.grower import Grower
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from test_train_overfitting import NOISY_SEED, RECIPE, noisy
from test_train_run import CASES, dataset, untimed

NEVER = 10**9  # steps between two states


class Stop(BaseException):
    """What ends a run at once, as a kill would: nothing catches it."""


RUNS = {
    "table": ("rings", "outgrow", {}, Recipe(3, 32, share=0.6), None),
    "augmented images with BatchNorm": ("images", "outgrow", {}, Recipe(2, 32, share=0.6, rate=2e-2), None),
    "blocks": ("residual", "random", {"depth": "1"}, Recipe(2, 64, share=0.6), None),
    "removals": ("residual", "outgrow", {"prune": "true"}, Recipe(3, 32, share=0.6), None),
    "limited FLOPs": ("images", "outgrow", {}, Recipe(2, 32, share=0.6), 4e8),
    "regression by SENN": ("waves", "senn", {"tau": "1"}, Recipe(2, 32), None),
    "early stop": ("noisy", "outgrow", {}, RECIPE, None),
    "best weights in the end": ("noisy", "outgrow", {}, replace(RECIPE, epochs=30, constant=0.2), None),
}


def made(path: Path, run: str = "table", *, every: int = NEVER, stop: int = -1) -> Trainer:
    """A run in a folder that is claimed."""
    case, policy, options, recipe, limit = RUNS[run]

    def on_step(step: int) -> None:
        if step == stop:
            raise Stop

    data, network = (noisy(), NOISY_SEED) if case == "noisy" else (dataset(case), CASES[case][2])
    data = replace(data, augment=run.startswith("augmented"))
    return Trainer(
        data,
        network,
        recipe,
        RunFolder(path),
        seed=3,
        budget=Budget(max_params=900),
        policy=policy_of(policy, options),
        max_train_flops=limit,
        on_step=on_step,
        checkpoint_every=every,
    )


def claimed(path: Path) -> Path:
    RunFolder(path).claim(overwrite=False)
    return path


def stopped(path: Path, run: str, state: int) -> Path:
    """A folder in which a run ended one step after a state of it."""
    with pytest.raises(Stop):
        made(claimed(path), run, every=max(state, 1), stop=state + 1).run()
    return path


def resumed(path: Path, run: str = "table") -> int:
    """Go on to the end from the last state; return its step."""
    trainer = made(path, run)
    torch.manual_seed(123)  # what the source of chance is at before must not matter
    state, wrong = Checkpoints(RunFolder(path)).newest()
    assert state is not None
    assert not wrong
    trainer.resume(state)
    trainer.run()
    return state.step


def left(path: Path) -> list:
    """What a run left, but for what differs between equal runs."""
    records = map(json.loads, (path / "journal.jsonl").read_text().splitlines())
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [
        [untimed(record) for record in records if record.get("record") != "resume"],
        untimed(json.loads((path / "family.json").read_text())),
        {file.relative_to(path): file.read_bytes() for file in files if file.suffix == ".safetensors"},
        [file.relative_to(path) for file in files],
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What each run leaves without a stop, and the steps at which it grew."""
    known = {}

    def of(run: str) -> tuple[list, list[int]]:
        if run not in known:
            path = claimed(tmp_path_factory.mktemp("whole"))
            made(path, run).run()
            end = left(path)
            known[run] = end, [record["step"] for record in end[0] if record.get("growths")]
        return known[run]

    return of


MOMENTS = {
    "table": ("first", "within", "between epochs"),
    "augmented images with BatchNorm": ("within", "before growth", "after growth", "between epochs"),
    "blocks": ("after growth",),
    "removals": ("before growth", "after growth"),
    "limited FLOPs": ("after growth",),
    "regression by SENN": ("within",),
    "early stop": ("after growth", "before its end"),
    "best weights in the end": ("before its end",),
}


@pytest.mark.parametrize(("run", "moment"), [(run, moment) for run, moments in MOMENTS.items() for moment in moments])
def test_a_run_that_goes_on_ends_where_one_without_a_stop_does(run, moment, whole, tmp_path):
    end, growths = whole(run)
    epoch = end[0][0]["steps"] // end[0][0]["epochs"]
    last = round(end[0][-1]["epoch"] * epoch)
    states = {"first": 0, "within": epoch + 7, "between epochs": epoch, "before its end": last - 3}
    state = states[moment] if moment in states else growths[-1] + (moment == "after growth")
    assert resumed(stopped(tmp_path / "run", run, state), run) == state
    assert left(tmp_path / "run") == end


def test_the_runs_here_do_all_that_can_be_done_to_a_network(whole):
    growths = [growth for run in RUNS for record in whole(run)[0][0] for growth in record.get("growths", ())]
    assert {growth["kind"] for growth in growths} == {"widen", "insert", "remove"}
    ends = {run: [r["epoch"] for r in whole(run)[0][0] if r.get("record") == "overfitted"] for run in RUNS}
    assert {run: epoch == RUNS[run][3].epochs for run, told in ends.items() for epoch in told} == {
        "early stop": False,
        "best weights in the end": True,
    }


def test_saving_states_changes_nothing(whole, tmp_path):
    made(claimed(tmp_path / "run"), every=1).run()
    assert left(tmp_path / "run") == whole("table")[0]


@pytest.mark.parametrize("operation", ["replace", "fsync"])
def test_a_stop_while_a_file_is_written_loses_nothing(operation, whole, tmp_path, monkeypatch):
    original, calls = getattr(os, operation), []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == last:
            raise Stop
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, broken)
        last = random.Random(operation).randrange(4, 30)
        with pytest.raises(Stop):
            made(claimed(tmp_path / "run"), every=5).run()
    resumed(tmp_path / "run")
    assert left(tmp_path / "run") == whole("table")[0]


# damage


@pytest.fixture(scope="module")
def broken_off(whole, tmp_path_factory):
    """A run that stopped after two states with a saved size in each, and their steps."""
    growth = whole("table")[1][0]
    path = claimed(tmp_path_factory.mktemp("broken"))
    (path / "config.json").write_text("{}")
    with pytest.raises(Stop):
        made(path, every=10, stop=growth + 25).run()
    steps = sorted(int(file.stem) for file in (path / "resume").glob("*.json"))
    assert len(steps) == 2
    return path, steps


def shortened(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [shortened, flipped])
@pytest.mark.parametrize("file", ["{}.json", "{}.safetensors"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(file, damage, broken_off, whole, tmp_path):
    shutil.copytree(broken_off[0], tmp_path / "run")
    first, last = broken_off[1]
    damaged = tmp_path / "run" / "resume" / file.format(last)
    damaged.write_bytes(damage(damaged.read_bytes()))
    state, wrong = Checkpoints(RunFolder(tmp_path / "run")).newest()
    assert state.step == first
    assert len(wrong) == 1
    assert str(damaged) in wrong[0]
    assert "\n" not in wrong[0]
    trainer = made(tmp_path / "run")
    trainer.resume(state)
    assert not damaged.exists()
    if damage is shortened:
        trainer.run()
        (tmp_path / "run" / "config.json").unlink()
        assert left(tmp_path / "run") == whole("table")[0]


@pytest.mark.parametrize("damage", [shortened, flipped])
@pytest.mark.parametrize("file", ["journal.jsonl", "sizes/*"])
def test_damage_that_no_state_survives_is_named(file, damage, broken_off, tmp_path):
    shutil.copytree(broken_off[0], tmp_path / "run")
    damaged = next((tmp_path / "run").glob(file))
    data = damaged.read_bytes()
    damaged.write_bytes(damage(data[: len(data) // 8]) + data[len(data) // 8 :])
    state, wrong = Checkpoints(RunFolder(tmp_path / "run")).newest()
    assert state is None
    assert all(str(damaged) in line for line in wrong)


def test_what_was_written_after_the_last_state_does_not_matter(broken_off, tmp_path):
    shutil.copytree(broken_off[0], tmp_path / "run")
    with open(tmp_path / "run" / "journal.jsonl", "a") as journal:
        journal.write('{"event": 7, "gro')
    (tmp_path / "run" / "sizes" / "9-999.safetensors").write_bytes(b"half")
    (tmp_path / "run" / ".family.json.part").write_bytes(b"{")
    state, wrong = Checkpoints(RunFolder(tmp_path / "run")).newest()
    made(tmp_path / "run").resume(state)
    assert not wrong
    for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines():
        json.loads(line)
    sizes = {f"sizes/{file.name}" for file in (tmp_path / "run" / "sizes").iterdir()}
    assert sizes == {entry["file"] for entry in state.family}
    assert not list((tmp_path / "run").rglob(".*"))


def test_states_are_saved_within_a_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock[0])
    states = Checkpoints(RunFolder(claimed(tmp_path)))
    write = RunFolder.write_json
    monkeypatch.setattr(RunFolder, "write_json", lambda *a: [write(*a), clock.__setitem__(0, clock[0] + 1.0)])
    states.save(1, {}, {}, ())
    moments = {seconds: [] for seconds in (0.5, 29.0, 40.0, 51.0, 1000.0)}
    for seconds, due in moments.items():
        clock[0] = 1.0 + seconds
        due += [states.due(2, between) for between in (True, False)]
    assert moments == {0.5: [False] * 2, 29.0: [False] * 2, 40.0: [False] * 2, 51.0: [True] * 2, 1000.0: [True] * 2}
    states._took = 0.1
    clock[0] = 1.0 + 6.0
    assert [states.due(2, between) for between in (True, False)] == [True, False]


# the command


@pytest.mark.parametrize("used", [0, 1, 4, 7])
def test_the_rest_of_an_epoch_and_the_next_follow_a_bookmark(used):
    split = Split((torch.arange(30 * 16) % 256).to(torch.uint8).view(30, 1, 4, 4), torch.arange(30))
    batches = Batches(split, 4, shuffle=True, augment=True, generator=torch.Generator().manual_seed(1))
    epoch = iter(batches)
    for _ in range(used):
        next(epoch)
    bookmark = epoch.bookmark()
    rest = [*epoch, *batches]
    again = Batches(split, 4, shuffle=True, augment=True, generator=torch.Generator())
    pairs = zip(rest, [*again.resumed(bookmark), *again], strict=True)
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_a_grower_goes_on_as_the_one_that_it_is_the_state_of():
    data = [(torch.randn(64, 4, generator=torch.Generator().manual_seed(n)), torch.arange(64) % 3) for n in range(20)]

    def grower(width: int) -> Grower:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        return Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.cross_entropy, data[0][0][:1], sample=64)

    first = grower(3)
    first.check(data)
    second = grower(first.sizes["0"])
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(json.loads(json.dumps({**first.state_dict(), "generator": None})) | first.state_dict())
    assert second.history[-1].to_json() == first.history[-1].to_json()
    assert untimed(second.check(data).to_json()) == untimed(first.check(data).to_json())


def test_events_come_back_from_the_journal_as_they_were(whole):
    events = [record for run in RUNS for record in whole(run)[0][0] if "event" in record]
    assert events
    for record in events:
        record = {**record, "seconds": 0.5}
        event = Event.from_json(record)
        assert event.to_json() | {"step": record["step"]} == json.loads(json.dumps(record)) | {
            key: tuple(record[key]) if isinstance(event.to_json()[key], tuple) else event.to_json()[key]
            for key in ("candidates", "growths")
        }
