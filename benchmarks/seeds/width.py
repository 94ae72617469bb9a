"""MNIST with one hidden layer (SENN): how wide it becomes, by policy, by examples, and by classes.

Ten hidden units at the start, 4,000 steps, the same settings for all. Hidden units tell the size; of a free run those
with which it ended, of a family and of a sweep those of each size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks import WHOLE, Task, fewer, of_steps

from outgrow.data import Dataset
from outgrow.models import Seed
from outgrow.train.alone import train_alone
from seeds.growing import At, grown, made

MNIST, START, STEPS, BATCH = "DIR/MNIST", 10, 4_000, 128
UNITS = (20, 30, 40, 50, 60, 120)  # of the family and of the sweep, beside the start
EXAMPLES = (600, 2_000, 6_000, 20_000, WHOLE[MNIST])
CLASSES, OF_CLASSES = (2, 4, 6, 8, 10), 9_000  # classes, and examples of all of them together
SENN = "senn,tau=0.05,alpha=0.0005,depth=false"
ROWS = {
    "outgrow": "free, the default policy",
    SENN: "free, SENN's rule",
    "family": "a family of one run",
    "alone": "each width by itself",
}
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
        return {"row": self.row, "examples": self.examples, "classes": self.classes, "steps": STEPS, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.row}, {self.examples:,} examples of {self.classes} classes, seed {self.seed}"


def jobs(seeds: Sequence[int], rows: Sequence[str] = tuple(ROWS)) -> list[Job]:
    """All runs, seed by seed: of the whole data every row, of parts the default policy."""
    whole = [(one, WHOLE[MNIST], 10) for one in rows]
    parts = [("outgrow", examples, 10) for examples in EXAMPLES[:-1]]
    parts += [("outgrow", OF_CLASSES, classes) for classes in CLASSES]
    return [Job(*one, seed) for seed in seeds for one in [*whole, *(parts if "outgrow" in rows else [])]]


def run(job: Job, at: At) -> dict:
    """Train; return the line."""
    task = of_steps(STEPS, Task(MNIST, "mlp", 1, BATCH, widths=(START,), examples=job.examples))
    data = fewer(some_classes(task.load_whole(at.data), job.classes), job.examples)
    network = task.network(data)
    if job.row == "alone":
        told = {"sizes": [alone(data, network, task, units, job.seed, at.device) for units in (START, *UNITS)]}
    else:
        sizes = [params(units) for units in UNITS] if job.row == "family" else []
        policy = "outgrow" if sizes else job.row
        told = grown(data, network, task.recipe, policy, job.seed, at.device, sizes=sizes)
        told["sizes"] = [{**size, "units": next(iter(size["axes"].values()))} for size in told["sizes"]]
    return {**job.key(), **told, **made()}


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
    return ", ".join(f"{size['units']} units: {100 * size['test']['accuracy']:.2f} %" for size in line["sizes"])
