"""The table of callbacks.py: trainings in other people's loops, as they are, growing, and as large from the start."""

import statistics
from collections.abc import Mapping, Sequence

from cells import grouped, made_with, row, span, spread


def callbacks_table(lines: Sequence[Mapping]) -> str:
    """A row for each loop and way of training in it."""
    newest = {(line["loop"], line["row"], line["seed"]): line for line in lines}
    groups = grouped(list(newest.values()), lambda line: (line["loop"], line["row"]))
    heads = ["loop", "network", "n", "test %", "parameters", "seconds", "checks: number", "% of the time"]
    heads += ["callback beyond them, %", "with setting it up, %", "newborns' correction, %"]
    out = [row(heads), row(["---", "---", *["---:"] * 9])]
    for (loop, name), runs in groups.items():
        accuracy = spread([100 * run["accuracy"] for run in runs], 2)
        seconds = spread([run["seconds"] for run in runs], 1)
        told = [accuracy, span([run["params"] for run in runs]), seconds, *share_cells(runs)]
        out.append(row([loop, name, str(len(runs)), *told]))
    return "\n".join([*out, "", made_with(lines)])


def share_cells(runs: Sequence[Mapping]) -> list[str]:
    """What the callback took of the time that the rest took, medians."""
    if "checks" not in runs[0]:
        return ["-"] * 5
    rest = [
        run["seconds"] - sum(run[name] for name in ("check_seconds", "beyond", "setup", "newborns")) for run in runs
    ]
    checks = [100 * run["check_seconds"] / run["seconds"] for run in runs]
    beyond = [100 * run["beyond"] / other for run, other in zip(runs, rest, strict=True)]
    whole = [100 * (run["beyond"] + run["setup"]) / other for run, other in zip(runs, rest, strict=True)]
    newborns = [100 * run["newborns"] / other for run, other in zip(runs, rest, strict=True)]
    medians = [f"{statistics.median(values):.1f}" for values in (checks, beyond, whole, newborns)]
    return [span([run["checks"] for run in runs]), *medians]
