"""Bands: the axes of a network over time, one upon the other, each as thick as it is wide."""

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from outgrow.show.svg import PAPER, element, mark, number

HUES = ((15, 143, 134), (31, 134, 201), (91, 110, 225), (154, 91, 214), (209, 80, 155), (224, 112, 63), (208, 154, 31))
"""From the first axis to the last [red, green, blue]; each is readable on white and on black."""

TURN = 14.0  # pixels in which a band gets its new width, at most


def stacked(sizes: Sequence[Sequence[int]], top: float, bottom: float) -> list[list[float]]:
    """Stack axes around one middle line, so that the widest moment fills the height.

    Args:
        sizes: The sizes of each axis over time, [axes, times].
        top: Where the height begins [pixels].
        bottom: Where it ends [pixels].

    Returns:
        The edges between them over time [pixels], from the bottom up, [axes + 1, times].

    >>> stacked([[2, 4], [2, 4]], 0.0, 80.0)
    [[60.0, 80.0], [40.0, 40.0], [20.0, 0.0]]
    """
    totals = [sum(now) for now in zip(*sizes, strict=True)]
    unit, middle = (bottom - top) / max(*totals, 1), (top + bottom) / 2
    edges = [[middle + total / 2 * unit for total in totals]]
    for axis in sizes:
        edges.append([low - size * unit for low, size in zip(edges[-1], axis, strict=True)])
    return edges


def band(
    name: str,
    sizes: Sequence[int],
    xs: Sequence[float],
    edges: tuple[Sequence[float], Sequence[float]],
    right: float,
    colour: str,
) -> Markup:
    """Draw one axis from where it is born to where it ends, with smooth turns where its width or place changes.

    Args:
        name: The name of the axis.
        sizes: Its size from each time on; 0 where there is none.
        xs: Where these times are [pixels].
        edges: Its lower and its upper edge from each time on [pixels].
        right: Where time ends [pixels].
        colour: Its colour.

    Returns:
        A mark.
    """
    low, high = edges
    alive = [index for index, size in enumerate(sizes) if size]
    if not alive:
        return Markup("")
    first, last = max(0, alive[0] - 1), min(len(xs) - 1, alive[-1] + 1)
    turns = [(x, min(TURN, 0.8 * (after - x))) for x, after in pairwise([*xs, right])]
    begin = xs[first] if first == alive[0] else turns[first + 1][0]
    stop = right if sizes[last] else sum(turns[last])
    part = slice(first, last + 1)
    over = _edge(high[part], turns[part], begin, stop)
    under = _edge(low[part], turns[part], begin, stop, back=True)
    outline = f"M{number(begin)} {number(high[first])}{over}V{number(low[last])}{under}z"
    shape = element("path", d=outline, fill=colour, stroke=PAPER, stroke_width=0.8)
    return mark([name, f"{from_to(sizes)} units"], shape, kind="band", data_axis=name, data_units=sizes[-1])


def hue(place: int, of: int) -> str:
    """Return the colour of an axis.

    Args:
        place: Its place in the network, from 0.
        of: How many axes there are.

    Returns:
        The colour.

    >>> hue(0, 3), hue(1, 3), hue(0, 1)
    ('#0f8f86', '#9a5bd6', '#0f8f86')
    """
    far = place / max(1, of - 1) * (len(HUES) - 1)
    first, share = HUES[int(far)], far - int(far)
    second = HUES[min(int(far) + 1, len(HUES) - 1)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(first, second, strict=True))


def from_to(sizes: Sequence[int]) -> str:
    """Write how an axis grew: from its first size to its last, by way of the largest where it shrank again.

    Args:
        sizes: Its sizes over time; 0 where there is none.

    Returns:
        The way.

    >>> from_to([4, 8, 6]), from_to([0, 4, 4]), from_to([4, 6])
    ('4 → 8 → 6', '4', '4 → 6')
    """
    first, last, most = next((size for size in sizes if size), 0), sizes[-1], max(sizes)
    way = [first, *([most] if most > max(first, last) else []), last]
    return f"{first}" if len(set(way)) == 1 else " → ".join(map(str, way))


def _edge(
    ys: Sequence[float], turns: Sequence[tuple[float, float]], begin: float, stop: float, *, back: bool = False
) -> str:
    """Write one edge of a band: level, and a smooth turn wherever its height changes."""
    steps: list[str] = []
    for (before, after), (x, turn) in zip(pairwise(ys), turns[1:], strict=True):
        if abs(after - before) > 0.005:
            ends = [(x, before), (x + turn, after)]
            (x0, y0), (x1, y1) = ends[::-1] if back else ends
            half = number((x1 - x0) / 2)
            steps.append(f"H{number(x0)}c{half} 0 {half} {number(y1 - y0)} {number(x1 - x0)} {number(y1 - y0)}")
    return "".join(steps[::-1]) + f"H{number(begin)}" if back else "".join(steps) + f"H{number(stop)}"
