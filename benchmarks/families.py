"""What the runs of family.py say: accuracy at each size for all FLOPs, and whether a family is as good as a sweep."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cells import made_with, row, spread
from compare import trained
from family import TASKS

KINDS = {
    "raw": "raw snapshots",
    "average": "averages",
    "branch": "branches",
    "taught": "taught branches",
    "alone": "each by itself",
}
"""What a line measured at every size, and what tables call it."""
FAMILIES = ("average", "branch", "taught")  # what a user can have in place of a sweep

WORTH = 0.5  # points on average over sizes: a longer sweep that gains less is not worth having
CLOSE, FLOPS, SECONDS = 0.3, 40, 50  # points at each size; % of the sweep's FLOPs and seconds, at most
FIGURE = "![Test accuracy at each size against the FLOPs of all sizes, a panel a task](figures/family.svg)"

Runs = Mapping[int, Mapping]  # by seed
Lengths = Mapping[int, Runs]  # by epochs


@dataclass(frozen=True)
class Match:
    """A family beside a sweep, over the seeds that both have.

    Args:
        epochs: Length of the family's runs.
        leads: By how many points each size is better than in the sweep, mean over seeds.
        flops: What the family took, for each seed [% of the sweep's].
        seconds: The same of the time.
    """

    epochs: int
    leads: Sequence[float]
    flops: Sequence[float]
    seconds: Sequence[float]

    @property
    def worst(self) -> float:
        """The lead of the size that has the least."""
        return min(self.leads)

    @property
    def is_close(self) -> bool:
        """Whether every size is as good as in the sweep, or nearly."""
        return self.worst >= -CLOSE - 1e-9

    @property
    def holds(self) -> bool:
        """Whether that came for the share of FLOPs and seconds that it should."""
        return self.is_close and statistics.mean(self.flops) <= FLOPS and statistics.mean(self.seconds) <= SECONDS


def latest(lines: Sequence[Mapping]) -> Mapping[str, Lengths]:
    """The newest line of every task, length of the sweep and seed, without those of another task or family than now."""
    setups = {line["task"]: line["setup"] for line in lines}
    families = {(line["task"], line["epochs"]): line["family_epochs"] for line in lines}
    found: dict[str, dict[int, dict[int, Mapping]]] = {}
    for line in sorted(lines, key=lambda line: ([*TASKS].index(line["task"]), line["epochs"])):
        own = families[line["task"], line["epochs"]]
        if line["setup"] == setups[line["task"]] and line["family_epochs"] == own:
            found.setdefault(line["task"], {}).setdefault(line["epochs"], {})[line["seed"]] = line
    return found


def comparison(lines: Sequence[Mapping]) -> str:
    """A table for every task, then one of what should hold."""
    tasks = latest(lines)
    if not tasks:
        return "No runs yet."
    parts = [f"{heading(task, lengths)}\n\n{task_table(lengths)}" for task, lengths in tasks.items()]
    runs = [run for lengths in tasks.values() for run in each(lengths)]
    return "\n\n".join([*parts, claims_table(tasks), FIGURE, made_with(runs)])


def each(lengths: Lengths) -> list[Mapping]:
    """All runs of a task."""
    return [run for runs in lengths.values() for run in runs.values()]


def heading(task: str, lengths: Lengths) -> str:
    """What the runs of a task have in common."""
    setup = each(lengths)[0]["setup"]
    least = min(run["sizes"][-1]["params"] / run["sizes"][0]["params"] for run in each(lengths))
    return (
        f"**{task}**: {trained(setup)}, batches of {setup['batch_size']}, "
        f"the largest size at least {least:.1f} times the smallest"
    )


def task_table(lengths: Lengths) -> str:
    """One row for each way to get the sizes, and length."""
    first, *others = (f"{params:,.0f}" for params in sizes_of(lengths))
    head = ["what", "epochs", "n", f"test %: {first} parameters", *others]
    table = [row([*head, "TFLOP, all sizes", "seconds"]), row(["---", *["---:"] * (len(head) + 1)])]
    for kind, name in KINDS.items():
        for epochs, runs in lengths.items():
            columns = zip(*(accuracies(run, kind) for run in runs.values()), strict=True)
            reached = [spread(values, 2) for values in columns]
            flops = f"{statistics.mean(tflops(runs, kind)):.3g}"
            seconds = spread([spent(run, kind)["seconds"] for run in runs.values()], 0)
            own = epochs if kind == "alone" else family_epochs(runs)
            table.append(row([name, str(own), str(len(runs)), *reached, flops, seconds]))
    return "\n".join(table)


def family_epochs(runs: Runs) -> int:
    """Length of the runs that left the sizes; the sweep beside them has more epochs."""
    return next(iter(runs.values()))["family_epochs"]


def sizes_of(lengths: Lengths) -> list[float]:
    """Parameters of every size, mean over runs."""
    return [statistics.mean(size) for size in zip(*map(params, each(lengths)), strict=True)]


def params(run: Mapping) -> list[int]:
    """Parameters of the sizes of a run."""
    return [size["params"] for size in run["sizes"]]


def accuracies(run: Mapping, kind: str) -> list[float]:
    """Test accuracy of every size [%]."""
    return [100 * size[kind]["accuracy"] for size in run["sizes"]]


def spent(run: Mapping, kind: str) -> Mapping[str, float]:
    """What all sizes together took; raw snapshots come with the averages."""
    return run["average" if kind == "raw" else kind]


def tflops(runs: Runs, kind: str) -> list[float]:
    """What all sizes together took, for each seed [TFLOP]."""
    return [spent(run, kind)["train_flops"] / 1e12 for run in runs.values()]


def claims_table(tasks: Mapping[str, Lengths]) -> str:
    """One row a task and kind of family: whether it is as good as the sweep that is worth having, for less."""
    head = [
        *("task", "family", "sweep, epochs", "family, epochs", "n", "worst size over the sweep's, points (parameters)"),
        *("FLOPs, % of the sweep's", "seconds, %", f"within {CLOSE} for {FLOPS} % and {SECONDS} %"),
    ]
    table = [row(head), row(["---", "---", *["---:"] * (len(head) - 3), "---"])]
    held = dict.fromkeys(FAMILIES, 0)
    for task, lengths in tasks.items():
        sweep, measured = worth_having(lengths)
        for kind in FAMILIES:
            best = cheapest(lengths, kind, sweep)
            held[kind] += best.holds
            size = sizes_of(lengths)[best.leads.index(best.worst)]
            cells = [task, KINDS[kind], f"{sweep}{'' if measured else ' (none measured)'}", str(best.epochs)]
            cells += [str(len(best.flops)), f"{best.worst:+.2f} ({size:,.0f})", spread(best.flops, 0)]
            table.append(row([*cells, spread(best.seconds, 0), "yes" if best.holds else "NO"]))
    counts = ", ".join(f"{KINDS[kind]} on {count}" for kind, count in held.items())
    return "\n".join([*table, "", f"Yes: {counts} of {len(tasks)} tasks."])


def worth_having(lengths: Lengths) -> tuple[int, bool]:
    """The shortest sweep that is worth having, and true; the longest, and false, where none was measured."""
    for epochs in sorted(lengths):
        longer = min((other for other in lengths if other >= 2 * epochs), default=None)
        gains = [] if longer is None else leads(lengths[longer], "alone", lengths[epochs])
        if gains and statistics.mean(gains) < WORTH:
            return epochs, True
    return max(lengths), False


def leads(runs: Runs, kind: str, sweep: Runs) -> list[float]:
    """By how many points each size is better than in a sweep, mean over the seeds that both have."""
    both = [(accuracies(runs[seed], kind), accuracies(sweep[seed], "alone")) for seed in shared(runs, sweep)]
    seeds = [[mine - other for mine, other in zip(*pair, strict=True)] for pair in both]
    return [statistics.mean(size) for size in zip(*seeds, strict=True)]


def shared(left: Runs, right: Runs) -> list[int]:
    """The seeds that both have."""
    return sorted(left.keys() & right.keys())


def cheapest(lengths: Lengths, kind: str, sweep: int) -> Match:
    """The cheapest family that is as good as a sweep; the one whose worst size is best where none is."""
    found = [match(runs, kind, lengths[sweep]) for runs in lengths.values()]
    known = [one for one in found if one.leads]
    close = [one for one in known if one.is_close]
    if close:
        return min(close, key=lambda one: statistics.mean(one.flops))
    return max(known, key=lambda one: one.worst)


def match(runs: Runs, kind: str, sweep: Runs) -> Match:
    """Put a family beside a sweep."""
    both = shared(runs, sweep)
    flops, seconds = (
        [100 * spent(runs[seed], kind)[key] / spent(sweep[seed], "alone")[key] for seed in both]
        for key in ("train_flops", "seconds")
    )
    return Match(family_epochs(runs), leads(runs, kind, sweep), flops, seconds)
