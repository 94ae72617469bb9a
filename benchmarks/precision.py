"""What a training step takes in mixed precision, beside float32.

    python benchmarks/precision.py --threads 1 2
    python benchmarks/precision.py --device cuda

Networks of three kinds, of three sizes each, on batches of 128 images in the shape of CIFAR-10. Precisions take turns,
so that what else runs on the machine slows all of them. Every network adds a line to results/precision.jsonl;
`tables.py` writes the table.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from cells import made_with, row
from runs import add
from seeds.growing import At

from outgrow.models import Seed
from outgrow.train.recipe import Recipe
from outgrow.train.stepper import Stepper
from outgrow.train.uniform import uniform

RESULTS = Path(__file__).resolve().parent / "results" / "precision.jsonl"
SEEDS: Mapping[str, tuple[int, ...]] = {"mlp": (4, 4), "convnet": (3, 3, 6, 6, 12, 12), "resnet": (3, 6, 12)}
PARAMS = (15_000, 160_000, 1_200_000)
PRECISIONS = ("fp32", "bf16")
SHAPE, BATCH, CLASSES = (3, 32, 32), 128, 10
WARMUP = 3


def main() -> None:
    """Time every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=15, help="timed steps in each precision")
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for model in SEEDS:
            for params in PARAMS:
                seconds = timed(model, params, options.device, options.steps)
                line = {"model": model, "params": params, "batch": BATCH, "seconds": seconds}
                add(RESULTS, line | At("", options.device, threads=threads).made())
                print(model, params, threads, {name: f"{1e3 * value:.1f} ms" for name, value in seconds.items()})


def timed(model: str, params: int, device: str, steps: int) -> dict[str, float]:
    """Return the median time of a training step in each precision [s]."""
    seed = Seed(model, SHAPE, CLASSES, SEEDS[model])
    x = torch.randn(BATCH, *SHAPE, device=device)
    y = torch.randint(CLASSES, (BATCH,), device=device)
    steppers = {}
    for precision in PRECISIONS:
        net = uniform(seed, params).build().to(device)
        steppers[precision] = Stepper(net, Recipe(1, BATCH).optimizer(net), precision)
    taken: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(WARMUP + steps):
        for precision, stepper in steppers.items():
            began = time.perf_counter()
            stepper.step_(F.cross_entropy, x, y).item()
            taken[precision].append(time.perf_counter() - began)
    return {precision: statistics.median(found[WARMUP:]) for precision, found in taken.items()}


def table(lines: Sequence[Mapping]) -> str:
    """One row a network and number of threads, of the newest measurement."""
    newest = {(*where(line), line["model"], line["params"]): line for line in lines}
    head = ["network", "parameters", "on", *(f"{precision}: ms a step" for precision in PRECISIONS), "times as fast"]
    found = [row(head), row(["---", "---:", "---", *["---:"] * (len(PRECISIONS) + 1)])]
    for line in sorted(newest.values(), key=where):
        full, half = (line["seconds"][precision] for precision in PRECISIONS)
        device, threads = where(line)
        on = f"{threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device
        cells = [line["model"], f"{line['params']:,}", on, f"{1e3 * full:.1f}", f"{1e3 * half:.1f}"]
        found.append(row([*cells, f"{full / half:.1f}"]))
    return "\n".join([*found, "", made_with([*newest.values()])])


def where(line: Mapping) -> tuple[str, int]:
    """On what a step was timed."""
    return line["device"], line["threads"]


if __name__ == "__main__":
    main()
