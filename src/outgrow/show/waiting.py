"""Waiting: a word about what goes on before there is any progress to show, such as the reading of data."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from outgrow.show import quantity
from outgrow.show.trainings import screen

PATIENCE = 2.0  # seconds after which a plain line says what goes on


@contextmanager
def waiting(what: str, file: TextIO | None = None, patience: float | None = None) -> Iterator[None]:
    """Say what goes on while it does: with a clock on a terminal, as one line elsewhere if it takes long.

    Args:
        what: What goes on.
        file: Where to write; standard error if None.
        patience: Seconds before the line is written; `PATIENCE` if None.

    Yields:
        Nothing.
    """
    out, words = screen(sys.stderr if file is None else file), quantity.clean(what)
    if out.is_terminal:
        clock = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*clock, console=out, transient=True) as progress:
            progress.add_task(words, total=None)
            yield
        return
    timer = threading.Timer(
        PATIENCE if patience is None else patience, lambda: out.print(f"{words} ...", soft_wrap=True)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
