"""Run `outgrow grow` as a user would, over seeds, check what it left, and add a line a run to results/grow.jsonl.

    python benchmarks/grow.py digits --seeds 0 1 2 3 4
    python benchmarks/grow.py fashion-mnist adult --data DIR --seeds 0 1 2

DIR holds the data sets in the layouts that people have: FashionMNIST/raw, cifar-10-batches-bin, tabular/NAME.csv.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import outgrow
from outgrow.data import Batches, load
from outgrow.train.evaluate import StandardizedMSE, evaluate

HERE = Path(__file__).resolve().parent

CASES: dict[str, list[str]] = {
    "digits": ["digits"],
    "digits-resnet": ["digits", "--model", "resnet"],
    "digits-mlp": ["digits", "--model", "mlp"],
    "fashion-mnist": ["DIR/FashionMNIST", "--max-params", "50k"],
    "cifar10": ["DIR/cifar-10-batches-bin", "--max-params", "50k", "--epochs", "10"],
    "adult": ["DIR/tabular/adult_train.csv", "--target", "target"],
    "california": ["DIR/tabular/california_housing.csv", "--target", "target"],
}


def main() -> None:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", default=".", help="folder of the data sets, for cases with files")
    options = parser.parse_args()
    (HERE / "results").mkdir(exist_ok=True)
    for case in options.cases:
        for seed in options.seeds:
            result = run(case, seed, options.data)
            with open(HERE / "results" / "grow.jsonl", "a") as results:
                results.write(json.dumps(result) + "\n")
            last = result["sizes"][-1]
            print(f"{case} seed {seed}: {last['params']:,} parameters, test {last['test']}, {result['seconds']:.0f} s")


def run(case: str, seed: int, data: str) -> dict:
    """Run one case with one seed in a folder of its own; return its result."""
    words = [word.replace("DIR", data) for word in CASES[case]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "outgrow.cli", "grow", *words, "--seed", str(seed), "--out", str(out)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        family = json.loads((out / "family.json").read_text())
        records = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
        exact = loads_exactly(out, family, words, seed)
    start = records[0]
    growths = [growth for record in records for growth in record.get("growths", ())]
    keep = ("params", "flops", "validation", "test", "train_flops", "seconds")
    return {
        "case": case,
        "command": " ".join(["outgrow grow", *CASES[case], "--seed", str(seed)]),
        "seed": seed,
        "seconds": round(seconds, 1),
        "sizes": [{key: size[key] for key in keep} for size in family["sizes"]],
        "total": family["total"],
        "growths": [{key: growth[key] for key in ("where", "gain", "se", "realised", "moved")} for growth in growths],
        "loads_exactly": exact,
        "commit": commit(),
        "versions": start["versions"],
        "hardware": hardware(),
    }


def loads_exactly(out: Path, family: dict, words: list[str], seed: int) -> bool:
    """Whether every size, loaded from its file, gives the very metrics that family.json states."""
    target = words[words.index("--target") + 1] if "--target" in words else None
    data = load(words[0], target=target, seed=seed)
    loss = torch.nn.functional.cross_entropy
    if data.task == "regression":
        loss = StandardizedMSE(data.target_statistics()[1])
    for size in family["sizes"]:
        alone = {**family, "sizes": [size]}
        (out / "family.json").write_text(json.dumps(alone))
        net = outgrow.load(out)
        for split, stated in ((data.validation, size["validation"]), (data.test, size["test"])):
            if evaluate(net, Batches(split, 256), loss, data.task) != stated:
                return False
    return True


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--", "../src"], capture_output=True, text=True).stdout
    return head + ("+" if changed.strip() else "")


def hardware() -> str:
    """The processor and how many cores of it there are."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    return f"{os.cpu_count()} cores, {model}"


if __name__ == "__main__":
    main()
