"""CIFAR-10, the growing network (SECNN's table, and SENN's setting): parameters needed for an accuracy.

Rows: SECNN's seed network with its policy, as published and with a threshold that it reaches here, and with the default
policy; our seed network and its family; and plain networks of the family's sizes under the same recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks import CIFAR, Task

from outgrow.models import Seed, imported_seed
from outgrow.train.alone import train_alone
from outgrow.train.recipe import Recipe
from outgrow.train.uniform import uniform
from seeds.growing import At, grown, made

SIZES = (5_000, 15_000, 30_000, 62_000, 160_000)
WIDTHS = (3, 6, 12)
SECNN_SIZE = 62_698  # of SECNN's best, mean over five runs
ROWS = {
    "secnn": "SECNN's seed network, `secnn`",
    "secnn,tau=1.1": "the same, a threshold of 1.1",
    "outgrow": "the same network, the default policy",
    "family": "our seed network, its family",
    "alone": "plain networks of its sizes, each by itself",
}
WATCHED = ("secnn", "secnn,tau=1.1", "outgrow")
PUBLISHED = ("11,360", "33,655", "84.1", "62,698")
TARGETS = {70.0: 5_000, 80.0: 15_000, 84.1: 30_000, 88.0: 62_000, 92.0: 160_000}
"""To reach with our best: test accuracy [%], and the parameters that it may take."""
CLAIMED = (70.0, 80.0)


@dataclass(frozen=True)
class Job:
    """A run, or the networks that are trained beside it.

    Args:
        row: One of `ROWS`.
        epochs: Of every training.
        sizes: Of the family and of what is trained by itself [parameters].
        seed: Of everything random.
    """

    row: str
    epochs: int
    sizes: tuple[int, ...]
    seed: int

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""
        sizes = list(self.sizes) if self.row in ("family", "alone") else []
        return {"row": self.row, "epochs": self.epochs, "sizes_wanted": sizes, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.row}, {self.epochs} epochs, seed {self.seed}"


def jobs(seeds: Sequence[int], rows: Sequence[str] = (), epochs: int | None = None, largest: int = SIZES[-1]) -> list:
    """All runs, seed by seed.

    Args:
        seeds: Of everything random.
        rows: Some of `ROWS`; all of them if empty.
        epochs: Length of each training, SECNN's if None.
        largest: Leave out sizes above this [parameters].
    """
    sizes = tuple(size for size in SIZES if size <= largest)
    return [Job(one, epochs or 300, sizes, seed) for seed in seeds for one in rows or ROWS]


def run(job: Job, at: At) -> dict:
    """Train; return the line."""
    task = Task(CIFAR, "resnet", job.epochs, 128, widths=WIDTHS)
    data = task.load(at.data)
    if job.row in WATCHED:
        mean, std = data.input_statistics()
        statistics = {"input_mean": tuple(mean.tolist()), "input_std": tuple(std.tolist())}
        network = imported_seed("seeds.networks:secnn", data.inputs, data.outputs, **statistics)
        limit = None if job.row.startswith("secnn") else SECNN_SIZE
        told = grown(data, network, task.recipe, job.row, job.seed, at.device, max_params=limit, watched=True)
    elif job.row == "family":
        told = grown(data, task.network(data), task.recipe, "outgrow", job.seed, at.device, sizes=job.sizes)
    else:
        told = alone(data, task.network(data), task.recipe, job, at.device)
    return {**job.key(), **told, "device": at.device, **made()}


def alone(data, network: Seed, recipe: Recipe, job: Job, device: str) -> dict:
    """Train a plain network of each size from scratch."""
    sizes = []
    for params in job.sizes:
        wide = uniform(network, params)
        sizes.append({"widths": wide.widths, **train_alone(data, wide, recipe, seed=job.seed, device=device)})
    spent = {key: sum(one[key] for one in sizes) for key in ("train_flops", "seconds")}
    joules = sum(one["joules"]["value"] for one in sizes)
    return {"sizes": sizes, "total": {**spent, "joules": {**sizes[0]["joules"], "value": joules}}}


def told(line: Mapping) -> str:
    """What a run says when it ends."""
    return ", ".join(f"{size['params']:,}: {100 * size['test']['accuracy']:.2f} %" for size in line["sizes"])
