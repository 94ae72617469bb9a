"""The journal in plain lines: what a pipe, a log file or a continuous integration shows."""

from collections.abc import Callable, Iterator

from outgrow.show import quantity
from outgrow.show.limits import limits, other_policy
from outgrow.show.record import RESIZES, Record, kind, metric_name

SHOWN = 8  # columns that are left out
VERBS = {"widen": "grew", "insert": "inserted a block behind", "remove": "shrank"}


def lines(record: Record, start: Record, left: float | None = None) -> Iterator[str]:
    """Write one record in plain words, without control codes.

    Args:
        record: Any record of the journal; a kind that is not known gives no line.
        start: The run's start record, for its metric and its length; may be empty.
        left: Seconds that the run still needs, if that is known.

    Yields:
        The lines: one for an epoch, a size, the start and the end, one for each growth of an event.
    """
    writer = WRITERS.get(kind(record))
    if writer is not None:
        for line in writer(record, start, left):
            yield quantity.clean(line)


def change(growth: Record) -> str:
    """Write where a growth was and from which size to which.

    Args:
        growth: One growth of an event.

    Returns:
        The place and the sizes.

    >>> change({"kind": "widen", "where": "block1.conv1", "size_before": 8, "size_after": 12})
    'grew block1.conv1 8 -> 12'
    >>> change({"kind": "insert", "where": "block1", "size_before": 0, "size_after": 1})
    'inserted a block behind block1'
    """
    verb = VERBS.get(growth["kind"], str(growth["kind"]))
    return f"{verb} {growth['where']}{sizes(growth, ' {} -> {}')}"


def sizes(growth: Record, pattern: str) -> str:
    """Write from which size to which an axis went; nothing for a block, or where they aren't known.

    Args:
        growth: One growth of an event.
        pattern: How to write both.

    Returns:
        The sizes.
    """
    before, after = growth.get("size_before"), growth.get("size_after")
    return pattern.format(before, after) if growth["kind"] in RESIZES and None not in {before, after} else ""


def worth(growth: Record, unit: str = "", sign: str = "+-") -> str:
    """Write what a growth promised, or what a removal costs; nothing where that wasn't asked for.

    Args:
        growth: One growth of an event.
        unit: Unit of the loss, with a space before it.
        sign: What stands between the number and its standard error.

    Returns:
        The gain or the cost.

    >>> worth({"kind": "widen", "gain": 0.021, "se": 0.003}, " nats"), worth({"kind": "widen", "gain": None})
    ('gain 0.0210 +- 0.0030 nats', '')
    >>> worth({"kind": "remove", "gain": -3e-4, "se": 2e-4}, " nats")
    'costs 0.00030 +- 0.00020 nats'
    """
    gain, error = growth.get("gain"), growth.get("se")
    if not quantity.known(gain):
        return ""
    verb = "gain" if growth["kind"] != "remove" else "saves" if gain > 0 else "costs"
    return f"{verb} {quantity.gain(abs(gain) if growth['kind'] == 'remove' else gain, error, sign)}{unit}"


def realised(growth: Record) -> str:
    """Write what came of a promise; nothing where none was made, or for a removal, whose cost is what came already."""
    judged = quantity.known(growth.get("gain")) and growth["kind"] != "remove"
    return f"realised {quantity.loss(growth.get('realised'))}" if judged else ""


def unit(start: Record) -> str:
    """Name the unit of this run's losses and gains: nats, or nothing for a regression's standardised squared error."""
    return "" if start.get("task") == "regression" else " nats"


def in_unit(reason: str, start: Record) -> str:
    """Write the reason of an event in the unit of its run; the journal has all of them in nats.

    Args:
        reason: What the journal says.
        start: The run's start record.

    Returns:
        The reason.

    >>> in_unit("8 parameters would save 2.0e-03 nats", {"task": "regression"})
    '8 parameters would save 2.0e-03'
    """
    return reason.replace(" nats", unit(start))


def _start(record: Record, start: Record, left: float | None) -> Iterator[str]:
    examples = [
        f"{record[part + '_examples']:,} {part}"
        for part in ("train", "validation", "test")
        if record.get(part + "_examples")
    ]
    yield f"{record['data']}: {record['task']}" + (f", examples: {', '.join(examples)}" if examples else "")
    if left_out := record.get("left_out"):
        named = [f"{name!r} ({reason})" for name, reason in left_out.items()]
        more = f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        yield f"left out: {'; '.join(named[:SHOWN])}{more}"
    decides = other_policy(record)
    bounds = f"; at most {', '.join(found)}" if (found := limits(record)) else ""
    flops = f", {quantity.short(record['flops'], 'FLOPs')} an example" if "flops" in record else ""
    yield (
        f"{record['model']}: {quantity.count(record['params'], 'parameter')}{flops}, "
        f"widths {quantity.widths(record['axes'])}{bounds}{f'; policy {decides}' if decides else ''}"
    )


def _epoch(record: Record, start: Record, left: float | None) -> Iterator[str]:
    epochs, validation = start.get("epochs", record["epoch"]), record["validation"]
    metric = metric_name(start, validation)
    time = ", ".join(filter(None, (quantity.duration(record["seconds"]), quantity.left(left))))
    yield (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {quantity.loss(validation.get('loss'), 3)}  "
        f"{metric} {quantity.metric(metric, validation.get(metric))}  {quantity.count(record['params'], 'parameter')}  "
        f"widths {quantity.widths(record['axes'])}  {time}"
    )


def _event(record: Record, start: Record, left: float | None) -> Iterator[str]:
    if not record["growths"]:
        yield f"event {record['event']}: nothing changed: {in_unit(record['reason'], start)}"
    for growth in record["growths"]:
        told = [worth(growth, unit(start)), realised(growth), f"{growth['params']:+,} parameters"]
        yield f"event {record['event']}: {change(growth)}: {', '.join(filter(None, told))}"


def _size(record: Record, start: Record, left: float | None) -> Iterator[str]:
    metric = metric_name(start, record["validation"])
    file = f", in {record['file']}" if record.get("file") else ""
    yield (
        f"size {record['name']}: {quantity.count(record['params'], 'parameter')}, validation {metric} "
        f"{quantity.metric(metric, record['validation'].get(metric))}{file}"
    )


def _resume(record: Record, start: Record, left: float | None) -> Iterator[str]:
    yield f"resumed at epoch {record['epoch']:.4g}, step {record['step']:,}"


def _overfitted(record: Record, start: Record, left: float | None) -> Iterator[str]:
    yield f"overfitted: validation has become worse since epoch {record['best_epoch']}, whose averaged weights are kept"


def _branch(record: Record, start: Record, left: float | None) -> Iterator[str]:
    time = f", {text}" if (text := quantity.left(left)) else ""
    params, steps = quantity.count(record["params"], "parameter"), quantity.count(record["steps"], "step")
    cut = f", cut out of {record['start']}" if record["start"] != record["of"] else ""
    yield f"finishing {record['of']} ({record['number']} of {record['count']}){cut}: {params}, {steps}{time}"


def _end(record: Record, start: Record, left: float | None) -> Iterator[str]:
    checks = record.get("check_seconds")
    spent = (
        f", {quantity.share(checks / record['seconds'])} of it in checks"
        if checks is not None and record["seconds"]
        else ""
    )
    yield f"end: {record['reason']}; {quantity.duration(record['seconds'])}{spent}"


WRITERS: dict[str, Callable[[Record, Record, float | None], Iterator[str]]] = {
    "start": _start,
    "epoch": _epoch,
    "event": _event,
    "size": _size,
    "resume": _resume,
    "overfitted": _overfitted,
    "branch": _branch,
    "end": _end,
}
