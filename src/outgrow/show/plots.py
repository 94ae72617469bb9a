"""The four pictures of a run: its sizes, its widths, its losses, its gains; each an SVG element for a page."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from outgrow.show import quantity
from outgrow.show.bands import draw_bands
from outgrow.show.figure import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, RED, hover, picture, plain
from outgrow.show.lines import change
from outgrow.show.record import Record, higher_is_better, of_kind, pareto, promised
from outgrow.show.trajectory import trajectory

KINDS = {"widen": (GREEN, "o"), "insert": (BLUE, "s")}
"""Colour and marker of a growth whose promise is drawn; the cost of a removal is none."""

MARKS = {"growth": (GREEN, "^"), "removal": (RED, "v")}
"""Colour and marker of an event among the losses."""

TICKS = ((4.0, (1.0,)), (2.0, (1.0, 3.0)), (1.2, (1.0, 2.0, 5.0)), (0.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
"""The digits at a logarithmic axis' ticks, by how many decades it has at least."""


def front(sizes: Sequence[Record], metric: str) -> str:
    """Draw what each size reaches against its parameters, with the front of the sizes that nothing smaller matches.

    Args:
        sizes: Records of saved sizes.
        metric: The measure: accuracy or RMSE.

    Returns:
        The picture as SVG.
    """

    def draw(axes: Axes) -> None:
        if not sizes:
            return plain(axes, "no size saved yet")
        scale = 100.0 if metric == "accuracy" else 1.0
        for part, colour, marker in (("test", ORANGE, "s"), ("validation", BLUE, "o")):
            shown = [size for size in sizes if quantity.known((size.get(part) or {}).get(metric))]
            best = [size for size in pareto(sizes, metric) if size in shown]
            axes.plot(_of(best, "params"), [scale * size[part][metric] for size in best], color=colour, label=part)
            for size in shown:
                value = size[part][metric]
                text = f"{quantity.clean(size['name'])}: {quantity.count(size['params'], 'parameter')}, "
                text += f"{part} {metric} {quantity.metric(metric, value, 2)}"
                style: dict[str, Any] = {
                    "color": colour,
                    "markerfacecolor": colour if size in best else PAPER,
                    "markersize": 6,
                }
                axes.plot([size["params"]], [scale * value], marker, gid=hover(text), **style)
        _parameters(axes, [size["params"] for size in sizes])
        axes.set_ylabel("accuracy [%]" if metric == "accuracy" else quantity.metric_title(metric))
        axes.margins(y=0.12)
        axes.legend(loc="lower right" if higher_is_better(metric) else "upper right")
        return None

    return picture("front", f"{metric} of {len(sizes)} sizes against their parameters", draw)


def widths(records: Sequence[Record]) -> str:
    """Draw the network as it grew: a band for every axis, as thick as the axis is wide, over the epochs.

    Args:
        records: The journal.

    Returns:
        The picture as SVG.
    """
    times, axes_sizes = trajectory(records)

    def draw(axes: Axes) -> None:
        if not axes_sizes:
            return plain(axes, "no axis can grow")
        draw_bands(axes, times, axes_sizes)
        return None

    height = 270 + 7 * min(len(axes_sizes), 24)
    return picture("widths", f"the widths of {len(axes_sizes)} axes over the epochs", draw, 860, height)


def losses(records: Sequence[Record]) -> str:
    """Draw the losses over the epochs, with a mark where the network grew.

    Args:
        records: The journal.

    Returns:
        The picture as SVG.
    """
    epochs, changed = of_kind(records, "epoch"), [event for event in of_kind(records, "event") if event["growths"]]
    kinds = [_change_of(event) for event in changed]

    def draw(axes: Axes) -> None:
        train = [_number(epoch["train_loss"]) for epoch in epochs]
        validation = [_number(epoch["validation"].get("loss")) for epoch in epochs]
        finite = [value for value in train + validation if math.isfinite(value)]
        if not finite:
            return plain(axes, "no epoch done yet")
        for event, kind in zip(changed, kinds, strict=True):
            colour, marker = MARKS[kind]
            text = f"event {event['event']}: " + "; ".join(
                quantity.clean(change(growth)) for growth in event["growths"]
            )
            axes.axvline(event["epoch"], color=colour, linewidth=1, alpha=0.35)
            mark: dict[str, Any] = {
                "color": colour,
                "markersize": 7,
                "clip_on": False,
                "transform": axes.get_xaxis_transform(),
            }
            axes.plot([event["epoch"]], [0.0], marker, gid=hover(text), **mark)
        point = "o" if len(epochs) == 1 else ""
        axes.plot(_of(epochs, "epoch"), train, color=MUTED, marker=point, linewidth=1.5, label="train")
        axes.plot(_of(epochs, "epoch"), validation, color=BLUE, marker=point, label="validation")
        for kind in sorted(set(kinds)):
            axes.plot([], [], MARKS[kind][1], color=MARKS[kind][0], label=kind)
        if min(finite) > 0 and max(finite) > 10 * min(finite):
            _log(axes, "y", finite)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.set(xlabel="epoch", ylabel="loss")
        axes.legend(loc="upper right")
        return None

    marked = ", ".join(quantity.count(kinds.count(kind), kind) for kind in MARKS if kind in kinds)
    label = f"train and validation loss over {quantity.count(len(epochs), 'epoch')}"
    return picture("losses", f"{label}, {marked} marked" if marked else label, draw)


def gains(events: Sequence[Record]) -> str:
    """Draw the gain that each growth promised, with its standard error, against the drop of the loss that came.

    Args:
        events: Records of events.

    Returns:
        The picture as SVG.
    """
    growths = [(event, growth) for event in events for growth in event["growths"]]
    pairs = [(event, growth) for event, growth in growths if promised(growth)]

    def draw(axes: Axes) -> None:
        if not pairs:
            return plain(axes, "no growth was judged" if growths else "nothing grew yet")
        values = [value for _, growth in pairs for value in (growth["gain"], growth["realised"])]
        low, high = _ends(values)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as promised")
        for event, growth in pairs:
            colour, marker = KINDS.get(growth["kind"], (INK, "o"))
            error = growth["se"] if quantity.known(growth.get("se")) else 0.0
            text = f"event {event['event']}: {change(growth)}, "
            text += f"promised {quantity.gain(growth['gain'], growth.get('se'), '±')}, "
            text += f"realised {quantity.loss(growth['realised'])}"
            bar = [max(low, growth["gain"] - error), growth["gain"] + error]
            axes.plot(bar, [growth["realised"]] * 2, color=colour, linewidth=1.5, alpha=0.45)
            style: dict[str, Any] = {"color": colour, "markersize": 6.5, "markeredgecolor": PAPER}
            axes.plot([growth["gain"]], [growth["realised"]], marker, gid=hover(quantity.clean(text)), **style)
        if low > 0:
            _log(axes, "x", [low, high])
            _log(axes, "y", [low, high])
        axes.set(
            xlim=(low, high),
            ylim=(low, high),
            xlabel="promised gain ± standard error",
            ylabel="realised drop of the loss",
        )
        axes.legend(loc="upper left")
        return None

    return picture("gains", f"promised gain against realised drop of {len(pairs)} growths", draw)


def _change_of(event: Record) -> str:
    return "removal" if all(growth["kind"] == "remove" for growth in event["growths"]) else "growth"


def _parameters(axes: Axes, params: list[int]) -> None:
    """Make the horizontal axis one of parameters: logarithmic, with round numbers at its ticks."""
    _log(axes, "x", [*params, max(params) * 1.3, min(params) / 1.3])
    axes.set_xlim(min(params) / 1.3, max(params) * 1.3)
    axes.set_xlabel("parameters")


def _log(axes: Axes, which: str, values: list[float] | list[int]) -> None:
    """Make one axis logarithmic with few, short labels."""
    decades = math.log10(max(values) / min(values))
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    steps = next(steps for least, steps in TICKS if decades >= least)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: quantity.short(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _ends(values: list[float]) -> tuple[float, float]:
    """Find common ends for both axes; the lower one is positive if the values call for a logarithmic scale."""
    low, high = min(values), max(values)
    if low > 0 and high > 20 * low:
        return low / 1.5, high * 1.5
    pad = 0.1 * (high - low or abs(high) or 1.0)
    return min(0.0, low - pad), max(0.0, high + pad)


def _of(records: Sequence[Record], key: str) -> list[float]:
    return [_number(record[key]) for record in records]


def _number(value: float | None) -> float:
    return value if quantity.known(value) else math.nan
