"""The two papers' experiments, each by one command.

    python benchmarks/reproduce.py regression --seeds 0 1 2 3 4
    python benchmarks/reproduce.py cifar --data DIR --seeds 0 1 2 3 4 --device cuda --workers 5
    python benchmarks/reproduce.py cifar --data DIR --rows family alone --epochs 24 --largest 62000

DIR holds MNIST, FashionMNIST and cifar-10-batches-bin. Every run adds a line to results/seeds_EXPERIMENT.jsonl; runs
that are there already are not repeated, so that one may stop and go on. `tables.py` writes the tables and draws the
figures.
"""

import argparse
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from runs import add, done, lines, results
from seeds import EXPERIMENTS
from seeds.growing import At

ON_CPU = ("regression", "moons")  # too small for anything else
CHOICES = ("rows", "epochs", "largest", "precision")
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Do the runs of an experiment that are not done."""
    options = parsed()
    experiment = EXPERIMENTS[options.experiment]
    taken = inspect.signature(experiment.jobs).parameters
    chosen = {key: value for key in CHOICES if (value := getattr(options, key)) is not None}
    if unknown := set(chosen) - set(taken):
        raise SystemExit(f"{options.experiment} has no --{', --'.join(sorted(unknown))}")
    if options.device != "cpu" and options.experiment in ON_CPU:
        raise SystemExit(f"{options.experiment} runs on the CPU: leave --device out")
    if options.keep and options.experiment != "cifar":
        raise SystemExit(f"{options.experiment} has no run folders to keep: leave --keep out")
    file = options.results / f"seeds_{options.experiment}.jsonl"
    file.parent.mkdir(exist_ok=True)
    found = lines(file)
    todo = [job for job in experiment.jobs(options.seeds, **chosen) if not done(job, found)]
    print(f"{len(todo)} runs to do", flush=True)
    at = At(options.data, options.device, options.workers, options.threads, options.keep)
    for job, line in results(todo, partial(experiment.run, at=at), options.workers, options.threads):
        if "failed" not in line:
            add(file, line | {"command": command(options, chosen, job.seed)})
        print(f"{job}: {line.get('failed') or experiment.told(line)}", flush=True)


def command(options: argparse.Namespace, chosen: Mapping[str, Any], seed: int) -> str:
    """What repeats a run, and others beside it."""
    words = [f"python benchmarks/reproduce.py {options.experiment} --data DIR --seeds {seed} --device {options.device}"]
    words += [f"--threads {options.threads}"] if options.threads > 1 else []
    for name, value in chosen.items():
        words.append(f"--{name} {' '.join(value) if isinstance(value, list) else value}")
    return " ".join(words)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data", default=".", help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some rows of the experiment's table")
    parser.add_argument("--epochs", type=int, help="length of each training, where it may be another")
    parser.add_argument("--largest", type=int, help="leave out sizes above this, where it may be another [parameters]")
    parser.add_argument("--precision", help="fp32, bf16 or fp16, where it may be another")
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--workers", type=int, default=1, help="so many runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run, on CPUs")
    parser.add_argument("--keep", type=Path, help="folder for run folders of cifar's families")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
