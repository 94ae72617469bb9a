"""The report of a run: one HTML file with everything in it, made from the run folder alone."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from outgrow.errors import InputError
from outgrow.show import plots, quantity
from outgrow.show.lines import change, in_unit, unit
from outgrow.show.record import Record, pareto
from outgrow.show.run import Run, read_run

TOLD = {"command", "format", "options", "seed_network", "versions"}
"""What config.json holds for programs, or what the page says elsewhere."""

LONG = 8  # entries of a list of which only the number is told


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
    """Sum what the growths promised and what came of it.

    Args:
        events: Records of events.

    Returns:
        The number of growths of which both are known, the promised and the realised sum.
    """
    growths = [growth for event in events for growth in event["growths"]]
    known = [
        growth for growth in growths if quantity.known(growth.get("gain")) and quantity.known(growth.get("realised"))
    ]
    return {
        "growths": len(known),
        "promised": quantity.total(growth["gain"] for growth in known),
        "realised": quantity.total(growth["realised"] for growth in known),
    }


def event_rows(events: list[Record], start: Record) -> list[dict[str, Any]]:
    """Lay the events out as rows of a table: one for each growth, one for an event without any.

    Args:
        events: Records of events.
        start: The run's start record, for its unit.

    Returns:
        Cells by name; `change` is empty where nothing grew, then `reason` says why.
    """
    rows: list[dict[str, Any]] = []
    for event in events:
        reason = quantity.clean(in_unit(event["reason"], start))
        shared = {"event": event["event"], "epoch": f"{event['epoch']:.1f}", "reason": reason}
        rows += [
            shared
            | {
                "change": quantity.clean(change(growth)).replace("->", "→"),
                "gain": quantity.gain(growth.get("gain"), growth.get("se"), "±"),
                "realised": quantity.loss(growth.get("realised")),
                "moved": f"{growth['moved']:.0e}" if quantity.known(growth.get("moved")) else quantity.UNKNOWN,
                "params": f"{growth['params']:+,}",
            }
            for growth in event["growths"]
        ] or [shared | {"change": ""}]
    return rows


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
            "energy": energy(size.get("joules")),
            "code": f"outgrow.load({folder}, max_params={size['params']})",
        }
        for size in run.sizes
    ]


def energy(joules: dict[str, Any] | None) -> str:
    """Write an energy with how it is known.

    Args:
        joules: Value and way of knowing, or None.

    Returns:
        For example "1.2 kJ (modelled)".
    """
    return f"{quantity.short(joules['value'], 'J')} ({quantity.clean(joules['how'])})" if joules else quantity.UNKNOWN


def settings(run: Run) -> list[tuple[str, str]]:
    """List how it was run: the command, the data, the machine, the totals, and what else the configuration says.

    Args:
        run: The run.

    Returns:
        Name and value of each, as text.
    """
    start, total = run.start, run.total
    command = run.config.get("command")
    examples = [(part, start.get(f"{part}_examples")) for part in ("train", "validation", "test")]
    versions = start.get("versions") or {}
    rows = [
        ("command", shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")),
        ("data", f"{start['data']}, {start['task']}"),
        ("examples", ", ".join(f"{number:,} {part}" for part, number in examples if number)),
        ("seed network", f"{start['model']}, {quantity.count(start['params'], 'parameter')}"),
        ("limit", quantity.count(start["max_params"], "parameter") if start.get("max_params") else "none"),
        ("length", f"{quantity.count(start['epochs'], 'epoch')}, {quantity.count(start['steps'], 'step')}"),
        ("seed", start.get("seed")),
        ("device", f"{start.get('device', '')}, {quantity.count(start.get('threads', 1), 'thread')}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("compute", quantity.short(total.get("train_flops"), "FLOPs")),
        ("compute of checks", quantity.short(total.get("check_flops"), "FLOPs")),
        ("time", quantity.duration(total.get("seconds"))),
        ("time of checks", quantity.duration(total.get("check_seconds"))),
        ("energy", energy(total["joules"]) if total.get("joules") else ""),
    ]
    rows += [(name, written(value)) for name, value in run.config.items() if name not in TOLD and name not in start]
    return [(quantity.clean(name), quantity.clean(value)) for name, value in rows if value not in {None, ""}]


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
