"""The learning curves of a run: its losses and its metric over the epochs, with marks where the network changed."""

import math
from collections.abc import Iterator
from functools import partial

from markupsafe import Markup

from outgrow.show import quantity
from outgrow.show.changes import CHANGES, event_mark, kind_of
from outgrow.show.chart import Chart, Key, Picture, message, plot
from outgrow.show.record import Record
from outgrow.show.run import Run
from outgrow.show.scale import Scale
from outgrow.show.svg import BLUE, MUTED, element, line, mark, symbol

Curve = tuple[str, list[float]]
"""A colour, and a value for each epoch."""

MOST = 300  # epochs that tell their values one by one


def draw_losses(run: Run) -> Picture:
    """Draw the training and the validation loss over the epochs.

    Args:
        run: The run.

    Returns:
        The picture.
    """
    train = [_number(epoch["train_loss"]) for epoch in run.epochs]
    validation = [_number(epoch["validation"].get("loss")) for epoch in run.epochs]
    curves = {"training": (MUTED, train), "validation": (BLUE, validation)}
    return _draw(run, curves, "loss")


def draw_metric(run: Run) -> Picture:
    """Draw the validation metric over the epochs.

    Args:
        run: The run.

    Returns:
        The picture.
    """
    scale, title = (100.0, "accuracy [%]") if run.metric == "accuracy" else (1.0, quantity.metric_title(run.metric))
    values = [scale * _number(epoch["validation"].get(run.metric)) for epoch in run.epochs]
    return _draw(run, {"validation": (BLUE, values)}, title)


def _draw(run: Run, curves: dict[str, Curve], title: str) -> Picture:
    finite = [value for _, values in curves.values() for value in values if math.isfinite(value)]
    if not finite:
        return message(f"{title} over the epochs", "no epoch done yet")
    log = title == "loss" and min(finite) > 0 and max(finite) > 10 * min(finite)
    label = f"{' and '.join(curves)} {title} over {quantity.count(len(run.epochs), 'epoch')}"
    last = max(float(run.epochs[-1]["epoch"]), 1.0)
    epochs = partial(Scale, 0.0, 1.01 * last)
    chart = plot(label, 420, 300, 60, epochs, partial(Scale.around, finite, log=log))
    chart.name_x("epoch", lambda value: f"{value:g}", 7, whole=True)
    chart.name_y(title, quantity.tick)
    changed = [event for event in run.events if event["growths"]]
    chart.add(*(_upright(event, chart) for event in changed))
    for name, (colour, values) in curves.items():
        chart.trace([epoch["epoch"] for epoch in run.epochs], values, colour, class_="curve", data_curve=name)
    every = len(run.epochs) // MOST + 1
    chart.add(*(_epoch(run, index, chart, curves) for index in range(0, len(run.epochs), every)))
    chart.add(*(event_mark(event, chart.x.at(event["epoch"]), chart.y.start) for event in changed))
    return Picture(chart.svg(), keys=list(_keys(curves, changed)))


def _keys(curves: dict[str, Curve], changed: list[Record]) -> Iterator[Key]:
    for name, (colour, _) in curves.items():
        yield Key("line", colour, name)
    for kind, look in CHANGES.items():
        if number := sum(kind_of(event) == kind for event in changed):
            yield Key(*look, quantity.count(number, kind))


def _upright(event: Record, chart: Chart) -> Markup:
    """Draw the moment of an event over the whole height."""
    x, (_, colour) = chart.x.at(event["epoch"]), CHANGES[kind_of(event)]
    return element("path", d=line([(x, chart.y.start), (x, chart.y.end)]), stroke=colour, stroke_opacity=0.35)


def _epoch(run: Run, index: int, chart: Chart, curves: dict[str, Curve]) -> Markup:
    """Let an epoch tell its values, over the whole height; the keyboard does not stop there."""
    epoch = run.epochs[index]
    x, half = chart.x.at(epoch["epoch"]), (chart.x.at(1) - chart.x.at(0)) / 2
    place = {"x": x - half, "y": chart.y.end, "width": 2 * half, "height": chart.y.start - chart.y.end}
    column = element("rect", fill="transparent", **place)
    found = [(colour, values[index]) for colour, values in curves.values() if math.isfinite(values[index])]
    dots = [symbol("circle", x, chart.y.at(value), colour, radius=4) for colour, value in found]
    shown = element("g", *dots, class_="dots")
    return mark(list(_told(epoch, run.metric)), column, shown, stop=False, data_epoch=epoch["epoch"])


def _told(epoch: Record, metric: str) -> Iterator[str]:
    validation = epoch["validation"]
    yield f"epoch {epoch['epoch']}, step {epoch['step']:,}"
    yield f"training loss {quantity.loss(epoch['train_loss'], 3)}"
    yield f"validation loss {quantity.loss(validation.get('loss'), 3)}"
    yield f"validation {quantity.metric_title(metric)} {quantity.metric(metric, validation.get(metric), 2)}"
    yield quantity.count(epoch["params"], "parameter")


def _number(value: float | None) -> float:
    return value if quantity.known(value) else math.nan
