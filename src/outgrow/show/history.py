"""The history of a run: its events as a list that people read, each with its growths and what was refused."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from outgrow.show import quantity
from outgrow.show.changes import written
from outgrow.show.gains import refused
from outgrow.show.lines import in_unit, realised
from outgrow.show.record import Record
from outgrow.show.run import Run

DEEDS = {
    "widen": ("grew", "axis", "axes"),
    "insert": ("inserted", "block", "blocks"),
    "remove": ("shrank", "axis", "axes"),
}


def history(run: Run) -> list[dict[str, Any]]:
    """Lay the events out as entries of a list.

    Args:
        run: The run.

    Returns:
        What each event did, when and why, with the rows of its growths and of the candidates that it refused.
    """
    return [_entry(event, run.start) for event in run.events]


def deeds(growths: Sequence[Record]) -> str:
    """Sum up what an event did.

    Args:
        growths: Its growths.

    Returns:
        The change itself where there is one, else how many of each kind; nothing without any.

    >>> deeds([{"kind": "widen"}, {"kind": "widen"}, {"kind": "insert"}])
    'grew 2 axes, inserted 1 block'
    """
    if len(growths) == 1:
        return written(growths[0])
    kinds = Counter(growth["kind"] for growth in growths)
    words = ((*DEEDS.get(kind, (kind, "place", "places")), number) for kind, number in kinds.items())
    return ", ".join(f"{verb} {number} {one if number == 1 else many}" for verb, one, many, number in words)


def _entry(event: Record, start: Record) -> dict[str, Any]:
    after = event.get("params_after")
    return {
        "event": event["event"],
        "when": f"epoch {event['epoch']:.1f}" + (f", step {event['step']:,}" if "step" in event else ""),
        "deeds": deeds(event["growths"]),
        "params": f"{sum(growth['params'] for growth in event['growths']):+,}",
        "after": quantity.count(after, "parameter") if after is not None else "",
        "reason": quantity.clean(in_unit(event["reason"], start)),
        "took": quantity.duration(event["seconds"]) if quantity.known(event.get("seconds")) else "",
        "growths": [_growth(growth) for growth in event["growths"]],
        "refused": [_refused(candidate) for candidate in refused(event)],
    }


def _growth(growth: Record) -> dict[str, str]:
    return {
        "change": written(growth),
        "gain": _gain(growth),
        "realised": realised(growth).removeprefix("realised "),
        "moved": f"{growth['moved']:.0e}" if quantity.known(growth.get("moved")) else quantity.UNKNOWN,
        "params": f"{growth['params']:+,}",
    }


def _refused(candidate: Record) -> dict[str, str]:
    units = "a block" if candidate["kind"] == "insert" else quantity.count(candidate.get("units") or 0, "unit")
    verb = "take" if candidate["kind"] == "remove" else "add"
    where = quantity.clean(candidate["where"])
    params = f"{candidate['params']:+,}" if candidate.get("params") is not None else quantity.UNKNOWN
    return {"what": f"{verb} {units} at {where}", "gain": _gain(candidate), "params": params}


def _gain(growth: Record) -> str:
    """Write the gain of a growth with its standard error; of a removal that costs something it is below zero."""
    known = quantity.known(growth.get("gain"))
    return quantity.gain(growth["gain"], growth.get("se"), "±") if known else "not judged"
