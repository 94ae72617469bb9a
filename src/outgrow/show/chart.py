"""A chart: a drawing with two scales, their ticks and names, and marks upon them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from outgrow.show import quantity
from outgrow.show.scale import Scale
from outgrow.show.svg import GRID, MUTED, element, line

TEXT = 13  # pixels of the letters
LETTER = 0.6 * TEXT  # about the width of one


@dataclass(frozen=True)
class Key:
    """What a symbol or a colour in a figure stands for.

    Args:
        shape: One of svg.SYMBOLS, or `line` or `box`.
        colour: Its colour.
        text: What it stands for.
        hollow: Whether only its border is drawn.
    """

    shape: str
    colour: str
    text: str
    hollow: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture for a page: one drawing, or one for a screen and one for a phone, with the meanings of its symbols.

    Args:
        drawing: The drawing, as SVG.
        narrow: The same for a narrow screen; None where one drawing serves both.
        keys: What the symbols stand for.
    """

    drawing: Markup
    narrow: Markup | None = None
    keys: Sequence[Key] = ()


@dataclass
class Chart:
    """Two scales at right angles and what is drawn between them.

    Args:
        label: What the chart shows, for those who can't see it.
        width: Width of the whole drawing [pixels].
        height: Height of the whole drawing [pixels].
        x: The horizontal scale.
        y: The vertical scale; its start is at the bottom.
    """

    label: str
    width: float
    height: float
    x: Scale
    y: Scale
    parts: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> None:
        """Draw something upon what is there."""
        self.parts += parts

    def name_x(self, title: str, write: Callable[[float], str], most: int = 8, *, whole: bool = False) -> None:
        """Draw the horizontal scale: ticks with their values, and what they are.

        Args:
            title: What the values are.
            write: Writes a value.
            most: How many ticks there is room for.
            whole: Whole numbers only.
        """
        bottom, end = self.y.start, -1e9
        for tick in self.x.ticks(most, whole=whole):
            x, text = self.x.at(tick), write(tick)
            self.add(element("path", d=line([(x, bottom), (x, self.y.end)]), stroke=GRID))
            half = LETTER * len(text) / 2
            if x - half > end + LETTER and x + half <= self.width:
                self.add(tell(text, x, bottom + 19, text_anchor="middle", data_tick=tick))
                end = x + half
        self.add(element("path", d=line([(self.x.start, bottom), (self.x.end, bottom)]), stroke=MUTED))
        self.add(tell(title, self.x.end, bottom + 37, text_anchor="end"))

    def name_y(self, title: str, write: Callable[[float], str], most: int = 6) -> None:
        """Draw the vertical scale: ticks with their values, and what they are at the top.

        Args:
            title: What the values are.
            write: Writes a value.
            most: How many ticks there is room for.
        """
        for tick in self.y.ticks(most):
            y = self.y.at(tick)
            self.add(element("path", d=line([(self.x.start, y), (self.x.end, y)]), stroke=GRID))
            self.add(tell(write(tick), self.x.start - 8, y + 4.5, text_anchor="end", data_tick=tick))
        self.add(tell(title, 0.0, self.y.end - 12))

    def trace(self, xs: Sequence[float], ys: Sequence[float], colour: str, **attributes: object) -> None:
        """Draw a line through points; it breaks where a value is unknown.

        Args:
            xs: Values on the horizontal scale.
            ys: Values on the vertical scale.
            colour: Of what colour.
            **attributes: Further attributes of the line.
        """
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if quantity.known(y):
                runs[-1].append((self.x.at(x), self.y.at(y)))
            elif runs[-1]:
                runs.append([])
        for run in filter(None, runs):
            points = run if len(run) > 1 else [run[0], (run[0][0] + 0.1, run[0][1])]
            style = {"fill": "none", "stroke": colour, "stroke_width": 2, "stroke_linejoin": "round"}
            self.add(element("path", d=line(points), **(style | {"stroke_linecap": "round"} | attributes)))

    def svg(self, **attributes: object) -> Markup:
        """Return the drawing, as wide as the place it is put in."""
        return drawing(self.label, self.width, self.height, *self.parts, **attributes)


def plot(
    label: str, width: float, height: float, left: float, x: Callable[..., Scale], y: Callable[..., Scale]
) -> Chart:
    """Make a chart whose scales fill it but for room for their names.

    Args:
        label: What the chart shows.
        width: Width of the drawing [pixels].
        height: Height of the drawing [pixels].
        left: Room for the values of the vertical scale [pixels].
        x: Makes the horizontal scale, given its pixels as `start` and `end`.
        y: Makes the vertical scale likewise.

    Returns:
        The chart, without anything drawn.
    """
    return Chart(label, width, height, x(start=left, end=width - 8), y(start=height - 44, end=30.0))


def drawing(label: str, width: float, height: float, *parts: str, **attributes: object) -> Markup:
    """Put parts into one SVG element.

    Args:
        label: What it shows, for those who can't see it.
        width: Width of its coordinates [pixels].
        height: Height of its coordinates [pixels].
        *parts: The elements in it.
        **attributes: Further attributes.

    Returns:
        The element, as wide as the place it is put in.
    """
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="group",
        aria_label=label,
        font_size=TEXT,
        width="100%",
        **attributes,
    )


def message(label: str, text: str) -> Picture:
    """Say why there is nothing to draw."""
    return Picture(drawing(label, 420, 120, tell(text, 210, 64, text_anchor="middle"), style="max-width:420px"))


def tell(text: str, x: float, y: float, **attributes: object) -> Markup:
    """Write a text into a drawing, in the colour of what is beside the point unless told otherwise."""
    return element("text", text, **({"x": float(x), "y": float(y), "fill": MUTED} | attributes))
