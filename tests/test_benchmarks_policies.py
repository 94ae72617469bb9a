"""The comparison of policies: its tables and p-values, and which runs it skips."""

import argparse
import itertools
import math
import re
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # behind this folder: both have a zoo.py

import compare
import drawing
import policies
import tables
import tasks

SEEDS = range(5)
SCRATCH = compare.CONTROLS["scratch"]
MADE = {"torch": "2", "commit": "c", "hardware": "h"}
PAGE = (tables.HERE / "README.md").read_text()


def line(row, seed, accuracy, *, task="digits", params=20_000, flops=60, **changes):
    """A run as it is written to the results."""
    setup = tasks.TASKS[task].setup() if task in tasks.TASKS else tasks.SIZES[task].setup()
    sizes = [(4_000, accuracy - 0.2), (9_000, accuracy - 0.1), (params, accuracy)]
    known = {"task": task, "row": row, "options": {}, "seed": seed, "setup": setup, "reference": None}
    spent = {"train_flops": flops, "check_flops": 3, "seconds": 10.0, "check_seconds": 1.0}
    reached = {"params": params, "axes": {"a": params // 100, "b": 3}, "test": {"accuracy": accuracy, "loss": 0.5}}
    saved = [
        {"params": size, "test": {"accuracy": value, "loss": 0.5}, "train_flops": 1, "epoch": epoch}
        for epoch, (size, value) in enumerate(sizes)
    ]
    limit = {"max_train_flops": None if row in compare.CONTROLS else 100}
    return {**known, **spent, **reached, **limit, "sizes": saved, **MADE, **changes}


def runs(row, mean, *, jitter=0.001, **about):
    """A run for each seed, with a spread of its own for each row."""
    return [line(row, seed, mean + jitter * ((seed * (2 + len(row))) % 5 - 2), **about) for seed in SEEDS]


def example():
    """Default, three rivals, and controls that took 100 where the default takes 60."""
    return [
        *runs("schedule", 0.90),
        *runs("outgrow", 0.95),
        *runs("random", 0.9499),
        *runs("senn", 0.97, options={"tau": "0.5"}),
        *runs("uniform", 0.96, flops=100),
        *runs("scratch", 0.951, flops=100),
    ]


def cells_of(table, start):
    """The cells of the table's line that starts so."""
    (found,) = [text for text in table.splitlines() if text.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_default_comes_first_then_policies_by_accuracy_then_controls():
    names = list(compare.latest(example())["digits"])
    assert names == ["outgrow", "senn, tau=0.5", "random", "schedule", SCRATCH, compare.CONTROLS["uniform"]]


def test_a_row_has_its_sizes_costs_and_differences():
    cells = cells_of(compare.comparison(example()), "senn, tau=0.5")
    mine, other = (
        [100 * run["test"]["accuracy"] for run in runs(row, mean)] for row, mean in (("senn", 0.97), ("outgrow", 0.95))
    )
    assert cells[1:6] == ["5", "77.00 +- 0.16", "87.00 +- 0.16", "97.00 +- 0.16", "20,000"]
    assert cells[6:9] == ["60 +- 0", "10 +- 0", "10.0 (5.0)"]
    assert cells[9] == f"{statistics.mean(mine) - statistics.mean(other):+.2f}"
    expected = stats.ttest_rel(mine, other).pvalue
    assert cells[10] == ("<0.0001" if expected < 1e-4 else f"{expected:.2g}")
    assert cells[11] == "-"


def test_what_should_hold_is_stated():
    found = compare.latest(example())["digits"]
    table = compare.comparison(example())
    cells = cells_of(table[table.index("| task |") :], "digits")
    leads = {name: compare.differences(found["outgrow"], found[name]) for name in ("schedule", "random", SCRATCH)}
    assert cells[1] == "senn, tau=0.5"
    for cell, name in ((cells[2], "schedule"), (cells[3], "random")):
        lead, p = cell.split(": ")
        assert float(lead) == pytest.approx(statistics.mean(leads[name]), abs=0.0051)
        assert (p == "<0.0001" or float(p) < 0.05) == (name == "schedule")
    assert cells[4:] == [compare.spread(leads[SCRATCH], 2), "60 +- 0", "yes"]
    assert "than `schedule` on 1, than `random` on 0 of 1 tasks" in table


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_runs_and_rows_that_are_not_there_make_tables(count):
    few = [run for run in example() if run["seed"] < count]
    for missing in (None, "outgrow", "schedule", "random", "scratch", "uniform"):
        found = [run for run in few if run["row"] != missing]
        found += [line("senn", 0, 0.9, task="mnist"), line("outgrow", 1, 0.9, task="mnist")]  # no pair
        table = compare.comparison(found)
        assert [text.split(" |")[0] for text in table.splitlines()].count("| digits") == 1
        assert "nan" not in table
        assert drawing.svg(drawing.compared(found))
        assert compare.choices_table(found)
    cells = cells_of(table[table.index("| task |") :], "digits")
    assert (cells[3].split(": ")[1] == "-") == (count == 1)
    assert cells_of(table, "mnist")[1:] == ["none", "-", "-", "-", "-", "-"]


def test_every_task_says_how_many_examples_it_is_trained_on():
    whole = {"digits": "1,294", "mnist": "54,000", "adult": "29,305", "fashion-mlp": "54,000"}
    for task in tasks.TASKS:
        head = compare.heading({"outgrow": {0: line("outgrow", 0, 0.5, task=task)}})
        assert f", {whole.get(task, '4,000')} training examples, " in head


@pytest.mark.parametrize(("p", "sure"), [(None, False), (0.0, True), (0.049, True), (0.05, False), (math.nan, False)])
def test_a_lead_is_sure_below_the_least_p(monkeypatch, p, sure):
    monkeypatch.setattr(compare, "paired_p", lambda values: p)
    rows = compare.latest(example())["digits"]
    assert compare.better(rows["senn, tau=0.5"], rows["outgrow"])[1] == sure
    assert not compare.better(rows["outgrow"], rows["senn, tau=0.5"])[1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("senn", ["senn"]),
        ("senn,tau=0.5", ["senn", "tau=0.5"]),
        ("outgrow,bounds=0.5,2,share=0.3", ["outgrow", "bounds=0.5,2", "share=0.3"]),
        ("secnn,channels=(2, 4),layers=3", ["secnn", "channels=(2, 4)", "layers=3"]),
    ],
)
def test_commas_within_a_value_part_no_options(row, expected):
    assert compare.parts(row) == expected


@pytest.mark.parametrize(("accuracy", "flops"), [(0.954, 60), (0.951, 61)])
def test_reaching_the_network_from_scratch_takes_accuracy_and_thrift(accuracy, flops):
    found = [*runs("outgrow", 0.95, flops=flops), *runs("scratch", accuracy, flops=100)]
    assert compare.reached(compare.latest(found)["digits"])[2] == "NO"


def test_the_newest_line_of_a_run_counts_and_other_setups_do_not():
    trial = line("schedule", 0, 0.1)
    trial = {**trial, "setup": {**trial["setup"], "epochs": 1}}
    found = compare.latest([trial, line("outgrow", 0, 0.2), line("outgrow", 0, 0.8)])
    assert compare.accuracies(found["digits"]["outgrow"]) == {0: 80.0}
    assert list(found["digits"]) == ["outgrow"]


def test_controls_of_an_older_default_do_not_count():
    old, new = line("outgrow", 0, 0.5, params=5_000), line("outgrow", 0, 0.6)
    jobs = {
        name: policies.Job("digits", tasks.TASKS["digits"], "scratch", {}, 0, by)
        for name, by in (("old", old), ("new", new))
    }
    for name, job in jobs.items():
        rows = compare.latest([old, {**line("scratch", 0, 0.7), **job.key()}, new])["digits"]
        assert (SCRATCH in rows) == (name == "new")


def test_a_failure_is_told_until_the_run_is_done():
    failed = {**line("senn", 3, 0.5), "failed": "DivergedError: the loss"}
    told = compare.comparison([*example(), failed])
    assert "- digits, senn, seed 3: DivergedError: the loss" in told
    assert "Failed" not in compare.comparison([*example(), failed, line("senn", 3, 0.5)])


@pytest.mark.parametrize("values", [[0.3, 0.1, 0.5, -0.1, 0.4], [1.0, 2.0], [-3.0, -1.0, -2.5, 0.25, 7.0, 1.0, 2.0]])
def test_p_values_are_those_of_the_paired_tests(values):
    base = [90.0 + i for i in range(len(values))]
    moved = [a + b for a, b in zip(base, values, strict=True)]
    assert compare.paired_p(values) == pytest.approx(stats.ttest_rel(moved, base).pvalue)
    assert compare.paired_p([-value for value in values]) == pytest.approx(compare.paired_p(values))
    if len(values) >= compare.FEWEST_RANKED:
        assert compare.ranked_p(values) == pytest.approx(exact_wilcoxon(values))
    else:
        assert compare.ranked_p(values) is None


def exact_wilcoxon(values):
    """The share of all choices of signs whose rank sum is as far from its mean."""
    ranks = stats.rankdata([abs(value) for value in values])
    far = abs(sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0) - sum(ranks) / 2)
    signs = list(itertools.product((0, 1), repeat=len(values)))
    sums = [abs(sum(r for r, s in zip(ranks, choice, strict=True) if s) - sum(ranks) / 2) for choice in signs]
    return sum(value >= far - 1e-9 for value in sums) / len(signs)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0, 0.0], [0.25] * 5])
def test_without_spread_there_is_no_p_value(values):
    assert compare.paired_p(values) is None


def test_only_pairs_of_the_same_seed_are_compared():
    left = {seed: line("senn", seed, 0.5 + seed / 10) for seed in (0, 1, 2)}
    right = {seed: line("outgrow", seed, 0.4) for seed in (1, 2, 3)}
    assert compare.differences(left, right) == pytest.approx([20, 30])


def test_sizes_without_a_budget_are_told_in_order():
    counts = dict(zip(tasks.IMAGES, (900, 2_000, 3_000, 4_000, 9_000), strict=True))
    found = [
        line("outgrow", seed, 0.9, task=task, params=n + seed) for task, n in reversed(counts.items()) for seed in SEEDS
    ]
    table = compare.sizes_table(found)
    assert [text.split(" | ")[0][2:] for text in table.splitlines() if text.startswith("| mnist")] == list(tasks.IMAGES)
    assert "grows from row to row: yes; rank correlation of row and parameters 0.98 (n = 25, p <0.0001)" in table
    assert "row to row: NO" in compare.sizes_table([{**run, "params": -run["params"]} for run in found])


def test_labels_stand_apart_and_in_order():
    wanted = {"a": 0.98, "b": 0.97, "c": 0.2, "d": 0.2, "e": 0.21, "f": 1.0}
    at = drawing.apart(wanted)
    heights = sorted(at.values())
    assert max(heights) <= 1
    assert all(right - left >= drawing.GAP - 1e-9 for left, right in itertools.pairwise(heights))
    assert sorted(at, key=at.__getitem__) == ["c", "d", "e", "b", "a", "f"]


def test_the_figure_has_a_panel_a_task_and_is_the_same_for_the_same_runs():
    found = [*example(), *runs("outgrow", 0.8, task="mnist")]
    text = drawing.svg(drawing.compared(found))
    assert text == drawing.svg(drawing.compared(found))
    for name in ("digits", "mnist", "senn, tau=0.5", compare.CONTROLS["uniform"]):
        assert f">{name}</text>" in text


def test_choices_have_a_row_each_and_a_column_a_task():
    found = [*example(), *runs("outgrow", 0.8, task="mnist")]
    head, _, *rows = compare.choices_table(found).splitlines()
    assert head.count("test %, loss") == 2
    assert rows[0].startswith(f"| {compare.CHOICES['outgrow']} |")
    assert compare.choices_table([]) == "No runs yet."


def test_every_choice_is_a_row_that_can_run():
    made = policies.jobs(wanted(), [name for name in compare.CHOICES if name not in compare.CONTROLS], [])
    assert {str(job).split(", ")[1] for job in made} == set(compare.CHOICES) - set(compare.CONTROLS)


def test_the_page_shows_what_the_results_say():
    found = tables.blocks(*map(tables.records, tables.SOURCES))
    assert {"policies", "policies-sizes"} <= set(re.findall(r"<!-- /([\w-]+) -->", PAGE))
    assert tables.filled(PAGE, found) == PAGE


def wanted(**changes):
    """What the command line asks for."""
    return argparse.Namespace(**{"seeds": [0, 1], "tasks": {"digits": tasks.TASKS["digits"]}, **changes})


def test_finished_runs_are_skipped_and_others_are_not():
    jobs = policies.jobs(wanted(), ["senn", "schedule", "schedule,events=4"], [])
    assert len(jobs) == 6
    found = [
        line("schedule", 0, 0.5),
        line("schedule", 1, 0.5, options={"events": "4"}),
        {**line("senn", 0, 0.5), "failed": "why"},
        line("senn", 1, 0.5, task="mnist"),
    ]
    done = {str(job) for job in jobs if policies.done(job, found)}
    assert done == {"digits, schedule, seed 0", "digits, schedule,events=4, seed 1"}
    other = [replace(job, task=replace(job.task, epochs=1)) for job in jobs]
    assert not any(policies.done(job, found) for job in other)


def test_controls_go_by_the_newest_run_of_the_default_with_their_seed():
    old, new = line("outgrow", 1, 0.5), line("outgrow", 1, 0.6, params=10_000)
    (job,) = policies.jobs(wanted(seeds=[1]), ["scratch"], [line("outgrow", 0, 0.4), old, new])
    assert job.reference == new
    finished = {**line("scratch", 1, 0.5), **job.key()}
    assert policies.done(job, [finished])
    assert not policies.done(replace(job, reference=old), [finished])  # a run of another default
    with pytest.raises(SystemExit, match="run that row, too"):
        policies.jobs(wanted(seeds=[7]), ["scratch"], [old])


def test_subsets_are_the_same_each_time_and_keep_the_test_part():
    data = replace(tasks.TASKS["digits"], examples=200).load(".")
    again = replace(tasks.TASKS["digits"], examples=200).load(".")
    whole = tasks.TASKS["digits"].load(".")
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 22, len(whole.test))
    assert torch.equal(data.train.x, again.train.x)
    assert torch.equal(data.train.y, again.train.y)


def test_a_run_and_its_controls_make_lines_that_tables_take(monkeypatch):
    monkeypatch.setattr(policies, "commit", lambda: "c")
    task = replace(tasks.TASKS["digits"], epochs=10, examples=300)
    grown = policies.run(policies.Job("digits", task, "schedule", {"events": "1"}, 0), ".")
    assert grown["growths"] > 0
    assert grown["params"] <= task.max_params
    assert grown["train_flops"] <= grown["max_train_flops"]
    found = [{**grown, "row": "outgrow", "options": {}}]
    for row in compare.CONTROLS:
        found.append(policies.run(policies.Job("digits", task, row, {}, 0, grown), "."))
    alike, shorter, uniform, equal = found[1:]
    assert alike["architecture"] == {"blocks": [], "shapes": grown["architecture"]["shapes"]}
    assert (alike["epochs"], shorter["epochs"], uniform["epochs"]) == (10, 6, 10)
    assert abs(equal["train_flops"] - grown["train_flops"]) <= uniform["train_flops"] / uniform["epochs"]
    assert "60 % of the epochs" in compare.comparison(found)
