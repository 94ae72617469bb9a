"""The front: what each saved size reaches against its parameters, and what the same sizes reach by themselves."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from outgrow.show import quantity
from outgrow.show.chart import Chart, Key, Picture, message, plot
from outgrow.show.record import Record, pareto
from outgrow.show.run import Run
from outgrow.show.saved import factory_of, load_code, told
from outgrow.show.scale import Scale
from outgrow.show.svg import BLUE, GREEN, MUTED, ORANGE, element, line, mark, reach, symbol

ALONE = {"trained alone": ("diamond", ORANGE), "uniform widths": ("square", GREEN)}
"""Symbol and colour of networks that did not grow."""


def draw_front(run: Run) -> Picture:
    """Draw the sizes of a run, and beside them those that were trained by themselves where there are any.

    Args:
        run: The run.

    Returns:
        The picture, for a screen and for a phone.
    """
    if not run.sizes:
        return message("the sizes of the run", "no size saved yet")
    return Picture(_draw(run, 1040, 400), _draw(run, 366, 320), list(_keys(run)))


def shown_part(sizes: Sequence[Record]) -> str:
    """Name the part whose measure is drawn: test where there is one, else validation."""
    return "test" if any(size.get("test") for size in sizes) else "validation"


def _keys(run: Run) -> Iterator[Key]:
    part, front = shown_part(run.sizes), pareto(run.sizes, run.metric)
    yield Key("circle", BLUE, f"{part}, no smaller size matches it on validation")
    if len(front) < len(run.sizes):
        yield Key("circle", BLUE, f"{part}, another size", hollow=True)
    if part == "test":
        yield Key("circle", MUTED, "validation", hollow=True)
    for name, found in _others(run).items():
        if found:
            shape, colour = ALONE[name]
            yield Key(shape, colour, f"{name}, {quantity.count(found[0]['epochs'], 'epoch')}")


def _others(run: Run) -> dict[str, Sequence[Record]]:
    return {"trained alone": run.trained_alone, "uniform widths": run.trained_uniform}


def _draw(run: Run, width: float, height: float) -> Markup:
    chart = _empty(run, width, height)
    if chart is None:
        return message("the sizes of the run", f"no size has a known {quantity.metric_title(run.metric)}").drawing
    part, front = shown_part(run.sizes), pareto(run.sizes, run.metric)
    known = [size for size in front if _measure(size, part, run.metric) is not None]
    chart.trace([size["params"] for size in known], [_height(size, part, run.metric) for size in known], BLUE)
    for name, found in _others(run).items():
        chart.add(*(_alone(name, record, run.metric, at) for record in found if (at := _at(run, record, part, chart))))
    for size in run.sizes:
        places = {name: at for name in ("validation", part) if (at := _at(run, size, name, chart))}
        if places:
            chart.add(_size(run, size, places, part, size in front))
    return chart.svg()


def _empty(run: Run, width: float, height: float) -> Chart | None:
    """Make the chart with its scales; None where no value is known."""
    metric, part, title = run.metric, shown_part(run.sizes), quantity.metric_title(run.metric)
    everything = [*run.sizes, *(record for found in _others(run).values() for record in found)]
    heights = [_height(record, name, metric) for record in everything for name in ("test", "validation")]
    known = [value for value in heights if math.isfinite(value)]
    if not known:
        return None
    label = f"{part} {title} of {quantity.count(len(run.sizes), 'size')} against their parameters"
    params = partial(Scale.around, [record["params"] for record in everything], log=True)
    chart = plot(label, width, height, 60, params, partial(Scale.around, known))
    chart.name_x("parameters", quantity.tick)
    chart.name_y(f"{part} {title}{' [%]' if metric == 'accuracy' else ''}", quantity.tick)
    return chart


def _at(run: Run, record: Record, part: str, chart: Chart) -> tuple[float, float] | None:
    """Return where a measure stands [pixels], None where it isn't known."""
    height = _height(record, part, run.metric)
    return (chart.x.at(record["params"]), chart.y.at(height)) if math.isfinite(height) else None


def _height(record: Record, part: str, metric: str) -> float:
    """Return a measure as it is drawn: an accuracy in per cent; NaN where it isn't known."""
    value = _measure(record, part, metric)
    return math.nan if value is None else (100.0 if metric == "accuracy" else 1.0) * value


def _measure(record: Record, part: str, metric: str) -> float | None:
    value = (record.get(part) or {}).get(metric)
    return value if quantity.known(value) else None


def _size(run: Run, size: Record, places: dict[str, tuple[float, float]], part: str, best: bool) -> Markup:
    """Draw one size: its validation measure small, the one that counts large, and what joins them."""
    shapes: list[str] = []
    if len(places) > 1:
        x, y = places["validation"]
        shapes.append(element("path", d=line(list(places.values())), stroke=MUTED, stroke_width=1))
        shapes.append(symbol("circle", x, y, MUTED, radius=3, hollow=True))
    if part in places:
        shapes.append(symbol("circle", *places[part], BLUE, radius=5.5, hollow=not best))
    shapes.append(reach(*places[part if part in places else "validation"]))
    lines = [quantity.clean(size["name"]), *told(size, run.metric), load_code(run.folder, size, factory_of(run))]
    measures: dict[str, Any] = {f"data_{name}": _measure(size, name, run.metric) for name in ("validation", "test")}
    return mark(lines, *shapes, data_size=size["name"], data_params=size["params"], **measures)


def _alone(name: str, record: Record, metric: str, at: tuple[float, float]) -> Markup:
    shape, colour = ALONE[name]
    widths = "-".join(map(str, record.get("widths") or ()))
    what = f"{name} {widths}, beside {record['size']}" if widths else f"{record['size']} {name}"
    lines = [f"{quantity.clean(what)}, {quantity.count(record['epochs'], 'epoch')}"]
    measures: dict[str, Any] = {f"data_{part}": _measure(record, part, metric) for part in ("validation", "test")}
    shapes = (symbol(shape, *at, colour, radius=5), reach(*at))
    return mark(
        [*lines, *told(record, metric)], *shapes, data_alone=record["size"], data_params=record["params"], **measures
    )
