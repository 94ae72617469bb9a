"""What the runs of policies.py say: tables, differences with their p-values, and whether what should hold does."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cells import grouped, made_with, row, span, spread
from scipy import stats
from tasks import DATA_SETS, IMAGES, SIZES, TASKS, WHOLE

DEFAULT = "outgrow"
CONTROLS = {
    "scratch": "the network of `outgrow`, from scratch",
    "scratch-shorter": "the same, 60 % of the epochs",
    "uniform": "uniformly wide, from scratch, equal epochs",
    "uniform-flops": "uniformly wide, from scratch, equal FLOPs",
}
"""Rows that are trained from scratch beside each run of the default, and what tables call them."""

CHOICES = {
    DEFAULT: "units suited to the axis, growth until 15 %, 8 events, tilt 0.25",
    "outgrow,init=random": "random units",
    "outgrow,init=split": "split units",
    "outgrow,init=closed": "closed-form units",
    "outgrow,init=mixed": "units of a mixed pool",
    "outgrow,share=0.3": "growth until 30 %",
    "outgrow,share=0.6": "growth until 60 %",
    "outgrow,events=4,most=6": "4 events",
    "outgrow,strength=0": "plain proportion",
    "outgrow,strength=0.5": "tilt 0.5",
    "outgrow,depth=true": "blocks compete",
    "schedule": "fixed schedule: random units",
    "schedule,init=split": "fixed schedule: split units",
    "schedule,init=closed": "fixed schedule: closed-form units",
    "schedule,init=twins": "fixed schedule: pairs with opposite outgoing weights",
    "net2net": "fixed schedule: copies that share outgoing weights",
    **{name: CONTROLS[name] for name in ("uniform", "uniform-flops")},
}
"""Rows that tell what each choice of the default is worth, and what the table calls them."""
CHOICE_TASKS = ("fashion-mlp", "mnist", "digits")

FIGURE = "![Test accuracy against training FLOPs, a panel a task](figures/policies.svg)"
FORMER = 0.3  # share of the run in which networks grew in lines that don't tell it
CLOSE, SHARE, SURE = 0.2, 0.6, 0.05  # points, share of FLOPs, p below which a difference counts
FEWEST_RANKED = 6  # pairs: with fewer, Wilcoxon's p can't be below 0.05

Runs = Mapping[int, Mapping]


def blocks(
    compared: Sequence[Mapping], sizes: Sequence[Mapping], choices: Sequence[Mapping], newborns: Sequence[Mapping]
) -> dict[str, str]:
    """The tables by the names of their markers."""
    return {
        "newborns": newborns_table(newborns),
        "policies": comparison(compared),
        "policies-sizes": sizes_table(sizes),
        "choices": choices_table(choices),
    }


def choices_table(lines: Sequence[Mapping]) -> str:
    """One row a choice: accuracy and loss on the test part, and the share of the limit of training FLOPs, by task."""
    tasks = latest(lines)
    if not tasks:
        return "No runs yet."
    head = ["choice", *(f"{task}: test %, loss (FLOPs, %)" for task in tasks)]
    table = [row(head), row(["---", *["---:"] * len(tasks)])]
    for name, said in CHOICES.items():
        rows = [runs.get(CONTROLS.get(name) or ", ".join(parts(name)), {}) for runs in tasks.values()]
        table.append(row([said, *map(choice_cell, rows, map(train_limit, tasks.values()))]))
    runs = [run for rows in tasks.values() for one in rows.values() for run in one.values()]
    counts = sorted({len(one) for rows in tasks.values() for one in rows.values()})
    return "\n".join([*table, "", f"n = {', '.join(map(str, counts))}. {made_with(runs)}"])


def newborns_table(lines: Sequence[Mapping]) -> str:
    """One row for each way to add units and to train them, with all sizes the same in the end."""
    head = ["epochs", "what", "n", "test %", "test loss", "training TFLOP"]
    table = [row(head), row(["---:", "---", *["---:"] * 4])]
    for (epochs, choice), runs in grouped(lines, lambda run: (run["epochs"], run["choice"])).items():
        accuracy = spread([100 * run["test"]["accuracy"] for run in runs], 2)
        loss = statistics.mean(run["test"]["loss"] for run in runs)
        flops = statistics.mean(run["train_flops"] for run in runs) / 1e12
        table.append(row([str(epochs), choice, str(len(runs)), accuracy, f"{loss:.4f}", f"{flops:.3f}"]))
    return "\n".join([*table, "", made_with(lines)]) if lines else "No runs yet."


def choice_cell(runs: Runs, limit: int | None) -> str:
    """What a choice reaches on a task."""
    if not runs:
        return "-"
    loss = statistics.mean(run["test"]["loss"] for run in runs.values())
    flops = statistics.mean(run["train_flops"] for run in runs.values())
    return f"{spread(list(accuracies(runs).values()), 2)}, {loss:.4f} ({100 * flops / (limit or math.nan):.0f})"


def latest(lines: Sequence[Mapping]) -> dict[str, dict[str, Runs]]:
    """The newest line of every task, row and seed, without those that failed or whose task was another then."""
    setups = {line["task"]: line["setup"] for line in lines}
    found: dict[str, dict[str, dict[int, Mapping]]] = {}
    for line in lines:
        if "failed" not in line and line["setup"] == setups[line["task"]]:
            found.setdefault(line["task"], {}).setdefault(label(line), {})[line["seed"]] = line
    order = [*TASKS, *SIZES]
    return {task: ordered(matching(found[task])) for task in sorted(found, key=order.index)}


def matching(rows: Mapping[str, Runs]) -> dict[str, Runs]:
    """Rows without the controls of an older run of the default than the one that is there."""
    default = rows.get(DEFAULT, {})

    def fits(run: Mapping) -> bool:
        by = run["reference"]
        return by is None or (run["seed"] in default and by.items() <= default[run["seed"]].items())

    kept = {name: {seed: run for seed, run in runs.items() if fits(run)} for name, runs in rows.items()}
    return {name: runs for name, runs in kept.items() if runs}


def parts(row: str) -> list[str]:
    """The policy of a row and its options; a comma that no name follows belongs to a value."""
    return re.split(r",(?=\w+=)", row)


def label(line: Mapping) -> str:
    """What a row is called."""
    return CONTROLS.get(line["row"]) or ", ".join([line["row"], *(f"{k}={v}" for k, v in line["options"].items())])


def ordered(rows: Mapping[str, Runs]) -> dict[str, Runs]:
    """Rows in the order of a table: the default, the other policies from the best to the worst, controls."""
    names = list(CONTROLS.values())

    def place(name: str) -> tuple[int, float]:
        if name in names:
            return 2 + names.index(name), 0.0
        return int(name != DEFAULT), -statistics.mean(accuracies(rows[name]).values())

    return {name: rows[name] for name in sorted(rows, key=place)}


def accuracies(runs: Runs) -> dict[int, float]:
    """Test accuracy of the last size, by seed [%]."""
    return {seed: 100 * run["test"]["accuracy"] for seed, run in runs.items()}


def at_share(run: Mapping, share: float) -> float | None:
    """Test accuracy of the largest saved size that is within a share of the budget [%]; None if the seed is larger."""
    fits = [size for size in run["sizes"] if size["params"] <= share * run["setup"]["max_params"]]
    largest = max(fits, key=lambda size: (size["params"], size["epoch"]), default=None)
    return None if largest is None else 100 * largest["test"]["accuracy"]


def differences(runs: Runs, default: Runs) -> list[float]:
    """By how many points a row is better than the default, for each seed that both have."""
    mine, other = accuracies(runs), accuracies(default)
    return [mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())]


def paired_p(values: Sequence[float]) -> float | None:
    """Give p of the two-sided paired t-test; None where differences have no spread, or are fewer than two.

    Equal differences occur on small test parts, whose accuracies are multiples of 1 / n; a t of infinity is no evidence
    then.
    """
    if len(values) < 2 or statistics.stdev(values) < 1e-9:
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def ranked_p(values: Sequence[float]) -> float | None:
    """Give p of Wilcoxon's signed-rank test, two-sided; None for few pairs."""
    told = [value for value in values if abs(value) > 1e-9]
    return float(stats.wilcoxon(told).pvalue) if len(told) >= FEWEST_RANKED else None


def comparison(lines: Sequence[Mapping]) -> str:
    """A table for every task, then one of what should hold."""
    tasks = latest(lines)
    if not tasks:
        return "No runs yet."
    parts = [f"{heading(rows)}\n\n{task_table(rows)}" for rows in tasks.values()]
    runs = [run for rows in tasks.values() for one in rows.values() for run in one.values()]
    return "\n\n".join([*parts, claims_table(tasks), FIGURE, *failures(lines, tasks), made_with(runs)])


def failures(lines: Sequence[Mapping], tasks: Mapping[str, Mapping[str, Runs]]) -> list[str]:
    """Say which runs failed and have not been done since."""
    lost = {
        f"{line['task']}, {label(line)}, seed {line['seed']}": line["failed"]
        for line in lines
        if "failed" in line and line["seed"] not in tasks.get(line["task"], {}).get(label(line), {})
    }
    return ["\n".join(["Failed:", "", *(f"- {which}: {why}" for which, why in lost.items())])] if lost else []


def heading(rows: Mapping[str, Runs]) -> str:
    """What the runs of a task have in common."""
    run = next(run for runs in rows.values() for run in runs.values())
    setup, limit = run["setup"], train_limit(rows)
    spent = f" and {limit / 1e12:.3g} training TFLOP" if limit else ""
    return (
        f"**{run['task']}**: {trained(setup)}, {setup['epochs']} epochs, batches of {setup['batch_size']}, "
        f"at most {setup['max_params']:,} parameters{spent}; growth until {setup.get('share', FORMER):.0%}"
    )


def trained(setup: Mapping) -> str:
    """What is trained, on how much."""
    widths = f" {'-'.join(map(str, setup['widths']))}" if setup["widths"] else ""
    return f"{setup['model']}{widths}, {setup['examples'] or WHOLE[setup['source']]:,} training examples"


def train_limit(rows: Mapping[str, Runs]) -> int | None:
    """The FLOPs that every policy's run of a task may take."""
    limits = (run["max_train_flops"] for runs in rows.values() for run in runs.values())
    return next(filter(None, limits), None)


def task_table(rows: Mapping[str, Runs]) -> str:
    """One row a policy or control."""
    head = [
        *("row", "n", "test %: 1/4 of the budget", "1/2", "at the end", "parameters"),
        *("training FLOPs, % of the limit", "seconds", "deciding, % of time (of FLOPs)"),
        *(f"points over `{DEFAULT}`", "p, paired t", "p, Wilcoxon"),
    ]
    limit, default = train_limit(rows), rows.get(DEFAULT, {})
    table = [row(head), row(["---", *["---:"] * (len(head) - 1)])]
    for name, runs in rows.items():
        each = list(runs.values())
        change = differences(runs, default) if name != DEFAULT else []
        cells = [
            f"**{name}**" if name == DEFAULT else name,
            str(len(each)),
            *(share_cell([at_share(run, share) for run in each]) for share in (0.25, 0.5)),
            spread(list(accuracies(runs).values()), 2),
            f"{statistics.mean(run['params'] for run in each):,.0f}",
            spread([100 * run["train_flops"] / limit for run in each], 0) if limit else "-",
            spread([run["seconds"] for run in each], 0),
            f"{percent(each, 'check_seconds', 'seconds')} ({percent(each, 'check_flops', 'train_flops')})",
            f"{statistics.mean(change):+.2f}" if change else "-",
            *(probability(test(change)) for test in (paired_p, ranked_p)),
        ]
        table.append(row(cells))
    return "\n".join(table)


def share_cell(values: Sequence[float | None]) -> str:
    """Mean and spread of accuracies at a size, of the runs that saved one that small."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return spread(there, 2) + (f" (n={len(there)})" if len(there) < len(values) else "")


def percent(runs: Sequence[Mapping], part: str, whole: str) -> str:
    """Mean share of one quantity in another, in percent."""
    return f"{statistics.mean(100 * run[part] / run[whole] for run in runs):.1f}"


def probability(p: float | None) -> str:
    """A p-value with two digits."""
    return "-" if p is None or math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.2g}"


def claims_table(tasks: Mapping[str, Mapping[str, Runs]]) -> str:
    """One row a task: what the default has to reach, and whether it does."""
    head = [
        *("task", f"worse than, p < {SURE}", "better than `schedule`: p", "better than `random`: p"),
        *("points over its network from scratch", "at % of those FLOPs", "within 0.2 at 60 %"),
    ]
    table = [row(head), row(["---", "---", *["---:"] * 4, "---"])]
    sure = {"schedule": 0, "random": 0}
    for task, rows in tasks.items():
        default = rows.get(DEFAULT, {})
        found = {name: better(default, rows.get(name, {})) for name in sure}
        sure = {name: count + found[name][1] for name, count in sure.items()}
        table.append(row([task, beaten_by(rows), *(cell for cell, _ in found.values()), *reached(rows)]))
    counts = ", ".join(f"than `{name}` on {count}" for name, count in sure.items())
    said = f"Better with p < {SURE}: {counts} of {len(tasks)} tasks. No p is corrected for the number of tests."
    return "\n".join([*table, "", said])


def better(default: Runs, runs: Runs) -> tuple[str, bool]:
    """The default's lead over a row with its p, and whether both say that it is better."""
    change = differences(default, runs)
    p = paired_p(change)
    if not change:
        return "-", False
    sure = p is not None and p < SURE
    return f"{statistics.mean(change):+.2f}: {probability(p)}", sure and statistics.mean(change) > 0


def beaten_by(rows: Mapping[str, Runs]) -> str:
    """Policies that are better than the default, and not by chance."""
    rivals = {name: runs for name, runs in rows.items() if name not in (DEFAULT, *CONTROLS.values())}
    return ", ".join(name for name, runs in rivals.items() if better(runs, rows.get(DEFAULT, {}))[1]) or "none"


def reached(rows: Mapping[str, Runs]) -> tuple[str, str, str]:
    """How far the default is from its own network trained from scratch, for which share of its FLOPs."""
    default, scratch = rows.get(DEFAULT, {}), rows.get(CONTROLS["scratch"], {})
    change = differences(default, scratch)
    if not change:
        return "-", "-", "-"
    both = sorted(default.keys() & scratch.keys())
    shares = [default[seed]["train_flops"] / scratch[seed]["train_flops"] for seed in both]
    holds = statistics.mean(change) >= -CLOSE and statistics.mean(shares) <= SHARE
    return f"{spread(change, 2)}", spread([100 * share for share in shares], 0), "yes" if holds else "NO"


def sizes_table(lines: Sequence[Mapping]) -> str:
    """A table for each series: the size that was found without a budget."""
    tasks = {task: rows[DEFAULT] for task, rows in latest(lines).items() if DEFAULT in rows}
    series = [{task: tasks[task] for task in names if task in tasks} for names in (IMAGES, DATA_SETS)]
    runs = [run for one in tasks.values() for run in one.values()]
    return "\n\n".join([*map(series_table, filter(None, series)), made_with(runs)]) if runs else "No runs yet."


def series_table(tasks: Mapping[str, Runs]) -> str:
    """One row a task, in the order in which the size should grow; and whether it does."""
    head = ["task", "n", "training examples", "parameters", "sizes of the axes (median run)", "test %", "seconds"]
    table = [row(head), row(["---", *["---:"] * (len(head) - 1)])]
    sizes = []
    for number, (task, runs) in enumerate(tasks.items()):
        each = sorted(runs.values(), key=lambda run: run["params"])
        sizes += [(number, run["params"]) for run in each]
        middle = each[(len(each) - 1) // 2]
        cells = [task, str(len(each)), f"{middle['setup']['examples']:,}", span([run["params"] for run in each])]
        cells += ["-".join(map(str, middle["axes"].values())), spread(list(accuracies(runs).values()), 2)]
        table.append(row([*cells, span([round(run["seconds"]) for run in each])]))
    return "\n".join([*table, "", rising(sizes)])


def rising(sizes: Sequence[tuple[int, int]]) -> str:
    """Say whether the median size grows from row to row, given pairs of (row, parameters)."""
    rows = sorted({number for number, _ in sizes})
    medians = [statistics.median_low(size for number, size in sizes if number == one) for one in rows]
    said = "yes" if all(left < right for left, right in pairwise(medians)) else "NO"
    if len(set(medians)) < 2:
        return f"The median size grows from row to row: {said}."
    found = stats.spearmanr(*zip(*sizes, strict=True))
    return (
        f"The median size grows from row to row: {said}; rank correlation of row and parameters "
        f"{found.statistic:.2f} (n = {len(sizes)}, p {probability(float(found.pvalue))})."
    )
