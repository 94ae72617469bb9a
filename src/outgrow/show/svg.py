"""Elements of SVG as text: escaped, with short numbers and the page's colours, the same bytes for the same picture."""

from collections.abc import Sequence

from markupsafe import Markup, escape

INK, MUTED, GRID, PAPER = "var(--ink,#1c2530)", "var(--muted,#5d6975)", "var(--grid,#dfe4e9)", "var(--paper,#fff)"
BLUE, ORANGE, GREEN, RED = "var(--blue,#2563eb)", "var(--orange,#c2570c)", "var(--green,#0a7f5a)", "var(--red,#c81e4a)"
"""Colours: a variable that the page sets for light and dark, and what it is without a page."""

SYMBOLS = {
    "circle": "M{l} {y}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0-{d} 0z",
    "square": "M{l} {t}h{d}v{d}h-{d}z",
    "diamond": "M{x} {t}L{e} {y}L{x} {b}L{l} {y}z",
    "up": "M{x} {t}L{e} {b}H{l}z",
    "down": "M{x} {b}L{e} {t}H{l}z",
}
"""Outlines of the symbols around (x, y) with a radius r."""


def element(name: str, *inside: str, **attributes: object) -> Markup:
    """Write one element.

    Args:
        name: Its name.
        *inside: What it holds: other elements, or text, which is escaped.
        **attributes: Its attributes; an underscore stands for a hyphen, one at the end is left out, None leaves the
            attribute out, and numbers are rounded to hundredths, but not those of data attributes.

    Returns:
        The element.

    >>> print(element("text", "a < b", x=1.25, y=2.0, class_="name", data_loss=1 / 3))
    <text x="1.25" y="2" class="name" data-loss="0.3333333333333333">a &lt; b</text>
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            written = number(value) if isinstance(value, float) and not key.startswith("data_") else value
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(written)}"')
    return Markup(f"<{' '.join(words)}>{''.join(map(escape, inside))}</{name}>")


def number(value: float) -> str:
    """Write a coordinate to a hundredth of a pixel, as short as it goes.

    Args:
        value: The coordinate [pixels].

    Returns:
        The digits.

    >>> number(12.0), number(0.126), number(-0.001)
    ('12', '.13', '0')
    """
    text = f"{value:z.2f}".rstrip("0").rstrip(".")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def line(points: Sequence[tuple[float, float]]) -> str:
    """Write the outline through some points.

    Args:
        points: Pairs of x and y.

    Returns:
        The outline, as a path has it.

    >>> line([(0, 1), (2, 3.5)])
    'M0 1L2 3.5'
    """
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def symbol(shape: str, x: float, y: float, colour: str, *, radius: float = 4.5, hollow: bool = False) -> Markup:
    """Draw a symbol.

    Args:
        shape: One of SYMBOLS.
        x: Where its middle is.
        y: Where its middle is.
        colour: Of what.
        radius: Half its width.
        hollow: Its border only.

    Returns:
        A path.
    """
    places = {"x": x, "y": y, "r": radius, "d": 2 * radius}
    places |= {"l": x - radius, "e": x + radius, "t": y - radius, "b": y + radius}
    outline = SYMBOLS[shape].format_map({name: number(value) for name, value in places.items()})
    return element(
        "path", d=outline, fill=PAPER if hollow else colour, stroke=colour if hollow else PAPER, stroke_width=1.5
    )


def reach(x: float, y: float, radius: float = 12) -> Markup:
    """Make a point as large as a finger, without being seen.

    Args:
        x: Where the point is [pixels].
        y: Where the point is [pixels].
        radius: How far from it a touch counts [pixels].

    Returns:
        A circle.
    """
    return element("circle", cx=x, cy=y, r=radius, fill="transparent", class_="reach")


def mark(lines: Sequence[str], *shapes: str, stop: bool = True, kind: str = "", **attributes: object) -> Markup:
    """Group shapes that tell their values where they are pointed at, touched, or reached by the keyboard.

    Args:
        lines: What to tell: a name, then its values.
        *shapes: What is drawn.
        stop: Whether the keyboard stops there.
        kind: A further class.
        **attributes: Further attributes, such as `data_loss`.

    Returns:
        A group; the script of the page shows its label.
    """
    return element(
        "g",
        *shapes,
        class_=f"mark {kind}".rstrip(),
        role="img",
        tabindex=0 if stop else None,
        aria_label="; ".join(lines),
        **attributes,
    )
