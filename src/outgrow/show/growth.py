"""The network as it grew: its axes as bands over the epochs, the events, and the sizes that were saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from outgrow.show import quantity
from outgrow.show.bands import band, from_to, hue, stacked
from outgrow.show.changes import event_mark
from outgrow.show.chart import LETTER, Key, Picture, drawing, message, tell
from outgrow.show.record import Record
from outgrow.show.run import Run
from outgrow.show.saved import told
from outgrow.show.scale import Scale
from outgrow.show.svg import GRID, INK, MUTED, PAPER, element, line, mark
from outgrow.show.trajectory import merged, trajectory

NAMES = 24  # letters of a band's name
LABEL = 58  # pixels that the name of a saved size takes


@dataclass(frozen=True)
class Frame:
    """Where the parts of the picture are [pixels].

    Args:
        width: Of the whole picture.
        height: Of the whole picture.
        right: Where the bands end; what is beyond holds their names.
        top: Where the bands begin.
        bottom: Where they end.
        floor: Where the scale of the epochs is; the sizes stand between.
    """

    width: float
    height: float
    right: float
    top: float
    bottom: float
    floor: float


def draw_growth(run: Run) -> Picture:
    """Draw the network as it grew: a band for every axis, as thick as the axis is wide, over the epochs.

    Args:
        run: The run.

    Returns:
        The picture, for a screen and for a phone.
    """
    times, widths = merged(*trajectory(run.records))
    if not widths:
        return message("the widths of the axes over the epochs", "no axis can grow")
    tall = 260.0 + 8 * min(len(widths), 30)
    named = list(zip(short_names(list(widths)), map(from_to, widths.values()), strict=True))
    letters = max(len(quantity.shorten(name, NAMES)) + 1 + len(sizes) for name, sizes in named)
    wide = Frame(1040, tall + 106, 1040 - 34 - LETTER * letters, 8, tall, tall + 66)
    narrow = Frame(366, 336, 362, 8, 230, 296)
    keys = [Key("box", hue(place, len(named)), f"{name} {sizes}") for place, (name, sizes) in enumerate(named)]
    return Picture(_draw(run, times, widths, wide), _draw(run, times, widths, narrow), keys[::-1])


def short_names(names: Sequence[str]) -> list[str]:
    """Leave out what all names begin with, up to a dot, and what can't be printed.

    Args:
        names: The names.

    Returns:
        The short names.

    >>> short_names(["net.blocks.0.conv", "net.blocks.1.conv"]), short_names(["net.fc1"])
    (['blocks.0.conv', 'blocks.1.conv'], ['net.fc1'])
    """
    heads = {name.partition(".")[0] for name in names}
    shared = len(heads) == 1 < len(names) and all("." in name for name in names)
    return [quantity.clean(name.partition(".")[2] if shared else name) for name in names]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart until they are a gap from each other, as little as needed, between two ends.

    Args:
        places: Where the labels would stand, in rising order; there must be room for all.
        gap: The least distance.
        low: The lower end.
        high: The upper end.

    Returns:
        Where they stand.

    >>> spread([0.0, 0.1, 5.0], 1.0, 0.0, 10.0)
    [0.0, 1.0, 5.0]
    >>> spread([9.8, 9.9], 1.0, 0.0, 10.0)
    [9.0, 10.0]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    ceiling = high
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def _draw(run: Run, times: Sequence[float], widths: Mapping[str, Sequence[int]], frame: Frame) -> Markup:
    end = max(times[-1], run.epochs[-1]["epoch"] if run.epochs else 0.0, 1.0)
    x = Scale(0.0, 1.01 * end, 4.0, frame.right)
    edges = stacked(list(widths.values()), frame.top, frame.bottom)
    names, xs = short_names(list(widths)), [x.at(time) for time in times]
    bands = [
        band(names[place], sizes, xs, (edges[place], edges[place + 1]), frame.right, hue(place, len(names)))
        for place, sizes in enumerate(widths.values())
    ]
    events = [event_mark(event, x.at(event["epoch"]), frame.floor) for event in run.events if event["growths"]]
    parts = [*_epochs(x, frame), *bands, *events, *_sizes(run, x, edges, xs, frame)]
    if frame.right < frame.width - 34:
        parts += _names(names, list(widths.values()), edges, frame)
    label = f"the widths of {len(widths)} ax{'i' if len(widths) == 1 else 'e'}s over the epochs"
    return drawing(label, frame.width, frame.height, *parts, class_="bands")


def _epochs(x: Scale, frame: Frame) -> list[Markup]:
    """Draw the scale of the epochs."""
    parts = [element("path", d=line([(x.start, frame.floor), (x.end, frame.floor)]), stroke=MUTED)]
    for tick in x.ticks(8 if frame.width > 600 else 5, whole=True):
        at = x.at(tick)
        parts.append(element("path", d=line([(at, frame.top), (at, frame.floor)]), stroke=GRID))
        parts.append(tell(f"{tick:g}", at, frame.floor + 19, text_anchor="middle" if tick else "start", data_tick=tick))
    return [*parts, tell("epoch", x.end, frame.floor + 36, text_anchor="end")]


def _sizes(run: Run, x: Scale, edges: Sequence[Sequence[float]], xs: Sequence[float], frame: Frame) -> list[Markup]:
    """Name the saved sizes below the bands, at the moments when they were saved; of too many, some."""
    saved_at = run.saved_at
    sizes = sorted((size for size in run.sizes if size["name"] in saved_at), key=lambda size: saved_at[size["name"]])
    room = int((x.end - x.start) / LABEL)
    if len(sizes) > room:
        sizes = [sizes[round(index * (len(sizes) - 1) / (room - 1))] for index in range(room)]
    moments = [min(x.at(saved_at[size["name"]]), x.end) for size in sizes]
    places = spread(moments, LABEL, x.start + LABEL / 2, x.end - LABEL / 2)
    shown = zip(sizes, moments, places, strict=True)
    return [_size(run, size, moment, place, edges, xs, frame) for size, moment, place in shown]


def _size(
    run: Run,
    size: Record,
    moment: float,
    place: float,
    edges: Sequence[Sequence[float]],
    xs: Sequence[float],
    frame: Frame,
) -> Markup:
    """Name a saved size at its place, and lead to the moment when it was saved."""
    before = max(0, sum(at < moment - 1e-6 for at in xs) - 1)
    high, low = edges[-1][before], edges[0][before]
    dots = {"stroke": PAPER, "stroke_opacity": 0.7, "stroke_dasharray": "2 3"}
    way = element("path", d=line([(moment, high), (moment, low)]), **dots)
    leader = line([(moment, low), (moment, frame.bottom + 10), (place, frame.bottom + 22)])
    value = quantity.metric(run.metric, size["test" if size.get("test") else "validation"].get(run.metric))
    texts = [
        tell(quantity.short(size["params"]), place, frame.bottom + 36, text_anchor="middle", fill=INK),
        tell(value, place, frame.bottom + 52, text_anchor="middle"),
    ]
    lines = [quantity.clean(size["name"]), *told(size, run.metric)]
    shape = element("path", d=leader, fill="none", stroke=MUTED)
    return mark(lines, way, shape, *texts, data_size=size["name"], data_params=size["params"])


def _names(
    names: Sequence[str], sizes: Sequence[Sequence[int]], edges: Sequence[Sequence[float]], frame: Frame
) -> list[Markup]:
    """Name the bands at their right ends, the last on top; of too many, the widest."""
    room = max(1, int((frame.bottom - frame.top) / 16.5) - 1)
    most = len(names) if len(names) <= room else room - 1
    shown = sorted(range(len(names)), key=lambda place: -sizes[place][-1])[:most]
    shown.sort(reverse=True)
    centres = [(edges[place][-1] + edges[place + 1][-1]) / 2 for place in shown]
    parts = []
    for place, centre, y in zip(shown, centres, spread(centres, 16.5, frame.top + 8, frame.bottom - 8), strict=True):
        path = line([(frame.right + 3, centre), (frame.right + 18, y)])
        parts.append(element("path", d=path, stroke=hue(place, len(names)), stroke_width=1.5))
        name = quantity.shorten(names[place], NAMES)
        units = element("tspan", f" {from_to(sizes[place])}", fill=MUTED)
        parts.append(element("text", name, units, x=frame.right + 24, y=y + 4.5, fill=INK))
    if most < len(names):
        parts.append(tell(f"and {len(names) - most} narrower", frame.right + 24, frame.bottom + 14))
    return parts
