"""What a check costs: seconds, counted FLOPs and memory, against those of training.

    python benchmarks/cost.py                  # everything but 224 pixels
    python benchmarks/cost.py width depth      # some of it
    python benchmarks/cost.py --quick          # a look whether it runs; writes nothing

- `resnet`: a CIFAR-shaped residual network of 60,000 parameters, with the sample that `outgrow grow` would take in its
  default run and with that of `outgrow.Grower`; against an epoch of 50,000 examples, and the memory of a training step.
- `width`, `depth`, `sample`: how the cost grows; drawn in figures/cost.svg.
- `large`, `large224`: 25.6 million parameters in the shape of ResNet-50, every axis on trial with two units.
- `share`: what checks took of whole runs, from results/grow.jsonl.

A check here puts a quarter more units on trial on every axis, takes them all and applies the edit. Times are medians.
Every measurement runs in a process of its own, which first runs a tiny check or a training step. Each line of
results/cost.jsonl is written as it comes, and what is there for this commit and machine is not measured again.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import torch
from grow import commit, hardware
from matplotlib.figure import Figure
from point import POINTS, QUICK, Point, measure_check, measure_step

HERE = Path(__file__).resolve().parent
RESULTS, FIGURE = HERE / "results" / "cost.jsonl", HERE / "figures" / "cost.svg"

EPOCH = 50_000  # examples
LIMIT = 16 * 2**30  # bytes that one measurement may hold: it fails before it harms what else runs
PANELS = {"width": "channels of every layer", "depth": "residual blocks", "sample": "examples of each part"}
STYLE = {"svg.hashsalt": "outgrow", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "legend.frameon": False, "axes.grid": True, "grid.color": "#dfe4e9"}  # fmt: skip


def main() -> None:
    """Measure what the command line names, then print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join([*POINTS, 'share'])}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds, of one measurement")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - {*POINTS, "share"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.measure:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        torch.set_num_threads(options.threads)
        measure, point = options.measure
        act = {"step": measure_step, "check": measure_check}[measure]
        return print(json.dumps(act(Point(**json.loads(point)), options.repeats, options.device)))
    plan, found = (QUICK, []) if options.quick else (POINTS, lines(RESULTS))
    there = [key(line) for line in found]
    for part in options.parts or [part for part in plan if part != "large224"]:
        for point in plan.get(part, []):
            line = asked(point, options)
            if options.quick or key(line) not in there:
                found.append(measured(line, point, options))
                print(table(found[-1:]).splitlines()[-1], flush=True)
                if not options.quick:
                    add(found[-1])
    report(found, options)
    return None


def lines(file: Path) -> list[dict]:
    """Every line of a file of results."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(line: Mapping) -> None:
    """Write one line more."""
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as results:
        results.write(json.dumps(line) + "\n")


def asked(point: Point, options: argparse.Namespace) -> dict:
    """What a line says before anything is measured."""
    return {
        "what": point.what,
        "value": point.value,
        "asked": point.sample,
        "command": f"python benchmarks/cost.py {point.what} --repeats {options.repeats} --threads {options.threads}",
        "commit": commit(),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "hardware": hardware() if options.device == "cpu" else torch.cuda.get_device_name(),
        "threads": options.threads,
    }


def key(line: Mapping) -> tuple:
    """What makes two lines the same measurement."""
    return tuple(line[name] for name in ("what", "value", "asked", "commit", "hardware", "threads"))


def measured(line: Mapping, point: Point, options: argparse.Namespace) -> dict:
    """Add the measurements of the check and of the training step; what failed says why."""
    found = dict(line)
    for measure in ("step", "check"):
        command = [sys.executable, __file__, "--measure", measure, json.dumps(asdict(point))]
        command += ["--device", options.device, "--threads", str(options.threads)]
        command += ["--repeats", "1" if options.quick or point.what.startswith("large") else str(options.repeats)]
        try:
            out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=options.timeout).stdout
            found |= json.loads(out.splitlines()[-1])
        except subprocess.TimeoutExpired:
            found["failed"] = f"{measure}: more than {options.timeout:.0f} s"
        except subprocess.CalledProcessError as error:
            found["failed"] = f"{measure}: " + (error.stderr.strip().splitlines() or [f"exit {error.returncode}"])[-1]
    return found


def report(found: Sequence[Mapping], options: argparse.Namespace) -> None:
    """Print every line, the bars and the shares, and draw the figure."""
    newest = list({(line["what"], line["value"], line["asked"]): line for line in found}.values())
    print(table(newest), *bars(newest), shares(lines(HERE / "results" / "grow.jsonl")), sep="\n\n")
    drawn = [line for line in newest if line["what"] in PANELS and "failed" not in line]
    if drawn and not options.quick:
        FIGURE.parent.mkdir(exist_ok=True)
        FIGURE.write_text(draw(drawn))


def derived(line: Mapping) -> dict[str, float]:
    """What follows from a line: seconds, and multiples of a training step and of training on the examples it reads."""
    seconds, training = statistics.median(line["check_seconds"]), line["step_seconds"] / line["batch"]
    read = 2 * line["sample"]
    return {
        "seconds": seconds,
        "training": training * read,
        "predicted": training * line["check_flops"] / (3 * line["flops"]),
        "of an epoch": seconds / (training * EPOCH),
        "memory": line["check_peak_bytes"] / max(line["step_peak_bytes"], 1),
    }


def table(found: Sequence[Mapping]) -> str:
    """One row a measurement."""
    rows = [
        "| what | parameters | axes | sample | check, s (range) | training on as many, s | ratio | predicted ratio "
        "| of an epoch of 50,000 | GFLOP counted | memory, MB | of a training step's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in found:
        if "failed" in line:
            rows.append(f"| {line['what']} {line['value']} | failed: {line['failed']} |" + " |" * 10)
            continue
        one, span = derived(line), (min(line["check_seconds"]), max(line["check_seconds"]))
        cells = [f"{line['what']} {line['value']}", f"{line['params']:,}", line["axes"], line["sample"]]
        cells += [f"{one['seconds']:.3g} ({span[0]:.3g} to {span[1]:.3g})", f"{one['training']:.3g}"]
        cells += [f"{one['seconds'] / one['training']:.1f}", f"{one['predicted'] / one['training']:.1f}"]
        cells += [f"{100 * one['of an epoch']:.1f} %", f"{line['check_flops'] / 1e9:.3g}"]
        cells += [f"{line['check_peak_bytes'] / 1e6:.0f}", f"{one['memory']:.2f}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def bars(found: Sequence[Mapping]) -> list[str]:
    """What has to hold, and in which parts of outgrow the time of the two larger networks passes."""
    said = []
    for line in found:
        if "failed" in line or not line["what"].startswith(("resnet", "large")):
            continue
        one, peak = derived(line), line["check_peak_bytes"] / 2**30
        said.append(
            f"{line['what']}, {line['sample']} examples a part: {one['of an epoch']:.3f} of an epoch (bar 0.25), "
            f"{one['memory']:.2f} times a training step's memory (bar 2), grows by {peak:.2f} GiB (bar 6)\n"
            + "\n".join(f"    {seconds:8.3f} s  {name}" for name, seconds in line["parts"].items())
        )
    return said


def shares(runs: Sequence[Mapping]) -> str:
    """What checks took of whole runs; the bar is 2 %."""
    rows = ["| run | commit | checks, s | whole, s | share |", "| --- | --- | ---: | ---: | ---: |"]
    for run in runs:
        spent, whole = run["total"]["check_seconds"], run["total"]["seconds"]
        cells = f"{run['case']} seed {run['seed']}", run["commit"], f"{spent:.1f}", f"{whole:.1f}"
        rows.append(f"| {' | '.join(cells)} | {100 * spent / whole:.1f} % |")
    return "\n".join(rows)


def draw(found: Sequence[Mapping]) -> str:
    """Draw seconds of a check, measured and predicted, and of training on the examples that it reads, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.7), layout="constrained")
        for axes, (what, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            series = sorted((line for line in found if line["what"] == what), key=lambda line: line["value"])
            at, seen = [line["value"] for line in series], [derived(line) for line in series]
            axes.loglog(at, [one["seconds"] for one in seen], "o-", color="#2563eb", ms=4, label="a check")
            axes.loglog(at, [one["predicted"] for one in seen], "--", color="#2563eb", label="as its FLOPs predict")
            axes.loglog(at, [one["training"] for one in seen], "s-", color="#c2570c", ms=4, label="training on them")
            axes.set_xscale("log", base=2)
            axes.set_xticks(at, [f"{value:,}" for value in at], rotation=45)
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel("seconds")
        figure.axes[0].legend(fontsize=8)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    main()
