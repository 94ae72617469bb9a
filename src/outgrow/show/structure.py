"""The structure of a network as tables: what of it can grow, and what can't and why."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console as Screen
from rich.table import Table
from rich.text import Text

from outgrow.show.letters import held


def print_structure(
    title: str, axes: Sequence[Mapping[str, Any]], places: Sequence[Mapping[str, Any]], file: TextIO | None = None
) -> None:
    """Print the axes and places of a model.

    Args:
        title: What the model is.
        axes: `name`, `size`, `unit`, `where` (lines), `growable`, `reason` of each.
        places: `name`, `kind`, `what`, `growable`, `reason` of each.
        file: Where to write; standard output if None.
    """
    out = file or sys.stdout
    terminal = out.isatty()
    width = shutil.get_terminal_size((120, 40)).columns if terminal else 120
    screen = Screen(file=out, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)
    with screen.capture() as text:
        _tell(screen, title, axes, places)
    out.write(held(text.get(), out))


def _tell(screen: Screen, title: str, axes: Sequence[Mapping[str, Any]], places: Sequence[Mapping[str, Any]]) -> None:
    grow = [axis for axis in axes if axis["growable"]]
    open_places = [place for place in places if place["growable"]]
    screen.print(Text(title, style="bold"))
    room = f"{len(open_places)} place{'' if len(open_places) == 1 else 's'}"
    screen.print(f"{len(grow)} of {len(axes)} axes can grow, a block can go to {room}")
    rows = [(a["name"], f"{a['size']:,}", a["unit"], Text("\n".join(a["where"]))) for a in grow]
    _print(screen, "Axes that can grow", ("axis", "units", "a unit is", "along"), rows)
    fixed = [(a["name"], f"{a['size']:,}", Text(a["reason"])) for a in axes if not a["growable"]]
    _print(screen, "Axes that can't", ("axis", "units", "why"), fixed)
    _print(
        screen,
        "Where a block can go",
        ("behind", "kind", "what"),
        [(p["name"], p["kind"], p["what"]) for p in open_places],
    )
    shut = [(p["name"] or "the model", Text(p["reason"])) for p in places if not p["growable"]]
    _print(screen, "Where none can", ("place", "why"), shut)


def _print(screen: Screen, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column == "units"
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*row)
    screen.print()
    screen.print(table)
