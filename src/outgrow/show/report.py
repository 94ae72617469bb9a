"""The report of a run: one HTML file with everything in it, made from the run folder alone."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from outgrow.errors import InputError
from outgrow.show import curves, quantity, saved, spending
from outgrow.show.chart import Picture
from outgrow.show.front import draw_front, shown_part
from outgrow.show.gains import draw_gains, promise
from outgrow.show.growth import draw_growth
from outgrow.show.headline import headline
from outgrow.show.history import history
from outgrow.show.lines import unit
from outgrow.show.run import Run, read_run
from outgrow.show.settings import command, settings


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
        aside.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files may be no text
        aside.replace(target)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
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
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            start=run.start,
            command=command(run),
            unit=unit(run.start).strip(),
            metric_title=quantity.metric_title(run.metric),
            shown_part=shown_part(run.sizes),
            head=headline(run),
            pictures=pictures(run),
            promise=promise(run.events),
            bars=spending.spent(run.total),
            sweep=spending.beside_sweep(run.comparison),
            length=spending.chosen_length(run.lengths, max((one["epochs"] for one in run.trained_alone), default=0)),
            events=history(run),
            family=saved.rows(run),
            hows=" or ".join(
                dict.fromkeys(quantity.clean(size["joules"]["how"]) for size in run.sizes if size.get("joules"))
            ),
            settings=settings(run),
            data=data_block(run),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("outgrow", "show"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    written = (quantity.count, quantity.loss, quantity.share, quantity.clean)
    environment.filters |= {write.__name__: write for write in written}
    return environment


def pictures(run: Run) -> dict[str, Picture]:
    """Draw the pictures, each under its name."""
    return {
        "front": draw_front(run),
        "growth": draw_growth(run),
        "losses": curves.draw_losses(run),
        "metric": curves.draw_metric(run),
        "gains": draw_gains(run.events),
    }


def data_block(run: Run) -> Markup:
    """Write the numbers behind the page as JSON that can stand in a script element.

    Args:
        run: The run.

    Returns:
        An object with journal, family, config and comparison; what is not a number (NaN, infinity) is null.
    """
    content = {"journal": run.records, "family": run.family, "config": run.config, "comparison": run.comparison}
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
