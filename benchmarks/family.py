"""Families beside sweeps: accuracy at each size against all FLOPs spent, at several lengths.

    python benchmarks/family.py --data DIR --seeds 0 1 2 3 4 --workers 2
    python benchmarks/family.py --data DIR --tasks cifar10 --seeds 0 1 2 --lengths 10 20

A run leaves five sizes that span ten times in parameters, each finished by a branch, taught by the largest size or not.
The architecture of each is trained by itself with the same recipe, for the epochs of the sweep, of which the run has
`SHORTER`. Another run of that length, which grows more slowly, is looked at as it leaves its sizes: raw, and as
averages (`--family-quality average`). Every family and its sweep add a line to results/family.jsonl; those that are
there already are not repeated, and one that fails does not stop the others. `tables.py` writes the tables.
"""

import argparse
import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from grow import commit, hardware
from runs import add, done, lines, results
from tasks import CIFAR, FASHION, Task

from outgrow.data import Dataset
from outgrow.models import SeedNetwork
from outgrow.train.alone import train_alone
from outgrow.train.architecture import Grown
from outgrow.train.average import settle_statistics_
from outgrow.train.branch import HIGHEST, Branches
from outgrow.train.evaluate import evaluate, loss_of
from outgrow.train.finish import Finishing
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import Loaders
from outgrow.train.recipe import Recipe
from outgrow.train.stages import SHARE
from outgrow.train.trainer import Trainer
from outgrow.train.uniform import size

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = 5
SPAN = 10.5  # the largest size over the smallest; whole units fall short of it by up to 3 %
TASKS: Mapping[str, Task] = {
    "digits": Task("digits", "convnet", 1, 32, widths=(4, 4, 8, 8)),
    "fashion-convnet": Task(FASHION, "convnet", 1, 32, widths=(3, 3, 6, 6, 12, 12), examples=4_000),
    "fashion-resnet": Task(FASHION, "resnet", 1, 32, examples=4_000),
    "cifar10": Task(CIFAR, "resnet", 1, 32, examples=4_000),
}
KINDS = {"branch": Finishing(distil=0.0), "taught": Finishing()}
SHORTER = 0.7  # of the epochs of a sweep, for the family beside it


@dataclass(frozen=True)
class Job:
    """A family and its sweep.

    Args:
        name: Of the task.
        epochs: Length of each training of the sweep.
        seed: Of everything random but the choice of examples.
    """

    name: str
    epochs: int
    seed: int

    def key(self) -> dict:
        """Return what makes two jobs the same, as JSON."""
        own = {"epochs": self.epochs, "family_epochs": round(SHORTER * self.epochs)}
        return {"task": self.name, **own, "seed": self.seed, "setup": TASKS[self.name].setup(), "highest_rate": HIGHEST}


def main() -> None:
    """Do what the command line asks for and is not done."""
    options = parsed()
    file = options.results / "family.jsonl"
    file.parent.mkdir(exist_ok=True)
    found = lines(file)
    every = product(options.seeds, options.tasks, options.lengths)
    jobs = [Job(name, epochs, seed) for seed, name, epochs in every]
    todo = [job for job in jobs if not done(job, found)]
    for job, line in results(todo, partial(run, folder=options.data), options.workers):
        if "failed" not in line:
            add(file, line)
        print(f"{job}{': failed' * ('failed' in line)}", flush=True)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[10, 20, 40], help="epochs")
    parser.add_argument("--workers", type=int, default=1, help="so many at a time, of one thread each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return parser.parse_args()


def run(job: Job, folder: str) -> dict:
    """Train a family and its sweep; return the line."""
    task = TASKS[job.name]
    data = task.load(folder)
    network, recipe = task.network(data), Recipe(job.epochs, task.batch_size)
    shorter = replace(recipe, epochs=job.key()["family_epochs"])
    with tempfile.TemporaryDirectory() as path:
        raw: list[dict] = []
        slow, out = Path(path) / "slow", Path(path) / "grown"
        left = grow_to_sizes(slow, data, network, replace(shorter, share=SHARE), job.seed, raw.append)
        sizes = grow_to_sizes(out, data, network, shorter, job.seed)["sizes"]
        if not len(left["sizes"]) == len(sizes) == SIZES:
            raise ValueError(f"expected {SIZES} sizes, got {len(left['sizes'])} and {len(sizes)}")
        found = {kind: finished(out, kind, data, network, shorter, job.seed) for kind in KINDS}
        last = found["taught"]["sizes"]
        taught = RunFolder(out.with_name("taught"))
        alone = [by_itself(taught, entry, data, network, recipe, job.seed) for entry in last]
    families = {"average": left, **found}
    return {
        **job.key(),
        "sizes": [
            {
                **{key: entry[key] for key in ("params", "flops", "axes")},
                "raw": raw[at],
                **{kind: family["sizes"][at]["test"] for kind, family in families.items()},
                "alone": alone[at]["test"],
            }
            for at, entry in enumerate(last)
        ],
        **{kind: spent(family["total"]) for kind, family in families.items()},
        "alone": {key: sum(one[key] for one in alone) for key in ("train_flops", "seconds")},
        "torch": torch.__version__,
        "commit": commit(),
        "hardware": hardware(),
    }


def spent(total: Mapping) -> dict:
    """What a family took."""
    return {key: total[key] for key in ("train_flops", "seconds")}


def grow_to_sizes(
    path: Path,
    data: Dataset,
    network: SeedNetwork,
    recipe: Recipe,
    seed: int,
    keep: Callable[[dict], None] = lambda told: None,
) -> dict:
    """Let a run grow to five sizes; `keep` gets how good its weights are as they leave each of them."""
    out = RunFolder(path)
    out.claim(overwrite=False)
    targets = [round(size(network) * SPAN ** (step / (SIZES - 1))) for step in range(1, SIZES)]

    def look(record: Mapping) -> None:
        if record.get("record") == "size":
            keep(as_left(trainer, data, recipe))

    trainer = Trainer(data, network, recipe, out, sizes=targets, seed=seed, on_record=look)
    return trainer.run()


def as_left(trainer: Trainer, data: Dataset, recipe: Recipe) -> dict:
    """How good a network is as it is, with its own statistics of BatchNorm."""
    net, loaders = copy.deepcopy(trainer.model), Loaders(data, recipe, 0, "cpu")
    settle_statistics_(net, loaders.full)
    assert data.test is not None
    return evaluate(net, loaders.in_order(data.test), loss_of(data), data.task)


def finished(trunk: Path, kind: str, data: Dataset, network: SeedNetwork, recipe: Recipe, seed: int) -> dict:
    """A copy of a run, with a branch for every size."""
    out = RunFolder(trunk.with_name(kind))
    shutil.copytree(trunk, out.path)
    branches = Branches(data, network, recipe, out, KINDS[kind], seed=seed)
    return branches.run([entry["name"] for entry in branches.sizes])


def by_itself(run: RunFolder, entry: Mapping, data: Dataset, network: SeedNetwork, recipe: Recipe, seed: int) -> dict:
    """The architecture of a size, trained from scratch."""
    shapes = {name: list(t.shape) for name, t in run.read_tensors(entry["file"]).items()}
    grown = Grown(network, entry["blocks"], shapes)
    return train_alone(data, grown, recipe, seed=seed, device="cpu")


if __name__ == "__main__":
    main()
