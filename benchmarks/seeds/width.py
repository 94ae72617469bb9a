"""MNIST with one hidden layer (SENN): how wide it becomes, by policy, by examples, and by classes.

Ten hidden units at the start, 4,000 steps, the same settings for all. Free runs tell the width with which they end, a
family and a sweep how good each of some widths is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cells import grouped, made_with, row, span, spread
from drawing import DISTINCT, STYLE, svg
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats
from tasks import WHOLE, Task, fewer, of_steps

from outgrow.data import Dataset
from outgrow.models import Seed
from outgrow.train.alone import train_alone
from seeds.growing import At, grown, newest, percent

MNIST, START, STEPS, BATCH = "DIR/MNIST", 10, 4_000, 128
UNITS = (START, 20, 30, 40, 50, 60, 120)  # of the family and of the sweep
EXAMPLES = (600, 2_000, 6_000, 20_000, WHOLE[MNIST])
CLASSES, OF_CLASSES = (2, 4, 6, 8, 10), 9_000  # classes, and examples of all of them together
SENN = "senn,tau=0.05,alpha=0.0005,depth=false,share=0.6"
ROWS = {
    "outgrow": "free, the default policy",
    SENN: "free, SENN's rule",
    "family": "a family of one run",
    "alone": "each width by itself",
}
FREE, KEYS = ("outgrow", SENN), ("examples", "classes")
FEWEST = 4  # pairs, for a rank correlation
FIGURE = "![Test accuracy by hidden units; hidden units by examples and by classes](figures/seeds_width.svg)"
SHARE = 97.0  # test accuracy that SENN's network reached [%]


@dataclass(frozen=True)
class Job:
    """A run, or the networks that are trained beside it.

    Args:
        row: One of `ROWS`.
        examples: Of the training part.
        classes: So many of the digits, from zero on.
        seed: Of everything random but the choice of examples.
    """

    row: str
    examples: int
    classes: int
    seed: int

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""
        data = {"examples": self.examples, "classes": self.classes}
        return {"row": self.row, **data, "seed": self.seed, "setup": [START, STEPS, BATCH, list(UNITS)]}

    def __str__(self) -> str:
        return f"{self.row}, {self.examples:,} examples of {self.classes} classes, seed {self.seed}"


def jobs(seeds: Sequence[int], rows: Sequence[str] = tuple(ROWS)) -> list[Job]:
    """All runs, seed by seed: of the whole data every row, of parts those that are free."""
    wanted = [(one, WHOLE[MNIST], 10) for one in rows]
    for one in FREE:
        if one in rows:
            wanted += [(one, examples, 10) for examples in EXAMPLES[:-1]]
            wanted += [(one, OF_CLASSES, classes) for classes in CLASSES]
    return [Job(*one, seed) for seed in seeds for one in wanted]


def run(job: Job, at: At) -> dict:
    """Train; return the line."""
    task = of_steps(STEPS, Task(MNIST, "mlp", 1, BATCH, widths=(START,), examples=job.examples))
    data = fewer(some_classes(task.load_whole(at.data), job.classes), job.examples)
    network = task.network(data)
    if job.row == "alone":
        line = {"sizes": [alone(data, network, task, units, job.seed, at.device) for units in UNITS]}
    else:
        sizes = [params(units) for units in UNITS] if job.row == "family" else []
        policy = "outgrow" if sizes else job.row
        line = grown(data, network, task.recipe, policy, job.seed, at.device, sizes=sizes)
        line["sizes"] = [{**size, "units": next(iter(size["axes"].values()))} for size in line["sizes"]]
    return {**job.key(), **line, **at.made()}


def params(units: int) -> int:
    """Parameters of a network with so many hidden units."""
    return units * (28 * 28 + 1 + 10) + 10


def alone(data: Dataset, network: Seed, task: Task, units: int, seed: int, device: str) -> dict:
    """Train a network with so many hidden units from scratch."""
    wide = replace(network, widths=(units,))
    return {"units": units, **train_alone(data, wide, task.recipe, seed=seed, device=device)}


def some_classes(data: Dataset, count: int) -> Dataset:
    """The examples of the first classes."""
    train, validation, test = (part.part(part.y < count) for part in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test, classes=data.classes[:count])


def told(line: Mapping) -> str:
    """What a run says when it ends."""
    return ", ".join(f"{size['units']} units: {percent(size):.2f} %" for size in line["sizes"])


def tables(lines: Sequence[Mapping]) -> str:
    """Accuracy by width for each row, then the final width by examples and by classes, and whether it grows."""
    if not lines:
        return "No runs yet."
    lines = newest(lines)
    whole = [line for line in lines if (line["examples"], line["classes"]) == (WHOLE[MNIST], 10)]
    parts = [accuracy_table(whole), energy_sentence(whole)]
    parts += [series(by(lines, key), key) for key in KEYS] + [FIGURE, made_with(lines)]
    return "\n\n".join(part for part in parts if part)


def by(lines: Sequence[Mapping], key: str) -> list[Mapping]:
    """The free runs that differ in how many examples, or in how many classes, they have."""
    free = [line for line in lines if line["row"] in FREE]
    if key == "classes":
        return [line for line in free if line["examples"] == OF_CLASSES]
    return [line for line in free if line["classes"] == 10 and line["examples"] in EXAMPLES]


def accuracy_table(lines: Sequence[Mapping]) -> str:
    """One row a way to get there: a column a width for those that have them, and the end of free runs."""
    head = ["way", "n", *(f"{units} units" for units in UNITS), f"fewest of these above {SHARE:g} %"]
    table = [row([*head, "units at the end", "test % then"]), row(["---", *["---:"] * (len(head) + 1)])]
    for name, runs in grouped(sorted(lines, key=order), lambda line: line["row"]).items():
        cells = [ROWS[name], str(len(runs))]
        if name in FREE:
            last = spread([percent(line["sizes"][-1]) for line in runs], 2)
            cells += [*["-"] * (len(UNITS) + 1), span(ends(runs)), last]
        else:
            cells += [
                *(spread([percent(of(line, units)) for line in runs], 2) for units in UNITS),
                enough(runs),
                "-",
                "-",
            ]
        table.append(row(cells))
    return "\n".join(table)


def order(line: Mapping) -> int:
    """Where its row stands."""
    return [*ROWS].index(line["row"])


def of(line: Mapping, units: int) -> Mapping:
    """The size with so many hidden units."""
    return next(size for size in line["sizes"] if size["units"] == units)


def enough(runs: Sequence[Mapping]) -> str:
    """The fewest hidden units with which a network of each run is above the share that SENN's reached."""
    fewest = [min((units for units in UNITS if percent(of(line, units)) > SHARE), default=None) for line in runs]
    return "-" if None in fewest else span(fewest)


def energy_sentence(lines: Sequence[Mapping]) -> str:
    """What the family took beside the sweep of the same widths, over seeds that have both."""
    family, sweep = ({line["seed"]: line for line in lines if line["row"] == name} for name in ("family", "alone"))
    both = sorted(family.keys() & sweep.keys())
    if not both:
        return ""
    said = ", ".join(f"{ratio(family, sweep, both, key)} % of its {key}" for key in ("FLOPs", "seconds", "joules"))
    how = family[both[0]]["total"]["joules"]["how"]
    return f"The family took {said} ({how}; n = {len(both)}), checks and branches included."


def ratio(family: Mapping, sweep: Mapping, both: Sequence[int], key: str) -> str:
    """Share of the sweep's, in percent."""
    return spread([100 * spent(family[seed], key) / spent(sweep[seed], key) for seed in both], 0)


def spent(line: Mapping, key: str) -> float:
    """What all sizes of a line took together."""
    parts = [line["total"]] if "total" in line else line["sizes"]
    if key == "joules":
        return sum(part["joules"]["value"] for part in parts)
    return sum(part["train_flops" if key == "FLOPs" else key] for part in parts)


def series(lines: Sequence[Mapping], key: str) -> str:
    """The final width by how much there is to learn, and its rank correlation, for each policy."""
    if not lines:
        return ""
    head = [key, *(f"{ROWS[name]}: n, hidden units at the end, test %" for name in FREE)]
    table = [row(head), row(["---:"] * len(head))]
    for value, runs in sorted(grouped(lines, lambda line: line[key]).items()):
        table.append(row([f"{value:,}", *(ends_cell([line for line in runs if line["row"] == name]) for name in FREE)]))
    found = [correlation([line for line in lines if line["row"] == name], key) for name in FREE]
    said = "; ".join(f"{ROWS[name]} {one}" for name, one in zip(FREE, found, strict=True) if one)
    return "\n".join([*table, "", f"Rank correlation of {key} and width: {said}."] if said else table)


def ends_cell(runs: Sequence[Mapping]) -> str:
    """How many runs, with how many units they ended, and how good they were."""
    if not runs:
        return "-"
    return f"{len(runs)}, {span(ends(runs))}, {spread([percent(line['sizes'][-1]) for line in runs], 2)}"


def correlation(lines: Sequence[Mapping], key: str) -> str:
    """Spearman's rank correlation, where there are runs enough."""
    if len(lines) < FEWEST:
        return ""
    found = stats.spearmanr([line[key] for line in lines], ends(lines))
    return f"{found.statistic:.2f} (n = {len(lines)}, p {found.pvalue:.1g})"


def figures(lines: Sequence[Mapping]) -> dict[str, bytes]:
    """Hidden units against accuracy, and against examples."""
    return {"seeds_width.svg": svg(drawn_widths(lines)).encode()} if lines else {}


def drawn_widths(lines: Sequence[Mapping]) -> Figure:
    """Draw accuracy over hidden units, a line a run, then final widths over examples and classes."""
    whole = [line for line in lines if (line["examples"], line["classes"]) == (WHOLE[MNIST], 10)]
    colors = dict(zip(ROWS, DISTINCT, strict=False))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        left, *others = figure.subplots(1, 3)
        for name, said in ROWS.items():
            for at, line in enumerate(line for line in whole if line["row"] == name):
                sizes = line["sizes"][-1:] if name in FREE else [of(line, units) for units in UNITS]
                points = zip(*((size["units"], percent(size)) for size in sizes), strict=True)
                left.plot(*points, ".-", color=colors[name], linewidth=0.8, label=None if at else said)
        left.axhline(SHARE, color="#9aa3ad", linewidth=0.8, linestyle="--")
        left.set(xlabel="hidden units", ylabel="test accuracy, %", ylim=(93, 98.6))
        left.legend(fontsize=7)
        for axes, key in zip(others, KEYS, strict=True):
            for name in FREE:
                runs = [line for line in by(lines, key) if line["row"] == name]
                axes.plot([line[key] for line in runs], ends(runs), "o", color=colors[name], markersize=4, alpha=0.6)
            axes.set(xlabel=f"training {key}" if key == "examples" else key, ylabel="hidden units at the end")
        others[0].set_xscale("log")
        others[1].set_xticks(CLASSES)
    return figure


def ends(lines: Sequence[Mapping]) -> list[int]:
    """Hidden units with which runs ended."""
    return [line["sizes"][-1]["units"] for line in lines]
