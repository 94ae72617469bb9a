"""Gains: what growths promised, what came of it, and what was refused."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from outgrow.show import quantity
from outgrow.show.changes import written
from outgrow.show.chart import Chart, Key, Picture, message, plot
from outgrow.show.record import Record, promised
from outgrow.show.scale import Scale
from outgrow.show.svg import BLUE, GREEN, MUTED, element, line, mark, reach, symbol

CLOSE = (0.75, 1.33)  # realised / gain that counts as kept
ENDS = (0.25, 4.0)  # realised / gain that is drawn; what is beyond stands at the edge
LEAST = 1e-3  # of the largest gain, the least that is drawn, likewise
LOOKS = {"widen": ("circle", GREEN, "units"), "insert": ("square", BLUE, "a block")}
"""Symbol, colour and word of a growth whose promise is drawn; the cost of a removal is none."""


@dataclass(frozen=True)
class Promise:
    """What growths promised and what came of it, and what removals cost.

    Args:
        growths: How many growths were judged.
        promised: What they promised in all [nats].
        realised: What came in all [nats].
        ratios: Realised over promised of those whose promise is above its own standard error, in rising order.
        removals: How many removals there were.
        cost: What they cost in all [nats].
        freed: How many parameters they gave back.
    """

    growths: int
    promised: float
    realised: float
    ratios: Sequence[float]
    removals: int
    cost: float
    freed: int

    @property
    def median(self) -> float:
        """The middle ratio; there must be one."""
        return statistics.median(self.ratios)

    @property
    def close(self) -> int:
        """How many ratios are within CLOSE."""
        return sum(CLOSE[0] <= ratio <= CLOSE[1] for ratio in self.ratios)


def promise(events: Sequence[Record]) -> Promise:
    """Sum what the growths promised and what came of it, and what removals cost.

    Args:
        events: Records of events.

    Returns:
        The sums.
    """
    growths = [growth for event in events for growth in event["growths"]]
    kept = [growth for growth in growths if promised(growth)]
    removals = [growth for growth in growths if growth["kind"] == "remove"]
    return Promise(
        growths=len(kept),
        promised=quantity.total(growth["gain"] for growth in kept),
        realised=quantity.total(growth["realised"] for growth in kept),
        ratios=sorted(growth["realised"] / growth["gain"] for growth in kept if growth["gain"] > _error(growth)),
        removals=len(removals),
        cost=-quantity.total(growth.get("gain") for growth in removals),
        freed=-sum(growth["params"] for growth in removals),
    )


def refused(event: Record) -> list[Record]:
    """List the candidates of an event that were not taken.

    Args:
        event: A record of an event.

    Returns:
        The candidates, those of the largest gain first.
    """
    taken = {(growth["kind"], growth["where"]) for growth in event["growths"]}
    left = [one for one in event.get("candidates") or () if (one["kind"], one["where"]) not in taken]
    return sorted(left, key=lambda one: -one["gain"] if quantity.known(one.get("gain")) else float("inf"))


def draw_gains(events: Sequence[Record]) -> Picture:
    """Draw what part of its promise each growth kept, against the promise, with its standard error.

    Args:
        events: Records of events.

    Returns:
        The picture.
    """
    growths = [(event, growth) for event in events for growth in event["growths"]]
    judged = [(event, growth) for event, growth in growths if promised(growth) and growth["gain"] > 0]
    if not judged:
        return message("promised and kept gains", "no growth was judged" if growths else "nothing grew yet")
    gains = [growth["gain"] for _, growth in judged]
    least = max(min(gains), LEAST * max(gains))
    chart = plot(
        f"realised over promised gain of {quantity.count(len(judged), 'growth')} against the promise",
        420,
        300,
        40,
        partial(Scale.around, [least, max(gains)], log=True),
        partial(Scale, *ENDS, log=True),
    )
    _ground(chart)
    for event, growth in judged:
        chart.add(_point(event, growth, chart))
    kinds = sorted({growth["kind"] for _, growth in judged} & LOOKS.keys(), reverse=True)
    keys = [Key(*LOOKS[kind]) for kind in kinds] if len(kinds) > 1 else []
    return Picture(chart.svg(), keys=[*keys, Key("box", "var(--close)", "within 0.75 and 1.33")])


def _ground(chart: Chart) -> None:
    """Draw the scales, and where a promise counts as kept."""
    top, bottom = chart.y.at(CLOSE[1]), chart.y.at(CLOSE[0])
    chart.add(
        element(
            "rect",
            x=chart.x.start,
            y=top,
            width=chart.x.end - chart.x.start,
            height=bottom - top,
            fill="var(--close,#d9efe7)",
        )
    )
    chart.name_x("promised gain", _gain)
    for tick in (0.25, 0.5, 1.0, 2.0, 4.0):
        y = chart.y.at(tick)
        colour = MUTED if tick == 1 else "var(--grid,#dfe4e9)"
        chart.add(
            element("path", d=line([(chart.x.start, y), (chart.x.end, y)]), stroke=colour),
            element("text", f"{tick:g}", x=chart.x.start - 8, y=y + 4.5, text_anchor="end", fill=MUTED, data_tick=tick),
        )
    chart.add(element("text", "realised ÷ promised, ± standard error", x=0, y=chart.y.end - 12, fill=MUTED))


def _point(event: Record, growth: Record, chart: Chart) -> str:
    """Draw one growth: its ratio, and where that would be if the promise were off by its standard error."""
    gain, error, realised = growth["gain"], _error(growth), growth["realised"]
    ratio = realised / gain
    low = realised / (gain + error)
    high = realised / (gain - error) if gain > error else ENDS[1]
    x, y = max(chart.x.at(gain), chart.x.start), chart.y.at(_bounded(ratio))
    shape, colour, _ = LOOKS.get(growth["kind"], ("circle", MUTED, ""))
    ends = [(x, chart.y.at(_bounded(low))), (x, chart.y.at(_bounded(high)))]
    bar = element("path", d=line(ends), stroke=colour, stroke_width=1.5, stroke_opacity=0.4)
    lines = [f"event {event['event']}", *growth_lines(growth), f"kept {ratio:.2f} of it"]
    return mark(lines, bar, symbol(shape, x, y, colour), reach(x, y, 9), data_gain=gain, data_realised=realised)


def growth_lines(growth: Record) -> Iterator[str]:
    """Tell one growth: the change, its promise, and what came.

    Args:
        growth: A growth of an event.

    Yields:
        One text a value.
    """
    yield written(growth)
    if quantity.known(growth.get("gain")):
        yield f"promised {quantity.gain(growth['gain'], growth.get('se'), '±')}"
        yield f"realised {quantity.loss(growth.get('realised'))}"


def _error(growth: Record) -> float:
    error: Any = growth.get("se")
    return float(error) if quantity.known(error) else 0.0


def _bounded(ratio: float) -> float:
    return min(max(ratio, ENDS[0]), ENDS[1])


def _gain(value: float) -> str:
    return f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
