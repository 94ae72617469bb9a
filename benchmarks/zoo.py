"""Write docs/zoo.md: what grows in each network of the zoo, what does not and why, and how long it takes.

    python benchmarks/zoo.py              # the table, and the times: one line each in results/zoo.jsonl
    python benchmarks/zoo.py --no-times   # the table alone, with the times of the last run

The networks are those of the tests (tests/zoo.py, tests/net_cases.py, tests/zoo_hf.py). Each time is measured in a
process of its own.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import transformers
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))  # before this folder: the tests' zoo is a module of the same name

from grow import commit, hardware  # noqa: E402

import outgrow  # noqa: E402
from net_cases import CASES, Case  # noqa: E402
from outgrow.net.inputs import call  # noqa: E402
from outgrow.net.widen import apply_  # noqa: E402
from outgrow.net.widening import Widening  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo_fixed import GAPS, kind  # noqa: E402
from zoo_hf import HF  # noqa: E402
from zoo_properties import opened  # noqa: E402

DOCUMENT, RESULTS = ROOT / "docs" / "zoo.md", HERE / "results" / "zoo.jsonl"
KINDS = ("growable", "pinned", "cut", "frozen")

ABOUT = """# The zoo

What `outgrow.axes` and `outgrow.places` find in every network of the tests; written by `python benchmarks/zoo.py`.
For each growable axis and each place the tests show that widening by 1 and by 3, or inserting a block, keeps the
outputs (to 1e-10 of their scale in float64, 1e-5 in float32, in train and in eval mode), that removing what was added
gives back the same tensors, and that every new entry learns. The same holds for random networks
(`tests/test_random_nets.py`).

- **growable**: the axis can change.
- **pinned**: it is an input, an output, a vocabulary, or meets a value of fixed size.
- **cut**: a size that stands in the code is in the way.
- **frozen**: an operation needs the number of channels as it is, or has no rule.
"""


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-times", action="store_true", help="keep the times of the last run")
    parser.add_argument("--threads", type=int, default=2, help="of torch; 1 where other jobs run beside it")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure:
        print(json.dumps(MEASURES[options.measure]()))
        return
    if not options.no_times:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("".join(json.dumps(measured(name, options.threads)) + "\n" for name in MEASURES))
    times = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    parts = [ABOUT]
    for title, cases in (("Small networks", {**ZOO, **CASES}), ("Hugging Face transformers", HF)):
        parts += [f"## {title}\n", table(cases), ""]
    parts += ["## Gaps\n", gaps(), "", "## Times\n", times_table(times), ""]
    DOCUMENT.write_text("\n".join(parts))


# what is found


def table(cases: dict[str, Case]) -> str:
    """One row a network."""
    rows = [
        "| network | axes | growable | pinned | cut | frozen | places | why what is cut or frozen can't change |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, case in cases.items():
        model, example = opened(case)
        found = outgrow.axes(model, example)
        spots = [place for place in outgrow.places(model, example) if place.growable]
        kinds = Counter(kind(axis) for axis in found)
        why = Counter(short(axis.reason) for axis in found if kind(axis) in ("cut", "frozen"))
        reasons = "; ".join(reason + (f" ({n})" if n > 1 else "") for reason, n in why.items())
        numbers = [len(found), *(kinds[k] for k in KINDS), len(spots)]
        rows.append(f"| {name} | " + " | ".join(str(n or "") for n in numbers) + f" | {reasons} |")
    return "\n".join(rows)


def short(reason: str) -> str:
    """A reason without places in the code and figures of one network."""
    reason = re.sub(r" \([^()]*\.py:\d+\)", "", reason.partition(";")[0])
    return reason.partition(", and would")[0].replace("|", r"\|")


def gaps() -> str:
    """Axes that a person would call growable, and are not."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for (network, axis), why in GAPS.items():
        grouped.setdefault((network, why), []).append(f"`{axis}`")
    rows = [f"- {network}, {', '.join(names)}: {why}" for (network, why), names in grouped.items()]
    return "\n".join(["What a person would call growable and outgrow does not grow yet:", "", *rows])


# how long it takes


def resnet50() -> nn.Module:
    """23.5 million parameters."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig())


def resnet18() -> nn.Module:
    """11.2 million parameters."""
    config = transformers.ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512])
    return transformers.ResNetForImageClassification(config)


def vit_base() -> nn.Module:
    """86 million parameters."""
    return transformers.ViTForImageClassification(transformers.ViTConfig())


def trace(build: Callable[[], nn.Module], n: int = 5) -> dict:
    """Find the axes: the first time in a process, then n times."""
    model, example = build().eval(), torch.randn(1, 3, 224, 224)
    call(model, example)
    forward, forward_peak = timed(lambda: call(model, example))
    first, peak = timed(lambda: outgrow.axes(model, example))
    seconds = [timed(lambda: outgrow.axes(model, example))[0] for _ in range(n)]
    return {**size(model), **spread(seconds), "first": first, "forward": forward, **memory(peak, forward_peak)}


def edit(side: int, found: bool, optimized: bool = False, n: int = 5) -> dict:
    """Widen one layer of a ResNet-18 by 8, with the axes at hand or found anew."""
    model, example = resnet18().eval(), torch.randn(1, 3, side, side)
    optimizer = torch.optim.AdamW(model.parameters()) if optimized else None
    if optimizer is not None:
        call(model, example).logits.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        forward, forward_peak = timed(lambda: call(model, example))
    axes = outgrow.axes(model, example)
    axis = next(a for a in axes if a.growable and a.name.endswith("stages.2.layers.1.layer.0.convolution"))

    def act() -> outgrow.Edit:
        if found:
            return apply_(model, axes, [Widening(axis, 8)], inputs=example, optimizer=optimizer)
        return outgrow.widen_(model, axis.name, 8, example=example, optimizer=optimizer)

    seconds, peaks = [], []
    for _ in range(n + 1):
        made: list[outgrow.Edit] = []
        second, peak = timed(lambda made=made: made.append(act()))
        changed = sum(c.new.numel() * c.new.element_size() for c in made[0].changes)
        made[0].undo()
        seconds.append(second)
        peaks.append(peak)
    return {
        **size(model), **spread(seconds[1:]), "first": seconds[0], "forward": forward,
        **memory(max(peaks), forward_peak), "edited_bytes": changed,
    }  # fmt: skip


MEASURES: dict[str, Callable[[], dict]] = {
    "find the axes of ResNet-50, 224 pixels": lambda: trace(resnet50),
    "find the axes of ViT-base, 224 pixels": lambda: trace(vit_base),
    "widen a layer of ResNet-18, axes known, 32 pixels": lambda: edit(32, True),
    "widen a layer of ResNet-18, axes known, 224 pixels": lambda: edit(224, True),
    "widen a layer of ResNet-18 and AdamW, axes known, 32 pixels": lambda: edit(32, True, optimized=True),
    "widen a layer of ResNet-18, axes found anew, 32 pixels": lambda: edit(32, False),
}


def measured(name: str, threads: int) -> dict:
    """One measurement, in a process of its own."""
    command = [sys.executable, str(HERE / "zoo.py"), "--measure", name]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return {
        "what": name,
        "command": "python benchmarks/zoo.py",
        **json.loads(out.splitlines()[-1]),
        "commit": commit(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "hardware": hardware(),
        "threads": threads,
    }


def timed(act: Callable[[], object]) -> tuple[float, int]:
    """Seconds that it takes, and by how many bytes the memory of the process grows at most meanwhile."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that is free but not given back would hide growth
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    return seconds, max(0, resident("VmHWM") - before)


def resident(field: str) -> int:
    """Bytes of memory of this process, as Linux counts them."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def size(model: nn.Module) -> dict:
    """Parameters of a model, and their bytes."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "model_bytes": sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())),
    }


def spread(seconds: Iterable[float]) -> dict:
    """Median and range."""
    seconds = [round(s, 4) for s in seconds]
    return {"n": len(seconds), "median": statistics.median(seconds), "seconds": seconds}


def memory(peak: int, forward: int) -> dict:
    """Peak growth of the process, and that of one forward pass, which an edit's comparison needs as well."""
    return {"peak_bytes": peak, "forward_peak_bytes": forward}


def times_table(times: list[dict]) -> str:
    """One row a measurement."""
    rows = [
        "| what | parameters | n | median | range | first in a process | one forward pass | model "
        "| memory grows by at most | in a forward pass |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in times:
        low, high = min(one["seconds"]), max(one["seconds"])
        memories = [f"{one[key] / 1e6:,.0f} MB" for key in ("model_bytes", "peak_bytes", "forward_peak_bytes")]
        cells = [one["what"], f"{one['parameters']:,}", str(one["n"]), readable(one["median"])]
        cells += [f"{readable(low)} to {readable(high)}", readable(one["first"]), readable(one["forward"]), *memories]
        rows.append("| " + " | ".join(cells) + " |")
    if times:
        versions = ", ".join(f"{name} {version}" for name, version in times[0]["versions"].items())
        machine = f"{times[0]['hardware']}, no GPU, {times[0]['threads']} threads"
        rows += ["", f"Machine: {machine}; {versions}; commit {times[0]['commit']}."]
    return "\n".join(rows)


def readable(value: float) -> str:
    """Seconds, with their unit."""
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


if __name__ == "__main__":
    main()
