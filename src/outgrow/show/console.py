"""The console of a run: a live board on a terminal, plain lines everywhere else."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich import box
from rich.console import Console as Screen
from rich.live import Live
from rich.table import Table
from rich.text import Text

from outgrow.show import quantity
from outgrow.show.board import Board, growth_row
from outgrow.show.letters import held
from outgrow.show.lines import lines
from outgrow.show.pace import Pace
from outgrow.show.record import Record, kind, metric_name

REFRESH = 0.25  # seconds between two drawings of the board
STAYING = {"start", "resume", "overfitted", "end"}
"""Records whose line stays above the board."""

DROPPED = ("widths", "FLOPs", "parameters", "time")
"""Columns of the family's table that a narrow terminal goes without, in this order; names hold the parameters, too."""

GAP = 3  # columns of a terminal between two of that table


class Console:
    """Shows a run while it goes on: call it with every record of the journal.

    On a terminal a board is drawn over and over, and growths and sizes stay above it in the scrollback. Elsewhere each
    record gives plain lines.

    Args:
        out: The run folder, to be named.
        file: Where to write; standard output if None.
        force_terminal: Draw the board (True) or write lines (False); whatever suits the file if None.
    """

    def __init__(self, out: Path | str, file: TextIO | None = None, force_terminal: bool | None = None) -> None:
        self._file = sys.stdout if file is None else file
        self._terminal = _is_terminal(self._file) if force_terminal is None else force_terminal
        self._screen = Screen(
            file=self._file,
            force_terminal=self._terminal,
            force_jupyter=False,
            color_system="auto" if self._terminal else None,
            width=None if self._terminal else 1000,
            markup=False,
            highlight=False,
            emoji=False,
        )
        self._board = Board(Path(out).as_posix())
        self._pace = Pace()
        self._live: Live | None = None
        self._began = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        if self._terminal:
            self._live = Live(self._board, console=self._screen, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, record: Record) -> None:
        """Show one record.

        Args:
            record: An object as the journal holds it.
        """
        if kind(record) == "size" and self._board.branch and not self._board.over:
            self._advance(self._board.steps, time.monotonic() - self._began)
        self._board.add(record)
        if "seconds" in record and kind(record) in {"epoch", "end", "resume"}:
            self._began = time.monotonic() - record["seconds"]
            self._advance(record.get("step", self._board.step), record["seconds"])
            if kind(record) == "end":
                self._board.left = None
        elif kind(record) == "start":
            self._began = time.monotonic()
            self._advance(0, 0.0)
        elif kind(record) == "branch":
            self._board.left = self._pace.left(self._board.step + record["steps"])
            self._began, self._pace = time.monotonic(), Pace()
            self._pace.note(0, 0.0)
            self._board.step, self._board.seconds = 0, 0.0
        if self._live is None:
            for line in lines(record, self._board.start, self._board.left):
                self._write(line)
        else:
            self._keep(record)
            self._draw()

    def recall(self, records: Sequence[Record]) -> None:
        """Take up what a run told before it stopped; only its start is shown again.

        Args:
            records: The journal so far.
        """
        self(records[0])
        for record in records[1:]:
            self._board.add(record)
            if kind(record) == "epoch":
                self._advance(record["step"], record["seconds"])

    def tick(self, step: int) -> None:
        """Move the progress within an epoch; costs next to nothing between two drawings and where there is no board.

        Args:
            step: Steps done since the run's start.
        """
        if self._live is None or time.monotonic() - self._drawn < REFRESH:
            return
        self._advance(step, time.monotonic() - self._began)
        self._draw()

    def finish(self, family: Mapping[str, Any], report: Path) -> None:
        """Print the table of the family and where everything is.

        Args:
            family: What family.json holds.
            report: The path of report.html.
        """
        with self._screen.capture() as table:
            self._screen.print(_family_table(family, self._screen.width, self._terminal))
        for line in table.get().splitlines():
            if line.strip():
                self._screen.out(held(line, self._file), highlight=False)
        total = family.get("total") or {}
        if (seconds := total.get("seconds")) is not None:
            checks = total.get("check_seconds")
            share = f", checks {quantity.share(checks / seconds)} of it" if checks is not None and seconds else ""
            if (compiling := total.get("compile_seconds")) is not None:
                share += f", compiling {quantity.duration(compiling)}"
            flops = quantity.short(total.get("train_flops"), "FLOPs")
            self._write(f"{quantity.duration(seconds)}{share}, {flops} in all")
        self._write(f"run     {self._board.out}")
        self._write(f"report  {Path(report).as_posix()}")

    def _advance(self, step: int, seconds: float) -> None:
        self._pace.note(step, seconds)
        self._board.step, self._board.seconds = step, seconds
        self._board.left = self._pace.left(self._board.steps or step)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._live is not None:
            self._live.refresh()

    def _keep(self, record: Record) -> None:
        """Print above the board what shall stay in the scrollback: growths and the end."""
        names = min(max(map(len, self._board.axes), default=8), max(8, self._screen.width - 65))
        for growth in record["growths"] if kind(record) == "event" else ():
            self._screen.print(growth_row(record, growth, names), soft_wrap=True)
        if kind(record) in STAYING or (kind(record) == "event" and not record["growths"]):
            for line in lines(record, self._board.start):
                self._screen.print(Text(line, style="dim" if kind(record) == "event" else ""))

    def _write(self, line: str) -> None:
        self._screen.print(Text(held(line, self._file)), soft_wrap=True)
        self._file.flush()


def _is_terminal(file: TextIO) -> bool:
    """Say whether a board can be drawn there: a terminal that moves its cursor and knows the box's letters."""
    encoding = (getattr(file, "encoding", None) or "utf-8").lower()
    return file.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"} and encoding.startswith("utf")


def _family_table(family: Mapping[str, Any], width: int, terminal: bool) -> Table:
    """Tabulate the sizes of a family, smallest first; in plain output as Markdown."""
    columns = _family_columns(family, sorted(family["sizes"], key=lambda size: size["params"]))
    for heading in DROPPED:
        if _room(columns, width) < 0:
            del columns[heading]
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN, pad_edge=not terminal)
    for heading, cells in columns.items():
        table.add_column(
            heading,
            justify="left" if heading in {"size", "widths"} else "right",
            overflow="ellipsis",
            min_width=_least(heading, cells),
            max_width=len(heading) + _room(columns, width) if heading == "widths" else None,
            no_wrap=" " not in heading,
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _room(columns: Mapping[str, Sequence[str]], width: int) -> int:
    """How much a table may be wider than it is at least; below zero where it does not fit."""
    return width + 1 - sum(_least(heading, cells) + GAP for heading, cells in columns.items())


def _least(heading: str, cells: Sequence[str]) -> int:
    """How wide a column is at least: only widths are cut, and a heading may take two lines."""
    return max(map(len, [*heading.split(), *([] if heading == "widths" else cells)]))


def _family_columns(family: Mapping[str, Any], sizes: Sequence[Record]) -> dict[str, list[str]]:
    metric = metric_name(family, sizes[0]["validation"] if sizes else {})
    title = quantity.metric_title(metric)
    columns = {
        "size": [quantity.shorten(quantity.clean(size["name"]), 24) for size in sizes],
        "parameters": [quantity.count(size["params"]) for size in sizes],
        "FLOPs": [quantity.short(size["flops"]) for size in sizes],
        "widths": [quantity.widths(size["axes"]) for size in sizes],
    }
    for part in ("validation", *(["test"] if any(size.get("test") for size in sizes) else [])):
        columns[f"{part} {title}"] = [quantity.metric(metric, (size.get(part) or {}).get(metric), 2) for size in sizes]
    return columns | {"time": [quantity.duration(size.get("seconds")) for size in sizes]}
