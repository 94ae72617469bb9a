"""A saved size in words: what it is, what it reaches, what it took, how to load it."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from outgrow.show import quantity
from outgrow.show.record import Record, pareto
from outgrow.show.run import Run


def told(size: Record, metric: str) -> Iterator[str]:
    """Tell a size, or a network of that size that was trained by itself.

    Args:
        size: Its record.
        metric: The measure that counts.

    Yields:
        One text a value.
    """
    yield quantity.count(size["params"], "parameter")
    if size.get("flops"):
        yield f"{quantity.short(size['flops'], 'FLOPs')} an example"
    for part in ("validation", "test"):
        if size.get(part):
            value = quantity.metric(metric, size[part].get(metric), 2)
            yield f"{part} {quantity.metric_title(metric)} {value}"
    if quality(size) != "average":
        yield weights(size)
    if quantity.known(size.get("train_flops")):
        yield f"{quantity.short(size['train_flops'], 'FLOPs')} of training"
    if quantity.known(size.get("seconds")):
        yield quantity.duration(size["seconds"])
    if size.get("joules"):
        yield quantity.energy(size["joules"])


def quality(size: Record) -> str:
    """Return how a size was made, as family.json says."""
    return str(size.get("quality", "average"))


def weights(size: Record) -> str:
    """Return where the weights of a size come from.

    >>> weights({"name": "a", "quality": "branch", "start": "b"}), weights({"name": "a", "quality": "branch"})
    ('cut out of b and trained', 'trained further')
    >>> weights({"name": "a", "quality": "average", "finished": True}), weights({"name": "a"})
    ('averaged, a branch was no better', 'averaged')
    """
    if quality(size) == "average":
        return "averaged, a branch was no better" if size.get("finished") else "averaged"
    cut = f"cut out of {quantity.clean(size['start'])}" if size.get("start", size["name"]) != size["name"] else ""
    if quality(size) == "cut":
        return cut or "cut out"
    return f"{cut} and trained" if cut else "trained further"


def load_code(folder: str, size: Record, factory: str = "") -> str:
    """Write the Python that loads a size.

    Args:
        folder: The run folder.
        size: Its record.
        factory: What makes the seed network, where that is one of the user's own.

    Returns:
        The expression.

    >>> load_code("runs/my digits", {"name": "1-1382"})
    'outgrow.Family("runs/my digits")["1-1382"].load()'
    """
    seed = f'"{factory}"' if factory else ""
    return f"outgrow.Family({_quoted(folder)})[{_quoted(size['name'])}].load({seed})"


def export_command(folder: str, size: Record, factory: str = "") -> str:
    """Write the command that exports a size.

    Args:
        folder: The run folder.
        size: Its record.
        factory: What makes the seed network, where that is one of the user's own.

    Returns:
        The command.

    >>> export_command("runs/my digits", {"name": "1-1382"})
    "outgrow export 'runs/my digits' --size 1-1382 --format onnx"
    """
    words = ["outgrow", "export", folder, "--size", str(size["name"]), "--format", "onnx"]
    return shlex.join([*words, *(["--model", factory] if factory else [])])


def factory_of(run: Run) -> str:
    """Name what makes the seed network of a run, where that is one of the user's own; else nothing."""
    model = str(run.start["model"])
    return model if ":" in model else ""


def _quoted(text: object) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def rows(run: Run) -> list[dict[str, Any]]:
    """Lay the sizes out as rows of a table, with what loads each.

    Args:
        run: The run.

    Returns:
        Cells by name, smallest size first.
    """
    front = [size["name"] for size in pareto(run.sizes, run.metric)]
    alone = {trained["size"]: trained for trained in run.trained_alone}
    return [_row(run, size, size["name"] in front, alone.get(size["name"])) for size in run.sizes]


def _row(run: Run, size: Record, best: bool, alone: Record | None) -> dict[str, Any]:
    def measure(of: Record | None, part: str) -> str:
        return quantity.metric(run.metric, ((of or {}).get(part) or {}).get(run.metric), 2)

    return {
        "name": quantity.clean(size["name"]),
        "best": best,
        "params": quantity.count(size["params"]),
        "flops": quantity.short(size["flops"]),
        "axes": ", ".join(f"{quantity.clean(name)} {width}" for name, width in size["axes"].items()),
        "widths": quantity.widths(size["axes"], 8),
        "validation": measure(size, "validation"),
        "test": measure(size, "test"),
        "alone": measure(alone, "test" if size.get("test") else "validation"),
        "train_flops": quantity.short(size.get("train_flops")),
        "time": quantity.duration(size.get("seconds")),
        "energy": quantity.short((size.get("joules") or {}).get("value"), "J"),
        "weights": weights(size),
        "code": load_code(run.folder, size, factory_of(run)),
        "export": export_command(run.folder, size, factory_of(run)),
    }
