"""A record of the journal: its kind, its keys, and the few things that every view asks of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from outgrow.errors import InputError
from outgrow.pareto import pareto as front
from outgrow.show import quantity
from outgrow.show.shape import misshapen

KEYS = {
    "start": ("data", "task", "metric", "model", "params", "axes", "epochs", "steps"),
    "epoch": ("epoch", "step", "train_loss", "validation", "params", "axes", "seconds"),
    "event": ("event", "epoch", "growths", "reason"),
    "size": ("name", "params", "flops", "axes", "validation"),
    "resume": ("epoch", "step", "seconds"),
    "overfitted": ("epoch", "best_epoch"),
    "end": ("reason", "seconds"),
    "branch": ("of", "params", "steps", "start", "number", "count"),
    "trained": ("size", "params", "epochs", "validation"),
    "growth": ("kind", "where", "size_after", "params"),
    "candidate": ("kind", "where"),
    "total": (),
}
"""The keys without which a record of each kind can't be shown."""

RESIZES = {"widen", "remove"}
"""The kinds of growths after which an axis has another size."""

GOOD_END = "finished"
"""What an end record says of a run that came to its end."""

Record = Mapping[str, Any]


def kind(record: Record) -> str:
    """Name the kind of a record: start, epoch, event, size, end, or whatever a later version writes.

    Args:
        record: One object of the journal.

    Returns:
        `"event"` for a growth event, else what stands under `"record"`; empty if it is neither.

    >>> kind({"event": 3, "growths": []}), kind({"record": "epoch", "epoch": 3})
    ('event', 'epoch')
    """
    return str(record["record"]) if "record" in record else "event" if "event" in record else ""


def of_kind(records: Iterable[Record], wanted: str) -> list[Record]:
    """List the records of one kind, in their order."""
    return [record for record in records if kind(record) == wanted]


def missing(record: Record) -> list[str]:
    """List the keys that a record of this kind, or a growth or a candidate in it, needs and does not have."""
    lacking = [key for key in KEYS.get(kind(record), ()) if key not in record]
    for part in ("growth", "candidate") if kind(record) == "event" else ():
        inner = record.get(f"{part}s") or ()
        lacking += [f"{part}s.{key}" for one in inner for key in KEYS[part] if key not in one]
    return lacking


def require(record: Record, where: str) -> Record:
    """Return the record, or say which keys it lacks, or which value is not what its key says.

    Args:
        record: One object of the journal or of family.json.
        where: The file and line it came from, for the message.

    Returns:
        The same record.

    Raises:
        InputError: If a key is missing that its kind needs, or a value is of another shape than its key says.
    """
    if wrong := next(misshapen(record) if kind(record) in KEYS else iter(()), ""):
        raise InputError(f"{where}: {wrong}")
    if lacking := missing(record):
        raise InputError(
            f"{where}: the {kind(record)} record lacks {', '.join(lacking)}; was this journal written by outgrow?"
        )
    return record


def promised(growth: Record) -> bool:
    """Say whether a growth made a promise and what came of it is known; the cost of a removal is no promise."""
    return growth["kind"] != "remove" and all(quantity.known(growth.get(key)) for key in ("gain", "realised"))


def metric_name(start: Record, measures: Record) -> str:
    """Name the metric of a run: what its start says, else the first measure that is not the loss."""
    return str(start.get("metric") or next((name for name in measures if name != "loss"), "loss"))


def higher_is_better(metric: str) -> bool:
    """Say whether more of this metric is better: accuracy and R2, but not RMSE or a loss."""
    return metric in {"accuracy", "r2"}


def pareto(sizes: Sequence[Record], metric: str) -> list[Record]:
    """Keep the sizes that no smaller size matches on validation, smallest first.

    Args:
        sizes: Records of saved sizes.
        metric: The measure to compare.

    Returns:
        The front, by parameters.

    >>> sizes = [{"params": p, "validation": {"accuracy": a}} for p, a in ((10, 0.5), (30, 0.7), (20, 0.4))]
    >>> [size["params"] for size in pareto(sizes, "accuracy")]
    [10, 30]
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    return front(sizes, lambda size: size["params"], lambda size: sign * _number(size["validation"].get(metric)))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
