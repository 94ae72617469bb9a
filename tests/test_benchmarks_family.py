"""Families beside sweeps, and kills: what the tables say of made-up lines, and a run that makes a line."""

import itertools
import json
import re
import statistics
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # behind this folder: both have a zoo.py

import drawing
import families
import family
import tables
from tasks import Task

PARAMS = (1_000, 2_000, 4_000, 7_000, 10_500)
LENGTHS = (10, 20, 40)
SEEDS = range(3)
MADE = {"torch": "2", "commit": "c", "hardware": "h"}
PAGE = (tables.HERE / "README.md").read_text()
SHARES = {"average": 0.25, "branch": 0.30, "taught": 0.35}


def line(epochs, seed, sweep, leads, *, task="digits", seconds=1.0):
    """A family and its sweep as they are written: accuracy of the smallest size in the sweep, leads of each kind."""
    jitter = 0.001 * ((seed * 2 + epochs) % 3 - 1)
    sizes = []
    for at, params in enumerate(PARAMS):
        alone = sweep + 0.01 * at + jitter
        known = {"params": params, "flops": 50 * params, "axes": {"a": params // 100}}
        each = {kind: alone + lead[at] for kind, lead in {"raw": [-0.1] * 5, "alone": [0] * 5, **leads}.items()}
        sizes.append({**known, **{kind: {"loss": 0.5, "accuracy": value} for kind, value in each.items()}})
    spent = {"alone": {"train_flops": 10**12 * epochs, "seconds": 10.0 * epochs}}
    for kind, share in SHARES.items():
        spent[kind] = {"train_flops": share * 10**12 * epochs, "seconds": 10.0 * epochs * share * seconds}
    key = family.Job(task, epochs, seed).key()
    return {**key, "sizes": sizes, **spent, **MADE}


def leads(average=-0.02, branch=-0.01, taught=0.0):
    """The same lead for every size [shares]."""
    return {"average": [average] * 5, "branch": [branch] * 5, "taught": [taught] * 5}


def example(sweeps=(0.80, 0.85, 0.853), **about):
    """Three lengths, the sweep as given: here 20 epochs are worth having."""
    return [
        line(epochs, seed, sweep, leads(), **about)
        for epochs, sweep in zip(LENGTHS, sweeps, strict=True)
        for seed in SEEDS
    ]


def claims(lines):
    """The cells of the rows that say what holds, by family."""
    table = families.comparison(lines).partition("| task |")[2]
    rows = [[cell.strip() for cell in text.strip("|").split("|")] for text in table.splitlines()[2:]]
    return {cells[1]: cells for cells in itertools.takewhile(lambda cells: len(cells) > 1, rows)}


def rows(lines, kind):
    """The cells of a kind's rows, by length."""
    (found,) = families.latest(lines).values()
    split = [[cell.strip() for cell in text.strip("|").split("|")] for text in families.task_table(found).splitlines()]
    return {int(cells[1]): cells for cells in split if cells[0] == families.KINDS[kind]}


def test_a_row_has_accuracies_at_every_size_and_what_all_took():
    lines = example()
    cells = rows(lines, "taught")[14]
    at = [[100 * run["sizes"][i]["taught"]["accuracy"] for run in lines if run["epochs"] == 20] for i in range(5)]
    assert cells[2:8] == ["3", *(f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}" for values in at)]
    assert cells[8:] == ["7", "70 +- 0"]
    assert rows(lines, "raw")[28][8:] == rows(lines, "average")[28][8:]
    assert list(rows(lines, "alone")) == list(LENGTHS)
    assert all(list(rows(lines, kind)) == [7, 14, 28] for kind in families.KINDS if kind != "alone")


def test_a_sweep_is_worth_having_while_a_longer_one_gains():
    for sweeps, worth in {
        (0.80, 0.85, 0.853): (20, True),
        (0.80, 0.803, 0.90): (10, True),
        (0.80, 0.85, 0.90): (40, False),
    }.items():
        assert families.worth_having(families.latest(example(sweeps))["digits"]) == worth
    assert claims(example((0.80, 0.85, 0.90)))["averages"][2] == "40 (none measured)"


def test_only_lengths_at_least_twice_as_long_tell_what_is_worth_having():
    lines = [line(epochs, 0, sweep, leads()) for epochs, sweep in ((10, 0.80), (15, 0.801), (20, 0.85), (25, 0.85))]
    assert families.worth_having(families.latest(lines)["digits"]) == (25, False)


def test_the_cheapest_family_that_is_as_good_counts():
    cells = claims(example())["taught branches"]
    assert cells[2:] == ["20", "14", "3", "+0.00 (1,000)", "35 +- 0", "35 +- 0", "yes"]
    ahead = [line(10, seed, 0.85, leads(taught=0.002)) for seed in SEEDS]
    found = [*ahead, *(run for run in example((0.85, 0.856, 0.857)) if run["epochs"] > 10)]
    assert claims(found)["taught branches"][2:4] == ["20", "14"]  # 0.4 points below it at 10 epochs
    ahead = [line(10, seed, 0.85, leads(taught=0.005)) for seed in SEEDS]
    found = [*ahead, *(run for run in example((0.85, 0.856, 0.857)) if run["epochs"] > 10)]
    assert claims(found)["taught branches"][2:4] == ["20", "7"]
    assert float(claims(found)["taught branches"][6].split()[0]) == pytest.approx(35 / 2, abs=0.6)


def test_where_no_family_is_as_good_the_one_whose_worst_size_is_best_is_told():
    behind = {**leads(), "taught": [0.01, 0.01, -0.004, 0.01, 0.01]}
    lines = [
        line(epochs, seed, 0.85, behind if epochs == 20 else leads(taught=-0.01))
        for epochs in (10, 20)
        for seed in SEEDS
    ]
    cells = claims(lines)["taught branches"]
    assert (cells[3], cells[5], cells[-1]) == ("14", "-0.40 (4,000)", "NO")


def test_accuracy_flops_and_seconds_are_all_demanded():
    close = families.Match(10, [-0.3, 0.2], [40], [50])
    assert close.holds
    for changed in ([-0.31, 0.2], [40], [50]), ([-0.3, 0.2], [41], [50]), ([-0.3, 0.2], [40], [51]):
        assert not families.Match(10, *changed).holds
    assert claims(example())["taught branches"][-1] == "yes"
    assert claims(example(seconds=1.5))["taught branches"][-1] == "NO"
    assert "taught branches on 1 of 1 tasks" in families.comparison(example())


def test_points_are_of_pairs_with_the_same_seed():
    mine = {seed: line(10, seed, 0.8 + seed / 10, leads(taught=0.01)) for seed in (0, 1)}
    other = {seed: line(20, seed, 0.8, leads()) for seed in (1, 2)}
    jitter = [run["sizes"][0]["alone"]["accuracy"] for run in (mine[1], other[1])]
    assert families.leads(mine, "taught", other) == pytest.approx([100 * (jitter[0] - jitter[1]) + 1] * 5)
    assert families.leads({0: mine[0]}, "taught", other) == []


@pytest.mark.parametrize("lines", [example()[:1], example()[:4], [example()[0], example()[4], example()[8]]])
def test_few_lines_and_seeds_without_pairs_make_tables(lines):
    assert len(claims(lines)) == len(families.FAMILIES)
    assert "nan" not in families.comparison(lines)
    assert drawing.svg(drawing.beside_sweeps(lines))


def test_the_newest_line_counts_and_other_setups_and_families_do_not():
    old = line(10, 0, 0.1, leads())
    other = {**line(40, 0, 0.1, leads()), "setup": {**old["setup"], "batch_size": 7}}
    shorter = {**line(10, 1, 0.1, leads()), "family_epochs": 6}
    found = families.latest([other, old, shorter, line(10, 0, 0.9, leads())])
    assert list(found["digits"]) == [10]
    assert list(found["digits"][10]) == [0]
    assert families.accuracies(found["digits"][10][0], "alone")[0] == pytest.approx(90, abs=0.2)


def test_tasks_and_lengths_come_in_order():
    lines = [line(epochs, 0, 0.8, leads(), task=task) for epochs in (20, 10) for task in reversed(family.TASKS)]
    found = families.latest(lines)
    assert list(found) == list(family.TASKS)
    assert all(list(lengths) == [10, 20] for lengths in found.values())


def test_the_figure_names_tasks_and_sizes_and_is_the_same_for_the_same_runs():
    lines = [*example(), *example(task="cifar10")]
    text = drawing.svg(drawing.beside_sweeps(lines))
    assert text == drawing.svg(drawing.beside_sweeps(lines))
    for name in ("digits", "cifar10", "taught branches", "each by itself", *(f"{params:,}" for params in PARAMS)):
        assert f">{name}</text>" in text


def test_kills_are_told_from_the_summary_of_a_run():
    summary = {
        "kills": 50,
        "runs": 12,
        "identical": 12,
        "unreadable": 1,
        "while_writing": 7,
        "last_records": {"None": 2, "event": 8, "epoch": 40},
        "command": "outgrow grow digits",
        "versions": {"torch": "2"},
        "commit": "c",
        "hardware": "h",
    }
    table = tables.kills_table([{"kill": 1, "last_record": "size"}, summary])
    assert "| 50 | 12 | 12 | 1 | 7 | epoch 40, event 8, none yet 2 |" in table
    assert tables.kills_table([{"kill": 1}]) == "No runs yet."  # it was stopped before its end


def test_without_runs_the_tables_say_so():
    assert families.comparison([]) == tables.kills_table([]) == "No runs yet."


def test_the_page_shows_what_the_results_say():
    found = tables.blocks(*map(tables.records, tables.SOURCES))
    told = {name: found[name] for name in ("family", "kills")}
    assert set(told) <= set(re.findall(r"<!-- /([\w-]+) -->", PAGE))
    assert tables.filled(PAGE, told) == PAGE


@pytest.fixture(scope="module")
def measured():
    """The line of a family and a sweep of one epoch, of a network that is quick to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(family.TASKS, "digits", Task("digits", "mlp", 1, 32, widths=(8, 8), examples=800))
        patch.setattr(family, "commit", lambda: "c")
        return json.loads(json.dumps(family.run(family.Job("digits", 1, 0), ".")))


def test_a_family_and_its_sweep_make_a_line_that_tables_take(measured):
    params = families.params(measured)
    assert len(params) == family.SIZES
    assert params == sorted(params)
    assert 10 <= params[-1] / params[0] <= family.SPAN
    assert all(0 <= value <= 100 for kind in families.KINDS for value in families.accuracies(measured, kind))
    assert measured["branch"]["train_flops"] < measured["taught"]["train_flops"]
    assert "| taught branches | 1 | 1 |" in families.comparison([measured])


def test_the_largest_size_is_the_same_with_every_kind_of_branch_and_another_in_the_sweep(measured):
    last = measured["sizes"][-1]
    assert last["branch"] == last["taught"] != last["alone"]
    first = measured["sizes"][0]
    assert first["raw"] != first["average"]


def test_what_is_there_is_not_done_again(monkeypatch, tmp_path, capsys):
    words = ["family.py", "--data", ".", "--tasks", "digits", "--lengths", "10", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    (tmp_path / "family.jsonl").write_text(json.dumps(line(10, 0, 0.8, leads())) + "\n")
    family.main()
    assert capsys.readouterr().out == ""
