"""Families beside sweeps: accuracy at each size against all FLOPs spent, at several lengths.

    python benchmarks/family.py --data DIR --seeds 0 1 2 3 4 --workers 2
    python benchmarks/family.py --data DIR --tasks cifar10 --seeds 0 1 2 --lengths 10 20

A run of some length leaves five sizes that span ten times in parameters. Each is looked at as the trunk left it (raw),
as the average of its weights, and as a branch off the trunk, taught by the largest size or not; and its architecture is
trained by itself with the same recipe for the same number of epochs. Every family and its sweep add a line to
results/family.jsonl; those that are there already are not repeated, and one that fails does not stop the others.
`tables.py` writes the tables.
"""

import argparse
import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from grow import commit, hardware
from policies import done, lines
from tasks import CIFAR, FASHION, Task

from outgrow.data import Dataset
from outgrow.models import SeedNetwork
from outgrow.train.alone import train_alone
from outgrow.train.architecture import Grown
from outgrow.train.average import settle_statistics_
from outgrow.train.branch import Branches
from outgrow.train.evaluate import evaluate, loss_of
from outgrow.train.finish import Finish
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import Loaders
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from outgrow.train.trunk import Trunk
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
KINDS = {"branch": Finish(distil=0.0), "taught": Finish()}


@dataclass(frozen=True)
class Job:
    """A family and its sweep.

    Args:
        name: Of the task.
        epochs: Length of the run, and of each training of the sweep.
        seed: Of everything random but the choice of examples.
    """

    name: str
    epochs: int
    seed: int

    def key(self) -> dict:
        """Return what makes two jobs the same, as JSON."""
        return {"task": self.name, "epochs": self.epochs, "seed": self.seed, "setup": TASKS[self.name].setup()}


def main() -> None:
    """Do what the command line asks for and is not done."""
    options = parsed()
    file = options.results / "family.jsonl"
    file.parent.mkdir(exist_ok=True)
    found = lines(file)
    every = product(options.seeds, options.tasks, options.lengths)
    jobs = [Job(name, epochs, seed) for seed, name, epochs in every]
    todo = [job for job in jobs if not done(job, found)]
    os.environ["OMP_NUM_THREADS"] = "1"  # read where a process imports torch
    with ProcessPoolExecutor(max(min(options.workers, len(todo)), 1), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, job, options.data): job for job in todo}
        for number, future in enumerate(as_completed(running), 1):
            error = future.exception()
            if error:
                traceback.print_exception(error)
            else:
                with open(file, "a") as out:
                    out.write(json.dumps(future.result()) + "\n")
            print(f"{number}/{len(todo)} {running[future]}{': failed' * bool(error)}", flush=True)


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
    with tempfile.TemporaryDirectory() as path:
        out = RunFolder(Path(path) / "trunk")
        out.claim(overwrite=False)
        targets = [round(size(network) * SPAN ** (step / (SIZES - 1))) for step in range(1, SIZES)]
        trunk = Trainer(data, network, recipe, out, sizes=targets, seed=job.seed).run()
        found = {kind: finished(out, kind, data, network, recipe, job.seed) for kind in KINDS}
        raw = [as_left(out, entry, data, network, recipe) for entry in trunk["sizes"]]
        alone = [by_itself(out, entry, data, network, recipe, job.seed) for entry in trunk["sizes"]]
    families = {"average": trunk, **found}
    return {
        **job.key(),
        "sizes": [
            {
                **{key: entry[key] for key in ("params", "flops", "axes")},
                "raw": raw[at],
                **{kind: family["sizes"][at]["test"] for kind, family in families.items()},
                "alone": alone[at]["test"],
            }
            for at, entry in enumerate(trunk["sizes"])
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


def finished(trunk: RunFolder, kind: str, data: Dataset, network: SeedNetwork, recipe: Recipe, seed: int) -> dict:
    """A copy of the run, with a branch for every size."""
    out = RunFolder(trunk.path.with_name(kind))
    shutil.copytree(trunk.path, out.path)
    branches = Branches(data, network, recipe, out, KINDS[kind], seed=seed)
    return branches.run([entry["name"] for entry in branches.sizes])


def as_left(run: RunFolder, entry: Mapping, data: Dataset, network: SeedNetwork, recipe: Recipe) -> dict:
    """How good the trunk's own weights were when it left a size; of the last, where their rate is zero, the average."""
    if not Trunk(run).has(entry["name"]):
        return entry["test"]
    net = network.build()
    Trunk(run).restore_(entry["name"], net, recipe.optimizer(net))
    loaders = Loaders(data, recipe, 0, "cpu")
    settle_statistics_(net, loaders.full)
    assert data.test is not None
    return evaluate(net, loaders.in_order(data.test), loss_of(data), data.task)


def by_itself(run: RunFolder, entry: Mapping, data: Dataset, network: SeedNetwork, recipe: Recipe, seed: int) -> dict:
    """The architecture of a size, trained from scratch."""
    shapes = {name: list(t.shape) for name, t in run.read_tensors(entry["file"]).items()}
    grown = Grown(network, entry["blocks"], shapes)
    return train_alone(data, grown, recipe, seed=seed, device="cpu")


if __name__ == "__main__":
    main()
