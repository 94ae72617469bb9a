"""The settings of a run in words: how it was run, on what, within which limits, and what it took."""

import shlex
from typing import Any

from outgrow.show import quantity
from outgrow.show.limits import limits
from outgrow.show.record import Record, of_kind
from outgrow.show.run import Run

TOLD = {"command", "format", "options", "policy", "seed_network", "versions"}
"""What config.json holds for programs, or what the rows below say already."""

LONG = 8  # entries of a list of which only the number is told


def settings(run: Run) -> list[tuple[str, str]]:
    """List how it was run: the command, the data, the machine, the totals, and what else the configuration says.

    Args:
        run: The run.

    Returns:
        Name and value of each, as text.
    """
    start, total = run.start, run.total
    examples = [(part, start.get(f"{part}_examples")) for part in ("train", "validation", "test")]
    versions = start.get("versions") or {}
    rows = [
        ("command", command(run)),
        ("data", f"{start['data']}, {start['task']}"),
        ("examples", ", ".join(f"{number:,} {part}" for part, number in examples if number)),
        ("seed network", f"{start['model']}, {quantity.count(start['params'], 'parameter')}"),
        ("limits", ", ".join(limits(start)) or "none"),
        ("policy", policy(run)),
        ("length", f"{quantity.count(start['epochs'], 'epoch')}, {quantity.count(start['steps'], 'step')}"),
        ("overfitting", overfitting(run)),
        ("seed", start.get("seed")),
        ("device", device(start)),
        ("precision", start.get("precision")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("compute", quantity.short(total.get("train_flops"), "FLOPs")),
        ("compute of checks", quantity.short(total.get("check_flops"), "FLOPs")),
        ("time", quantity.duration(total.get("seconds"))),
        ("time of checks", quantity.duration(total.get("check_seconds"))),
        ("time of compiling", quantity.duration(total["compile_seconds"]) if "compile_seconds" in total else ""),
        ("energy", quantity.energy(total["joules"]) if total.get("joules") else ""),
    ]
    rows += [(name, written(value)) for name, value in run.config.items() if name not in TOLD and name not in start]
    return [(quantity.clean(name), quantity.clean(value)) for name, value in rows if value not in {None, ""}]


def device(start: Record) -> str:
    """Write where a run is computed, by how many processes and threads."""
    words = [str(start.get("device", "")), quantity.count(start.get("threads", 1), "thread")]
    if (processes := start.get("processes", 1)) > 1:
        words.insert(1, f"{processes} processes")
    return ", ".join(words)


def overfitting(run: Run) -> str:
    """Write when a run ended that overfitted, and what was kept of it; empty where it didn't."""
    seen = of_kind(run.records, "overfitted")
    return ", ".join(f"ended after epoch {one['epoch']}, with the weights of epoch {one['best_epoch']}" for one in seen)


def command(run: Run) -> str:
    """Write the command that made the run; empty where it isn't known."""
    words = run.config.get("command")
    return shlex.join(map(str, words)) if isinstance(words, list) else str(words or "")


def policy(run: Run) -> str:
    """Write what decided when and where to grow, with all of its options where they are known.

    Args:
        run: The run.

    Returns:
        For example "senn: tau 2.0, alpha 0.0025"; empty where the run does not say it.
    """
    told = run.config.get("policy")
    if isinstance(told, dict) and told.get("name"):
        return ": ".join(filter(None, (str(told["name"]), written(told.get("options")))))
    return str(run.start.get("policy") or "")


def written(value: Any) -> str:
    """Write a setting in words: an object as its names and values, a long list as its length.

    Args:
        value: Anything that JSON holds.

    Returns:
        The text, empty for None.

    >>> written({"epochs": 9, "rates": [0.1, 0.2]}), written(list(range(100)))
    ('epochs 9, rates 0.1 0.2', '100 entries')
    """
    match value:
        case None:
            return ""
        case dict():
            return ", ".join(f"{name} {text}" for name, inner in value.items() if (text := written(inner)))
        case list():
            nested = any(isinstance(inner, list | dict) for inner in value)
            entries = f"{len(value):,} entr{'y' if len(value) == 1 else 'ies'}"
            return entries if nested or len(value) > LONG else " ".join(map(written, value))
        case bool():
            return "yes" if value else "no"
    return str(value)
