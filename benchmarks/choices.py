"""Compare choices of the method on a cheap network, by the end: an MLP on Fashion-MNIST, grown to 20,000 parameters.

    python benchmarks/choices.py --data DIR/FashionMNIST --seeds 0 1 2

Adds a line a run to results/choices.jsonl, and prints the mean and spread of each choice over all lines.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from grow import commit, hardware

from outgrow.data import Dataset, load
from outgrow.grow.budget import Budget
from outgrow.grow.policies.proportional import Proportional
from outgrow.models import Seed
from outgrow.net.cost import parameters
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer

HERE = Path(__file__).resolve().parent
BUDGET = 20_000
RECIPE = Recipe(epochs=12, batch_size=128)

CHOICES: dict[str, dict] = {
    "default": {},
    "plain proportion": {"strength": 0.0},
    "tilt 0.5": {"strength": 0.5},
    "tilt 1, unbounded": {"strength": 1.0, "bounds": (0.1, 4.0)},
    "closed-form units": {"proposal": "closed"},
    "units of a mixed pool": {"proposal": "mixed"},
    "split units": {"proposal": "split"},
    "jump-start": {"jump_start": True},
    "closed-form units, jump-start": {"proposal": "closed", "jump_start": True},
    "4 events": {"events": 4},
    "growth until 40 %": {"share": 0.4},
    "wide from the start, 23-23-23": {"widths": (23, 23, 23), "full": True},
}


def main() -> None:
    """Run what the command line asks for, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    options = parser.parse_args()
    data = load(options.data)
    file = HERE / "results" / "choices.jsonl"
    file.parent.mkdir(exist_ok=True)
    for seed in options.seeds:
        for choice in options.choices:
            result = run(data, choice, seed)
            with open(file, "a") as results:
                results.write(json.dumps(result) + "\n")
            print(choice, seed, result["test"], result["params"], flush=True)
    report([json.loads(line) for line in file.read_text().splitlines()])


def run(data: Dataset, choice: str, seed: int) -> dict:
    """Train once; return what the last size reached."""
    change = dict(CHOICES[choice])
    widths, proposal = change.pop("widths", (6, 6, 6)), change.pop("proposal", "random")
    jump_start = change.pop("jump_start", False)
    mean, std = data.input_statistics()
    network = Seed("mlp", data.inputs, 10, widths, tuple(mean.tolist()), tuple(std.tolist()))
    recipe = replace(RECIPE, share=change.get("share", RECIPE.share))
    full = change.pop("full", False)
    budget = Budget(max_params=parameters(network.build()) if full else BUDGET)
    with tempfile.TemporaryDirectory() as folder:
        out = RunFolder(folder)
        out.claim(overwrite=False)
        trainer = Trainer(
            data,
            network,
            recipe,
            out,
            budget=budget,
            seed=seed,
            policy=lambda run: Proportional(**{"events": run.events, "share": run.share, **change}),
            proposal=proposal,
            jump_start=jump_start,
        )
        family = trainer.run()
    last = family["sizes"][-1]
    return {
        "choice": choice,
        "seed": seed,
        "params": last["params"],
        "axes": last["axes"],
        "test": last["test"],
        "validation": last["validation"],
        "train_flops": last["train_flops"],
        "commit": commit(),
        "hardware": hardware(),
    }


def report(results: list[dict]) -> None:
    """Print a row a choice."""
    print("| choice | n | test accuracy % | parameters | training TFLOP |\n| --- | ---: | ---: | ---: | ---: |")
    for choice in dict.fromkeys(result["choice"] for result in results):
        runs = [result for result in results if result["choice"] == choice]
        accuracy = [100 * run["test"]["accuracy"] for run in runs]
        spread = f" +- {statistics.stdev(accuracy):.2f}" if len(runs) > 1 else ""
        params = statistics.mean(run["params"] for run in runs)
        flops = statistics.mean(run["train_flops"] for run in runs) / 1e12
        print(f"| {choice} | {len(runs)} | {statistics.mean(accuracy):.2f}{spread} | {params:,.0f} | {flops:.3f} |")


if __name__ == "__main__":
    main()
