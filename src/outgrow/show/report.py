"""The report of a run: one HTML file with everything in it, made from the run folder alone."""

import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from outgrow.errors import InputError
from outgrow.show import plots, quantity
from outgrow.show.lines import change, in_unit, realised, unit
from outgrow.show.record import Record, pareto, promised
from outgrow.show.run import Run, read_run
from outgrow.show.settings import settings


def write_report(run: Path) -> Path:
    """Write report.html into a run folder, complete or not at all.

    Args:
        run: The run folder; the run may be done, still going on, or broken off.

    Returns:
        The path of the report.

    Raises:
        InputError: If it is no run folder, a file in it is damaged, or the report can't be written.
    """
    page = render(read_run(Path(run)))
    target, aside = Path(run) / "report.html", Path(run) / "report.html.part"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(
            f"{target}: can't be written ({error.strerror}); is there space, and may you write there?"
        ) from error
    return target


def render(run: Run) -> str:
    """Make the page of a run; the same run gives the same page.

    Args:
        run: What the run folder says.

    Returns:
        HTML that asks for nothing outside itself.
    """
    environment = Environment(
        loader=PackageLoader("outgrow", "show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": quantity.count,
        "short": quantity.short,
        "duration": quantity.duration,
        "loss": quantity.loss,
        "share": quantity.share,
        "clean": quantity.clean,
        "widths": quantity.widths,
    }
    return environment.get_template("report.html.jinja").render(
        run=run,
        start=run.start,
        unit=unit(run.start).strip(),
        metric_title=quantity.metric_title(run.metric),
        headline=headline(run),
        figures=figures(run),
        promise=promise(run.events),
        events=event_rows(run.events, run.start),
        family=family_rows(run),
        energies=any(size.get("joules") for size in run.sizes),
        settings=settings(run),
        data=data_block(run),
    )


def headline(run: Run) -> list[tuple[str, str, str]]:
    """Choose the key figures: what each is, its value, and a word about it.

    Args:
        run: The run.

    Returns:
        Name, value and remark of each figure.
    """
    sizes, start, total = run.sizes, run.start, run.total
    figures: list[tuple[str, str, str]] = []
    if sizes:
        largest = sizes[-1]
        part = "test" if largest.get("test") else "validation"
        value = quantity.metric(run.metric, largest[part].get(run.metric), 2)
        figures.append((f"{part} {quantity.metric_title(run.metric)}", value, "of the largest size"))
    now = sizes[-1]["params"] if sizes else run.epochs[-1]["params"] if run.epochs else start["params"]
    figures.append(("parameters", quantity.count(now), f"grown from {quantity.count(start['params'])}"))
    front = len(pareto(sizes, run.metric))
    figures.append(("sizes saved", quantity.count(len(sizes)), f"{front} that no smaller one matches"))
    seconds, checks = total.get("seconds"), total.get("check_seconds")
    figures.append(("time", quantity.duration(seconds), f"for {quantity.count(len(run.epochs), 'epoch')}"))
    if quantity.known(checks) and quantity.known(seconds) and seconds > 0:
        figures.append(("spent on checks", quantity.share(checks / seconds), "of the time"))
    return figures


def figures(run: Run) -> dict[str, Markup]:
    """Draw the pictures, each under its name; matplotlib has escaped the names in them."""
    return {
        "widths": Markup(plots.widths(run.records)),
        "front": Markup(plots.front(run.sizes, run.metric)),
        "losses": Markup(plots.losses(run.records)),
        "gains": Markup(plots.gains(run.events)),
    }


def promise(events: list[Record]) -> dict[str, float]:
    """Sum what the growths promised and what came of it, and what removals cost.

    Args:
        events: Records of events.

    Returns:
        The number of growths of which both are known, the promised and the realised sum; the number of removals, the
        sum of what they cost, and how many parameters they gave back.
    """
    growths = [growth for event in events for growth in event["growths"]]
    kept = [growth for growth in growths if promised(growth)]
    removals = [growth for growth in growths if growth["kind"] == "remove"]
    return {
        "growths": len(kept),
        "promised": quantity.total(growth["gain"] for growth in kept),
        "realised": quantity.total(growth["realised"] for growth in kept),
        "removals": len(removals),
        "cost": -quantity.total(growth.get("gain") for growth in removals),
        "freed": -sum(growth["params"] for growth in removals),
    }


def event_rows(events: list[Record], start: Record) -> list[dict[str, Any]]:
    """Lay the events out as rows of a table: one for each growth, one for an event without any.

    Args:
        events: Records of events.
        start: The run's start record, for its unit.

    Returns:
        Cells by name; `change` is empty where nothing changed, then `reason` says why.
    """
    rows: list[dict[str, Any]] = []
    for event in events:
        reason = quantity.clean(in_unit(event["reason"], start))
        shared = {"event": event["event"], "epoch": f"{event['epoch']:.1f}", "reason": reason}
        rows += [
            shared
            | {
                "change": quantity.clean(change(growth)).replace("->", "→"),
                "gain": gain(growth),
                "realised": realised(growth).removeprefix("realised "),
                "moved": f"{growth['moved']:.0e}" if quantity.known(growth.get("moved")) else quantity.UNKNOWN,
                "params": f"{growth['params']:+,}",
            }
            for growth in event["growths"]
        ] or [shared | {"change": ""}]
    return rows


def gain(growth: Record) -> str:
    """Write the gain of a growth with its standard error; of a removal that costs something it is below zero."""
    known = quantity.known(growth.get("gain"))
    return quantity.gain(growth["gain"], growth.get("se"), "±") if known else "not judged"


def family_rows(run: Run) -> list[dict[str, Any]]:
    """Lay the sizes out as rows of a table, with the code that loads each.

    Args:
        run: The run.

    Returns:
        Cells by name, smallest size first.
    """
    front = [size["name"] for size in pareto(run.sizes, run.metric)]
    folder = json.dumps(run.folder, ensure_ascii=False)
    return [
        {
            "name": quantity.clean(size["name"]),
            "best": size["name"] in front,
            "params": quantity.count(size["params"]),
            "flops": quantity.short(size["flops"]),
            "axes": ", ".join(f"{quantity.clean(name)} {width}" for name, width in size["axes"].items()),
            "widths": quantity.widths(size["axes"], 8),
            "validation": quantity.metric(run.metric, size["validation"].get(run.metric), 2),
            "test": quantity.metric(run.metric, (size.get("test") or {}).get(run.metric), 2),
            "train_flops": quantity.short(size.get("train_flops")),
            "time": quantity.duration(size.get("seconds")),
            "energy": quantity.energy(size.get("joules")),
            "code": f"outgrow.load({folder}, max_params={size['params']})",
        }
        for size in run.sizes
    ]


def data_block(run: Run) -> Markup:
    """Write the numbers behind the page as JSON that can stand in a script element.

    Args:
        run: The run.

    Returns:
        An object with journal, family and config; what is not a number (NaN, infinity) is null.
    """
    content = {"journal": run.records, "family": run.family, "config": run.config}
    text = json.dumps(_finite(content), allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """Replace every number that JSON does not know by None."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
