"""Bands: the widths of a network over time, one upon the other, with their names at the end."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.ticker import MaxNLocator

from outgrow.show import quantity
from outgrow.show.figure import MUTED, PAPER, hover

BANDS = LinearSegmentedColormap.from_list(
    "bands", ["#0f8f86", "#1f86c9", "#5b6ee1", "#9a5bd6", "#d1509b", "#e0703f", "#d09a1f"]
)
"""From the first axis to the last; each is readable on white and on black."""


def draw_bands(axes: Axes, times: Sequence[float], widths: Mapping[str, Sequence[int]]) -> None:
    """Draw every axis of a network as a band as thick as it is wide, all of them around one middle line.

    Args:
        axes: Where to draw.
        times: Times at which something is known [epochs].
        widths: For every axis its size from each time on.
    """
    end = 1.015 * max(times[-1], 1.0)  # what grew in the last epoch is seen, too
    xs, names = [*times, end], list(widths)
    totals = [sum(sizes) for sizes in zip(*widths.values(), strict=True)]
    tall = max(*totals, 1)
    floor, centres = [-total / 2 for total in totals], []
    colours = [to_hex(BANDS(place / max(1, len(names) - 1))) for place in range(len(names))]
    for name, colour in zip(names, colours, strict=True):
        sizes = widths[name]
        top = [low + size for low, size in zip(floor, sizes, strict=True)]
        band = axes.fill_between(xs, [*floor, floor[-1]], [*top, top[-1]], step="post", color=colour, linewidth=0)
        band.set_gid(hover(f"{quantity.clean(name)}: {_from_to(sizes)}"))
        axes.plot(xs, [*top, top[-1]], drawstyle="steps-post", color=PAPER, linewidth=1.2 if len(names) < 20 else 0.5)
        centres.append((floor[-1] + top[-1]) / 2)
        floor = top
    axes.set(xlim=(0, end), ylim=(-0.54 * tall, 0.54 * tall), xlabel="epoch", yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    _label_bands(axes, widths, centres, colours)
    _scale_bar(axes, tall, end)


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


def _label_bands(axes: Axes, sizes: Mapping[str, Sequence[int]], centres: list[float], colours: list[str]) -> None:
    """Name the bands at their right ends; of too many, the widest."""
    low, high = axes.get_ylim()
    gap = (high - low) * 16.5 / (axes.figure.bbox.height - 45)
    names, room = list(sizes), max(1, int((high - low) / gap) - 1)
    most = len(names) if len(names) <= room else room - 1
    shown = sorted(sorted(range(len(names)), key=lambda place: -sizes[names[place]][-1])[:most])
    places = spread([centres[place] for place in shown], gap, low + gap / 2, high - gap / 2)
    right = axes.get_yaxis_transform()
    for place, y in zip(shown, places, strict=True):
        axes.plot(
            [1.002, 1.02], [centres[place], y], color=colours[place], linewidth=1.2, clip_on=False, transform=right
        )
        text = f"{quantity.shorten(quantity.clean(names[place]), 26)}\u2002{_from_to(sizes[names[place]])}"
        axes.text(1.027, y, text, va="center", transform=right)
    if most < len(names):
        axes.text(1.027, low, f"and {len(names) - most} narrower", va="center", color=MUTED, transform=right)


def _scale_bar(axes: Axes, tall: int, end: float) -> None:
    """Draw how thick a round number of units is."""
    units = max(1, 2 ** int(math.log2(max(2, tall / 4))))
    low, _ = axes.get_ylim()
    left = axes.get_yaxis_transform()
    axes.plot([-0.015, -0.015], [low, low + units], color=MUTED, linewidth=2, clip_on=False, transform=left)
    axes.text(
        -0.025,
        low + units / 2,
        quantity.count(units, "unit"),
        rotation=90,
        ha="right",
        va="center",
        color=MUTED,
        transform=left,
    )


def _from_to(sizes: Sequence[int]) -> str:
    """Write how an axis grew: from its first size to its last, by way of the largest where it shrank again."""
    first, last, most = next((size for size in sizes if size), 0), sizes[-1], max(sizes)
    way = [first, *([most] if most > max(first, last) else []), last]
    return f"{first}" if len(set(way)) == 1 else " → ".join(map(str, way))
