"""A figure for a page: drawn by matplotlib, kept as SVG whose colours follow the page's light or dark theme."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
BLUE, ORANGE, GREEN, RED = "#010105", "#010106", "#010107", "#010108"

THEME = {
    INK: ("ink", "#1c2530"),
    MUTED: ("muted", "#667380"),
    GRID: ("grid", "#dfe4e9"),
    PAPER: ("paper", "#ffffff"),
    BLUE: ("blue", "#2563eb"),
    ORANGE: ("orange", "#c2570c"),
    GREEN: ("green", "#0a7f5a"),
    RED: ("red", "#c81e4a"),
}
"""For each stand-in colour that is drawn with, the CSS variable that the page sets and what it is without a page."""

HOVER = "hover:"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "outgrow",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
}


def hover(text: str) -> str:
    """Mark what is drawn so that the page shows a text over it: `axes.plot(..., gid=hover("12 units"))`."""
    return HOVER + text


def picture(name: str, label: str, draw: Callable[[Axes], None], width: float = 430, height: float = 305) -> str:
    """Draw one pair of axes and return it as SVG to put into a page.

    The same drawing gives the same bytes: no dates, no random ids. Every id begins with `name`, so that several
    pictures can stand on one page. Text stays text.

    Args:
        name: A word for the ids.
        label: What the picture shows, for those who can't see it.
        draw: Draws on the axes, with the colours of this module.
        width: Width of the picture, in CSS pixels.
        height: Height of the picture, in CSS pixels.

    Returns:
        One `<svg>` element, as wide as the place it is put in.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser's font has it
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_page(file.getvalue(), name, label)


def plain(axes: Axes, message: str) -> None:
    """Write a message where there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, transform=axes.transAxes)


def _for_page(svg: str, name: str, label: str) -> str:
    """Turn matplotlib's file into an element: themed colours, own ids, hover texts, the page's font and width."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{HOVER}([^"]*)">', r'<g class="hover"><title>\1</title>', svg)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, (variable, fallback) in THEME.items():
        svg = svg.replace(colour, f"var(--{variable}, {fallback})")
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(?:width|height)="[^"]*"', "", opening)
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'{opening} role="img" aria-label="{escaped}" font-family="inherit" width="100%">{rest}'
