"""The command line as a user meets it: what it prints, what it leaves, and one clear line for bad input."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import outgrow
from outgrow.cli import main
from outgrow.errors import InputError
from outgrow.values import count, seconds, settings

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_growing_digits_leaves_a_whole_run(here, capsys):
    assert main(["grow", "digits", "--epochs", "3"]) == 0
    printed = capsys.readouterr().out
    run = here / "runs" / "digits"
    family = json.loads((run / "family.json").read_text())
    assert "\x1b" not in printed
    assert len(re.findall(r"^epoch +\d+/3", printed, re.MULTILINE)) == 3
    assert "runs/digits/report.html" in printed
    for size in family["sizes"]:
        assert f"{size['params']:,}" in printed
        assert (run / size["file"]).exists()
    files = {"config.json", "journal.jsonl", "family.json", "sizes", "report.html"}
    assert {p.name for p in run.iterdir()} == files
    assert sum(p.numel() for p in outgrow.load("runs/digits").parameters()) in [s["params"] for s in family["sizes"]]
    assert main(["report", "runs/digits"]) == 0
    assert capsys.readouterr().out.strip() == "runs/digits/report.html"


def test_a_table_is_predicted_in_its_own_unit(here, capsys):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    rows = [f"{a},{b},{1e5 + 3e4 * np.sin(2 * a) * b}" for a, b in x]
    Path("houses.csv").write_text("\n".join(["rooms,age,price", *rows]))
    assert main(["grow", "houses.csv", "--target", "price", "--epochs", "3", "--out", "runs/h"]) == 0
    printed = capsys.readouterr().out
    assert "RMSE" in printed
    size = json.loads(Path("runs/h/family.json").read_text())["sizes"][-1]
    assert 1e3 < size["test"]["rmse"] < 1e5
    assert json.loads(Path("runs/h/config.json").read_text())["recipe"]["rate"] == 3e-3
    assert set(size["test"]) == {"loss", "rmse", "r2"}


BAD = {
    "a path that is not there": ["grow", "nothing/here"],
    "an unknown model": ["grow", "digits", "--model", "vgg"],
    "a budget below the seed": ["grow", "digits", "--max-params", "100"],
    "a budget that is no number": ["grow", "digits", "--max-params", "many"],
    "a budget of FLOPs below the seed": ["grow", "digits", "--max-flops", "10k"],
    "less time than the seed takes": ["grow", "digits", "--max-latency", "0.000001"],
    "a latency that is no number": ["grow", "digits", "--max-latency", "soon"],
    "fewer FLOPs than training the seed takes": ["grow", "digits", "--max-train-flops", "1M"],
    "half a FLOP": ["grow", "digits", "--max-train-flops", "0.5"],
    "an unknown policy": ["grow", "digits", "--policy", "greedy"],
    "a policy of a module that is not there": ["grow", "digits", "--policy", "nowhere:Greedy"],
    "a policy that is none": ["grow", "digits", "--policy", "math:pi"],
    "a policy's option without a value": ["grow", "digits", "--policy-options", "share"],
    "an option that the policy doesn't have": ["grow", "digits", "--policy", "schedule", "--policy-options", "tau=1"],
    "an option that is no number": ["grow", "digits", "--policy-options", "share=half"],
    "an option out of range": ["grow", "digits", "--policy", "senn", "--policy-options", "tau=0"],
    "a policy's proposal that is none": ["grow", "digits", "--policy-options", "init=foo"],
    "a policy's proposal that can't be judged": [
        "grow",
        "digits",
        "--policy",
        "senn",
        "--policy-options",
        "init=twins",
    ],
    "a policy of a module that fails": ["grow", "digits", "--policy", "failing:Policy"],
    "a policy of a module that is no Python": ["grow", "digits", "--policy", "broken:Policy"],
    "pruning said twice": ["grow", "digits", "--prune", "--policy-options", "prune=false"],
    "pruning by a policy that can't": ["grow", "digits", "--policy", "schedule", "--prune"],
    "no epochs": ["grow", "digits", "--epochs", "0"],
    "a negative rate": ["grow", "digits", "--rate", "-1"],
    "a rate without end": ["grow", "digits", "--rate", "inf"],
    "single examples for BatchNorm": [
        "grow",
        "table.csv",
        "--target",
        "y",
        "--model",
        "normed:net",
        "--batch-size",
        "1",
    ],
    "widths of zero": ["grow", "digits", "--widths", "4", "0"],
    "more widths than the image can be halved": ["grow", "digits", "--widths", *["4"] * 10],
    "a seed that no generator takes": ["grow", "digits", "--seed", str(2**64)],
    "a device that is none": ["grow", "digits", "--device", "cpu:x"],
    "a task that is none": ["grow", "digits", "--task", "translation"],
    "a folder of another program": ["grow", "digits", "--out", "foreign", "--overwrite"],
    "augmentation of a table": ["grow", "table.csv", "--target", "y", "--augment", "True"],
    "a data folder for a path": ["grow", "table.csv", "--target", "y", "--data-dir", "."],
    "a device that is not there": ["grow", "digits", "--device", "tpu"],
    "images for a table": ["grow", "table.csv", "--target", "y", "--model", "convnet"],
    "a table without target": ["grow", "table.csv"],
    "an occupied folder": ["grow", "digits", "--out", "taken"],
    "a folder with another run": ["grow", "digits", "--out", "run"],
    "a file for a folder": ["grow", "digits", "--out", "table.csv"],
    "a report of nothing": ["report", "nothing"],
}


NORMED = """from torch import nn
def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs[0], 3), nn.BatchNorm1d(3), nn.Linear(3, outputs))
"""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_code_2_and_nothing_is_written(here, capsys, monkeypatch, case):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("table.csv").write_text("a,y\n" + "\n".join(f"{i},{'no' if i % 3 else 'yes'}" for i in range(60)))
    Path("failing.py").write_text("raise RuntimeError('no luck\\ntoday')")
    Path("broken.py").write_text("class Policy(:")
    Path("normed.py").write_text(NORMED)
    (here / "taken").mkdir()
    (here / "taken" / "thesis.tex").write_text("mine")
    (here / "foreign" / "sizes").mkdir(parents=True)
    (here / "foreign" / "config.json").write_text("{}")
    (here / "run").mkdir()
    (here / "run" / "journal.jsonl").write_text("")
    before = sorted(str(p) for p in here.rglob("*"))
    assert main(BAD[case]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"outgrow: [^\n]{10,400}\n", captured.err)
    assert sorted(str(p) for p in here.rglob("*")) == before


def test_overwriting_replaces_a_run_and_nothing_else(here):
    (here / "run").mkdir()
    (here / "run" / "journal.jsonl").write_text("old")
    (here / "run" / "notes.txt").write_text("mine")
    assert main(["grow", "digits", "--epochs", "1", "--out", "run", "--overwrite"]) == 0
    assert (here / "run" / "notes.txt").read_text() == "mine"
    assert "old" not in (here / "run" / "journal.jsonl").read_text()


COUNTS = {
    "7": 7,
    "50_000": 50_000,
    "100k": 10**5,
    "1.5M": 1_500_000,
    "1,000": 1_000,
    "2G": 2 * 10**9,
    "2.5e12": 25 * 10**11,
}
COUNTS |= {"3T": 3 * 10**12, "1.000000000000001P": 10**15 + 1, "4 p": 4 * 10**15, "1e3": 1_000, " 1.0 ": 1}


@pytest.mark.parametrize(("text", "value"), COUNTS.items(), ids=COUNTS)
def test_counts_are_understood(text, value):
    assert count(text, "--max-params") == value


@pytest.mark.parametrize(
    "text", ["", "k", "-5", "0", "1.5", "5 x", "1e5k", "1,5M", "nan", "inf", "1e99", "1e-3", "0.0005k", "٣"]
)
def test_counts_that_are_none_are_refused(text):
    with pytest.raises(InputError, match=r"--max-params .*: expected a"):
        count(text, "--max-params")


@pytest.mark.parametrize(("text", "value"), [("2", 0.002), ("0.5", 0.0005), (".25ms", 0.00025), ("1.5 MS", 0.0015)])
def test_times_are_milliseconds(text, value):
    assert seconds(text, "--max-latency") == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "2s", "nan", "inf", "1e400", "ms"])
def test_times_that_are_none_are_refused(text):
    with pytest.raises(InputError, match=r"--max-latency .*: expected milliseconds above zero"):
        seconds(text, "--max-latency")


def test_settings_are_split_at_the_first_sign():
    assert settings(("a=1", "b = x=y", "c="), "--policy-options") == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("words", [("a",), ("=1",), ("a b=1",), ("a=1", "a=2"), ("",)])
def test_settings_that_are_none_are_refused(words):
    with pytest.raises(InputError, match=r"--policy-options .*: expected "):
        settings(words, "--policy-options")


def test_a_run_keeps_its_budgets_and_writes_down_what_decided(here, capsys):
    budgets = ["--max-flops", "3k", "--max-params", "2k", "--max-latency", "1000", "--max-train-flops", "1G"]
    policy = ["--policy", "schedule", "--policy-options", "factor=2", "init=twins"]
    assert main(["grow", "digits", "--model", "mlp", "--epochs", "3", "--out", "run", *budgets, *policy]) == 0
    (start,) = re.findall(r"^mlp: .*", capsys.readouterr().out, re.MULTILINE)
    limits = "2,000 parameters, 3 kFLOPs an example, 1,000 ms an example, 1 GFLOPs of training"
    assert start.endswith(f"; at most {limits}; policy schedule")
    told = json.loads(Path("run/config.json").read_text())["policy"]
    assert told["name"] == "schedule"
    assert told["options"].items() >= {"factor": 2.0, "init": "twins", "most": 3.0, "share": 0.15}.items()
    sizes = json.loads(Path("run/family.json").read_text())["sizes"]
    assert len(sizes) > 1
    assert max(size["flops"] for size in sizes) <= 3_000
    assert max(size["params"] for size in sizes) <= 2_000
    events = [json.loads(line) for line in Path("run/journal.jsonl").read_text().splitlines() if '"growths"' in line]
    assert all(growth["gain"] is None for event in events for growth in event["growths"])
    assert "not judged" in Path("run/report.html").read_text()


def test_pruning_is_an_option_of_the_default_policy(here):
    assert main(["grow", "digits", "--model", "mlp", "--epochs", "1", "--out", "run", "--prune"]) == 0
    assert json.loads(Path("run/config.json").read_text())["policy"]["options"]["prune"] is True


PLAIN = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
import pathlib
if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Never:
    log: Path = pathlib.Path("a.log")

    def propose(self, now):
        return None
"""


def test_a_policy_with_options_that_json_can_not_hold_is_written_down(here):
    Path("my_never.py").write_text(
        PLAIN + "    def decide(self, now, candidates, present):\n        raise AssertionError"
    )
    own = ["--policy", "my_never:Never"]
    assert main(["grow", "digits", "--model", "mlp", "--epochs", "1", "--out", "run", *own]) == 0
    assert json.loads(Path("run/config.json").read_text())["policy"]["options"] == {"log": "a.log"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "senn", "--prune"], "--prune: policy senn has no option 'prune'"),
        (
            ["--prune", "--policy-options", "prune=false"],
            "--prune and --policy-options prune=false: expected one of them",
        ),
        (["--prune", "--policy-options", "share=1"], "--prune: prune: expected a share of the run below 1"),
    ],
)
def test_what_is_wrong_with_pruning_is_said_of_pruning(here, capsys, words, said):
    assert main(["grow", "digits", *words]) == 2
    assert capsys.readouterr().err.startswith(f"outgrow: {said}")


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (["--batch-size", "128", "--epochs", "300"], 2e-2),
        (["--batch-size", "128", "--epochs", "300", "--rate", "0.001"], 1e-3),
        (["--batch-size", "128", "--epochs", "300", "--model", "mlp"], 3e-3),
        ([], 3e-3),  # 32 examples a step
    ],
)
def test_a_run_learns_at_the_rate_that_suits_its_network_unless_told(here, capsys, monkeypatch, words, rate):
    def told(dataset, network, recipe, folder, **options):
        raise InputError(f"rate {recipe.rate}")

    monkeypatch.setattr("outgrow.commands.grow.Trainer", told)
    assert main(["grow", "digits", *words]) == 2
    assert f"rate {rate}" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    code = """
import sys, outgrow.cli
try:
    outgrow.cli.main(["grow", "--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_the_readme_names_commands_that_exist(capsys):
    lines = [line.split("#")[0] for line in README.read_text().splitlines() if line.startswith("outgrow ")]
    assert lines
    for line in lines:
        with pytest.raises(SystemExit, match="0"):
            main([shlex.split(line)[1], "--help"])
    capsys.readouterr()
