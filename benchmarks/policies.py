"""Compare policies: same seed network, recipe, and budgets of parameters and of training FLOPs; and what they cost.

    python benchmarks/policies.py --data DIR --seeds 0 1 2 3 4 --workers 2
    python benchmarks/policies.py --data DIR --tasks mnist --rows outgrow senn,tau=0.5 scratch
    python benchmarks/policies.py --data DIR --sizes --seeds 0 1 2
    python benchmarks/policies.py --data DIR --choices --seeds 0 1 2 3 4

DIR holds FashionMNIST, MNIST, cifar-10-batches-bin and tabular/adult_train.csv. A row is a policy, with options behind
commas, or one of the networks that are trained from scratch beside the default's run of the same seed. Every run adds a
line to results/policies.jsonl (`--sizes`: policies_sizes.jsonl, `--choices`: choices.jsonl); runs that are there
already are not repeated, so that one may stop and go on. `tables.py` writes the tables and draws the figure.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from compare import CHOICE_TASKS, CHOICES, CONTROLS, DEFAULT
from grow import commit, hardware
from runs import add, done, lines, results
from tasks import SIZES, TASKS, Task

from outgrow.data import Dataset
from outgrow.grow.budget import Budget
from outgrow.models import Seed, SeedNetwork
from outgrow.net.cost import flops
from outgrow.registry import POLICIES, options_of, policy_of
from outgrow.train.alone import Never
from outgrow.train.architecture import Grown
from outgrow.train.folder import RunFolder
from outgrow.train.trainer import Record, Trainer
from outgrow.train.uniform import uniform
from outgrow.values import settings

RESULTS = Path(__file__).resolve().parent / "results"
SHORTER = 0.6  # of the epochs, for the row that trains the default's network for less


@dataclass(frozen=True)
class Job:
    """A run to be done.

    Args:
        name: Of the task.
        task: What on.
        row: A policy, or one of `CONTROLS`.
        options: Of the policy.
        seed: Of everything random but the choice of examples.
        reference: The default's run that a control goes by.
    """

    name: str
    task: Task
    row: str
    options: Mapping[str, str]
    seed: int
    reference: Mapping | None = None

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON; controls are run anew when the default's run is another."""
        by = self.reference and {key: self.reference[key] for key in ("params", "axes", "train_flops")}
        return {"task": self.name, "row": self.row, "options": dict(self.options), "seed": self.seed,
                "setup": self.task.setup(), "reference": by}  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name}, {','.join([self.row, *(f'{k}={v}' for k, v in self.options.items())])}, seed {self.seed}"


def main() -> None:
    """Do the runs that the command line asks for and that are not done: policies first, then their controls."""
    options = parsed()
    name = "policies_sizes" if options.sizes else "choices" if options.choices else "policies"
    file = options.results / f"{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    for controls in (False, True):
        rows = [row for row in options.rows if (row in CONTROLS) == controls]
        found = lines(file)
        todo = [job for job in jobs(options, rows, found) if options.again or not done(job, found)]
        print(f"{len(todo)} runs to do{', of controls' * controls}", flush=True)
        for job, line in results(todo, partial(run, folder=options.data), options.workers):
            add(file, line)
            told = line.get("failed") or f"{100 * line['test']['accuracy']:.2f} %, {line['params']:,} parameters"
            print(f"{job}: {told}, {line.get('seconds', 0):.0f} s", flush=True)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--sizes", action="store_true", help="which size the default finds without a budget")
    parser.add_argument("--choices", action="store_true", help="what each choice of the default is worth")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=", ".join([*POLICIES, *CONTROLS]))
    parser.add_argument("--workers", type=int, default=1, help="so many runs at a time, of one thread each")
    parser.add_argument("--epochs", type=int, help="others than the task's, for a trial")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--again", action="store_true", help="repeat what is there; the newest line of a run counts")
    options = parser.parse_args()
    known = SIZES if options.sizes else TASKS
    if unknown := set(options.tasks or ()) - set(known):
        parser.error(f"--tasks {', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    options.tasks = {name: known[name] for name in options.tasks or (CHOICE_TASKS if options.choices else known)}
    if options.epochs:
        options.tasks = {name: replace(task, epochs=options.epochs) for name, task in options.tasks.items()}
    usual = [DEFAULT] if options.sizes else CHOICES if options.choices else [*POLICIES, *CONTROLS]
    options.rows = options.rows or list(usual)
    return options


def jobs(options: argparse.Namespace, rows: Sequence[str], found: Sequence[Mapping]) -> list[Job]:
    """All runs of some rows, seed by seed."""
    made = []
    for seed in options.seeds:
        for name, task in options.tasks.items():
            for row in rows:
                policy, *words = row.split(",")
                job = Job(name, task, policy, settings(tuple(words), "--rows"), seed)
                if policy not in CONTROLS:
                    policy_of(policy, job.options)  # finds errors before anything runs
                made.append(replace(job, reference=reference(job, found)) if policy in CONTROLS else job)
    return made


def reference(job: Job, found: Sequence[Mapping]) -> Mapping:
    """The default's newest run with the seed of a control."""
    key = replace(job, row=DEFAULT, options={}).key()
    runs = [line for line in found if "failed" not in line and key.items() <= line.items()]
    if not runs:
        raise SystemExit(f"{job}: goes by the run of {DEFAULT} with this seed, which is not there: run that row, too")
    return runs[-1]


def run(job: Job, folder: str) -> dict:
    """Train once; return what came of it."""
    task, data = job.task, job.task.load(folder)
    network, epochs, limit = task.network(data), task.epochs, None
    growing = {"policy": lambda run: Never()}
    if job.row in CONTROLS:
        network, epochs = control(job, data, network)
    else:
        limit = train_limit(task, data, network)
        budget = Budget(max_params=task.max_params)
        growing = {"policy": policy_of(job.row, job.options), "budget": budget, "max_train_flops": limit}
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as path:
        out = RunFolder(path)
        out.claim(overwrite=False)
        recipe = replace(task.recipe, epochs=epochs)
        made = partial(Trainer, data, network, recipe, out, policy_name=job.row, on_record=records.append)
        trainer = made(seed=job.seed, **growing)
        family = trainer.run()
        shapes = {name: list(t.shape) for name, t in out.read_tensors(family["sizes"][-1]["file"]).items()}
    growths = [growth for record in records for growth in record.get("growths", ())]
    last = family["sizes"][-1]
    keep = ("params", "flops", "test", "train_flops", "epoch")
    return {
        **job.key(),
        "policy": options_of(trainer.policy),
        "epochs": epochs,
        "sizes": [{key: entry[key] for key in keep} for entry in family["sizes"]],
        **{key: last[key] for key in ("params", "flops", "axes", "test", "validation")},
        "architecture": {"blocks": [one["where"] for one in growths if one["kind"] == "insert"], "shapes": shapes},
        "growths": len(growths),
        **{key: family["total"][key] for key in ("train_flops", "check_flops", "seconds", "check_seconds")},
        "max_train_flops": limit,
        "torch": torch.__version__,
        "commit": commit(),
        "hardware": hardware(),
    }


def train_limit(task: Task, data: Dataset, network: Seed) -> int | None:
    """FLOPs that a run may take, checks included: those of training the seed, widened to the budget, from scratch."""
    if task.max_params is None:
        return None
    return training_flops(uniform(network, task.max_params), steps(task, data), task.batch_size)


def control(job: Job, data: Dataset, network: Seed) -> tuple[SeedNetwork, int]:
    """The network of a control, and for how many epochs it is trained."""
    task, by = job.task, job.reference
    assert by is not None
    if job.row.startswith("scratch"):
        share = SHORTER if job.row == "scratch-shorter" else 1
        return Grown(network, **by["architecture"]), max(round(share * task.epochs), 1)
    wide = uniform(network, by["params"])
    epoch = training_flops(wide, steps(task, data), task.batch_size) / task.epochs
    return wide, max(round(by["train_flops"] / epoch), 1) if job.row == "uniform-flops" else task.epochs


def training_flops(network: SeedNetwork, steps: int, batch_size: int) -> int:
    """Return what training takes, a backward pass counted as two forward ones."""
    return 3 * flops(network.build(), network.example()) * steps * batch_size


def steps(task: Task, data: Dataset) -> int:
    """How many optimiser steps a run has."""
    return task.epochs * (len(data.train) // task.batch_size)


if __name__ == "__main__":
    main()
