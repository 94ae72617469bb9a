"""`outgrow compare`: what it trains, what it keeps when it is stopped, what it says, and the rules behind it."""

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from outgrow.cli import main
from outgrow.commands import compare as command
from outgrow.errors import InputError
from outgrow.train.alone import train_alone
from outgrow.train.comparison import Comparison, ratio, renew, spread, total, tuned
from outgrow.train.divergence import DivergedError
from outgrow.train.folder import RunFolder

NETS = Path(__file__).with_name("mynets.py").read_text()
SPENT = {"train_flops", "seconds", "joules"}
WORDS = ["compare", "rings.csv", "--target", "y", "--epochs", "4", "--out", "run"]


def rings(file):
    """A table of points in the plane, labelled by which of three rings they lie in."""
    x = np.random.default_rng(0).normal(size=(900, 2))
    rows = [f"{a},{b},{'abc'[min(int(1.4 * np.hypot(a, b)), 2)]}" for a, b in x]
    file.write_text("\n".join(["u,v,y", *rows]))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with a table and its comparison, and what was printed meanwhile."""
    folder = tmp_path_factory.mktemp("compared")
    rings(folder / "rings.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with open("printed", "w") as out:
            patch.setattr(sys, "stdout", out)
            assert main(WORDS) == 0
    return folder


@pytest.fixture
def here(compared, tmp_path, monkeypatch):
    """A copy of that folder to work in."""
    shutil.copytree(compared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def trained(monkeypatch):
    """The lengths of the trainings that are done from now on."""
    done = []

    def noting(dataset, network, recipe, **options):
        done.append(recipe.epochs)
        return train_alone(dataset, network, recipe, **options)

    monkeypatch.setattr(command, "train_alone", noting)
    return done


def told(folder="run"):
    return json.loads((Path(folder) / "compare.json").read_text())


def test_every_size_is_trained_at_every_length_and_uniform_widths_at_the_chosen_one(here):
    comparison, family = told(), json.loads(Path("run/family.json").read_text())
    names = [size["name"] for size in family["sizes"]]
    sizes = {size["name"]: size for size in family["sizes"]}
    assert comparison["lengths"] == [1, 2, 4]
    compared = list(dict.fromkeys(entry["size"] for entry in comparison["sweep"]))
    assert compared == [name for name in names if name in compared]
    assert [(e["size"], e["epochs"]) for e in comparison["sweep"]] == [(n, e) for e in (1, 2, 4) for n in compared]
    assert {e["epochs"] for e in comparison["uniform"]} == {comparison["chosen"]}
    for entry in comparison["sweep"]:
        assert all(entry[key] == sizes[entry["size"]][key] for key in ("params", "flops"))
        assert {"loss", "accuracy"} == set(entry["validation"]) == set(entry["test"])
    assert all(len(entry["widths"]) == 2 for entry in comparison["uniform"])
    assert comparison["family"] == {key: family["total"][key] for key in SPENT}


def test_the_ratio_is_that_of_the_trainings_that_count(here):
    comparison = told()
    for which, key in (("sweep", "ratio"), ("uniform", "ratio_uniform")):
        counted = [e for e in comparison[which] if e["epochs"] == comparison["chosen"]]
        for spent in ("train_flops", "seconds"):
            mean = comparison["family"][spent] / sum(entry[spent] for entry in counted)
            assert comparison[key][spent] == pytest.approx(mean)


def test_a_training_costs_what_its_epochs_cost(here):
    start = json.loads(Path("run/journal.jsonl").read_text().splitlines()[0])
    batch = json.loads(Path("run/config.json").read_text())["recipe"]["batch_size"]
    examples = start["train_examples"] // batch * batch
    found = {(entry["size"], entry["epochs"]): entry for entry in told()["sweep"]}
    for (size, epochs), entry in found.items():
        more = entry["train_flops"] - found[size, 1]["train_flops"]
        assert more == 3 * entry["flops"] * examples * (epochs - 1)
        assert entry["joules"]["value"] > 0
        assert entry["joules"]["how"].startswith(("measured", "modelled"))


def test_what_is_printed_names_every_size_and_where_everything_is(here):
    printed, comparison = Path("printed").read_text(), told()
    assert "\x1b" not in printed
    count = len(comparison["sweep"]) + len(comparison["uniform"])
    assert len(re.findall(rf"^\d+/{count}  ", printed, re.MULTILINE)) == count
    for entry in comparison["sweep"]:
        assert f"{entry['size']} by itself, {entry['epochs']} epoch" in printed
    assert f"{comparison['chosen']} epoch{'s' * (comparison['chosen'] > 1)} *" in printed
    assert "report  run/report.html" in printed
    assert comparison["family"]["joules"]["how"] in printed


def test_nothing_is_trained_twice(here, trained, capsys):
    before = told()
    assert main(WORDS) == 0
    assert trained == []
    assert told() == before
    assert "by themselves" in capsys.readouterr().out


def test_a_run_whose_sizes_got_branches_behind_its_end_is_used_as_it_is(here, trained):
    with open("run/journal.jsonl", "a") as journal:
        journal.write('{"record": "branch", "of": "1-62", "params": 62, "steps": 3, "start": "1-62", ')
        journal.write('"number": 1, "count": 1}\n')
    assert main(WORDS) == 0
    assert trained == []


def test_only_sizes_that_are_done_are_compared(here):
    sizes = json.loads(Path("run/family.json").read_text())["sizes"]
    done = {size["name"] for size in sizes if size.get("quality") == "branch"}
    assert done
    assert {entry["size"] for entry in told()["sweep"]} <= done | {sizes[-1]["name"]}


def test_what_finishing_takes_later_is_counted(here):
    before, took = told(), json.loads(Path("run/family.json").read_text())["total"]
    more = {**took, "train_flops": 2 * took["train_flops"]}
    renew(RunFolder("run"), more)
    after = told()
    assert after["ratio"]["train_flops"] == pytest.approx(2 * before["ratio"]["train_flops"])
    assert after["ratio_uniform"]["train_flops"] == pytest.approx(2 * before["ratio_uniform"]["train_flops"])
    renew(RunFolder("run"), took)
    assert told() == before
    Path("run/compare.json").write_text("{}")
    with pytest.raises(InputError, match=r"compare.json is damaged"):
        renew(RunFolder("run"), took)
    Path("run/compare.json").unlink()
    renew(RunFolder("run"), took)
    assert not Path("run/compare.json").exists()


def test_another_question_reuses_what_it_can_and_loses_nothing(here, trained):
    before = told()
    assert main([*WORDS, "--lengths", "0.5", "--compared", "1"]) == 0
    narrow = told()
    assert narrow["lengths"] == [2]
    assert {entry["size"] for entry in narrow["sweep"]} == {before["sweep"][-1]["size"]}
    trained.clear()
    assert main(WORDS) == 0
    assert trained == []
    assert {key: told()[key] for key in ("sweep", "uniform", "ratio")} == {
        key: before[key] for key in ("sweep", "uniform", "ratio")
    }


def test_a_stop_keeps_what_is_done_and_the_same_command_does_the_rest(here, trained, capsys, monkeypatch):
    whole = told()
    (here / "run" / "compare.json").unlink()

    def stopping(*arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(None)
        return train_alone(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(command, "train_alone", stopping)
        assert main(WORDS) == 130
    count = len(whole["sweep"]) + len(whole["uniform"])
    assert f"2 of {count} trainings are in run/compare.json" in capsys.readouterr().err
    partly = told()
    assert (len(partly["sweep"]), partly["chosen"], partly["ratio"]) == (2, None, None)
    trained.clear()
    assert main(WORDS) == 0
    assert len(trained) == count - 2
    for before, after in zip(whole["sweep"], told()["sweep"], strict=True):
        assert {**before, "seconds": 0, "joules": 0} == {**after, "seconds": 0, "joules": 0}


def test_a_stop_of_a_run_that_replaced_another_goes_on_without_that_option(here, capsys, monkeypatch):
    def stopping(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train_alone", stopping)
    assert main([*WORDS, "--overwrite"]) == 130
    assert "run/compare.json, the same command without --overwrite does the rest; report: " in capsys.readouterr().err
    family = Path("run/family.json").read_bytes()
    assert main(WORDS) == 130
    assert "run/compare.json, the same command does the rest; report: " in capsys.readouterr().err
    assert Path("run/family.json").read_bytes() == family


def test_a_loss_that_diverges_is_told(here, monkeypatch, capsys):
    (here / "run" / "compare.json").unlink()

    def diverging(*arguments, **options):
        raise DivergedError("the loss was no longer finite")

    monkeypatch.setattr(command, "train_alone", diverging)
    assert main(WORDS) == 1
    assert re.search(r"1-\d+ by itself: the loss was no longer finite; 0 of \d+", capsys.readouterr().err)


BAD = {
    "a length of zero": ["--lengths", "0"],
    "a length below zero": ["--lengths", "0.5", "-1"],
    "a length without end": ["--lengths", "inf"],
    "no length": ["--lengths"],
    "no size": ["--compared", "0"],
    "an unknown size": ["--compared", "9-9"],
    "other options": ["--seed", "3"],
    "another rate": ["--rate", "0.1"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_changes_nothing(here, capsys, case):
    before = (here / "run" / "compare.json").read_bytes()
    assert main([*WORDS, *BAD[case]]) == 2
    assert re.search(r"^outgrow: [^\n]{10,400}\n\Z", capsys.readouterr().err, re.MULTILINE)
    assert (here / "run" / "compare.json").read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"sweep": [1], "uniform": [], "aside": []}'])
def test_a_damaged_file_is_named(here, capsys, text):
    (here / "run" / "compare.json").write_text(text)
    assert main(WORDS) == 2
    assert "compare.json" in capsys.readouterr().err


def test_a_network_of_ones_own_is_compared_too(here, monkeypatch):
    (here / "comparednets.py").write_text(NETS)
    words = [*WORDS[:-1], "own", "--model", "comparednets:table", "--lengths", "0.5"]
    assert main(words) == 0
    comparison = told("own")
    assert comparison["uniform"]
    sizes = {size["name"]: size["params"] for size in json.loads(Path("own/family.json").read_text())["sizes"]}
    assert all(entry["params"] == sizes[entry["size"]] for entry in comparison["sweep"])


def runs(metric, **values):
    """A sweep of sizes, their values by length 1, 2, 4, ..."""
    return [
        {"size": size, "epochs": 2**i, "validation": {metric: value}}
        for size, series in values.items()
        for i, value in enumerate(series)
    ]


@pytest.mark.parametrize(
    ("metric", "values", "lengths", "chosen"),
    [
        ("accuracy", {"a": (0.5, 0.6, 0.7)}, [1, 2, 4], 4),
        ("accuracy", {"a": (0.5, 0.504, 0.7)}, [1, 2, 4], 1),
        ("accuracy", {"a": (0.5, 0.6, 0.5)}, [1, 2, 4], 2),
        ("accuracy", {"a": (0.5, 0.6), "b": (0.5, 0.42)}, [1, 2], 2),
        ("accuracy", {"a": (0.5, 0.6), "b": (0.5, 0.4)}, [1, 2], 1),
        ("accuracy", {"a": (0.5, 0.5, 0.508)}, [1, 4], 1),
        ("accuracy", {"a": (0.5, 0.5, 0.512)}, [1, 4], 4),
        ("rmse", {"a": (100.0, 98.0)}, [1, 2], 2),
        ("rmse", {"a": (100.0, 99.5)}, [1, 2], 1),
        ("rmse", {"a": (0.0, 0.0)}, [1, 2], 1),
        ("accuracy", {"a": (0.5,)}, [1], 1),
    ],
)
def test_the_shortest_length_is_chosen_whose_doubling_does_not_pay(metric, values, lengths, chosen):
    assert tuned(runs(metric, **values), lengths, metric) == chosen


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("most", range(1, 7))
def test_sizes_are_spread_over_the_range_with_the_largest(count, most):
    chosen = spread(range(count), most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == count - 1
    assert most == 1 or chosen[0] == 0
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_energies_of_different_kinds_make_no_ratio():
    def spent(value, how):
        return {"train_flops": 2, "seconds": 4.0, "joules": {"value": value, "how": how}}

    assert ratio(spent(3.0, "a"), total([spent(1.0, "a"), spent(5.0, "a")]))["joules"] == 0.5
    assert ratio(spent(3.0, "a"), total([spent(1.0, "a"), spent(5.0, "b")]))["joules"] is None
    assert ratio({**spent(3.0, "a"), "joules": None}, total([spent(1.0, "a")])) == {
        "train_flops": 1,
        "seconds": 1,
        "joules": None,
    }


def test_a_comparison_that_has_just_begun_has_chosen_nothing():
    comparison = Comparison("accuracy", {"joules": None}, ["a"], [1, 2], ["a"]).to_json()
    assert (comparison["chosen"], comparison["ratio"], comparison["ratio_uniform"]) == (None, None, None)
