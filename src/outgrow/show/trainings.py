"""Trainings one after the other: a bar on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TextColumn

from outgrow.show import quantity
from outgrow.show.letters import held

REFRESH = 0.25  # seconds between two drawings of the bar


class Trainings:
    """Shows which network is trained, what came of it, and about how long the rest takes.

    Args:
        steps: Steps of an epoch.
        epochs: Epochs that were done before, for the pace.
        seconds: What these took.
        metric: What to tell of a network.
        file: Where to write; standard output if None.
    """

    def __init__(self, steps: int, epochs: float, seconds: float, metric: str, file: TextIO | None = None) -> None:
        self._steps, self._epochs, self._seconds, self._metric = steps, epochs, seconds, metric
        self._screen = screen(file)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}", markup=False),
            console=self._screen,
            auto_refresh=False,
            transient=True,
            disable=not self._screen.is_interactive,
        )
        self._task = self._bar.add_task("", left="", visible=False)
        self._words = ""
        self._rest = self._now = 0.0
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def announce(self, what: str, number: int, count: int, epochs: int, rest: int) -> None:
        """Say what is trained now.

        Args:
            what: The network in words.
            number: Which training this is.
            count: Of how many.
            epochs: How long it is trained.
            rest: Epochs of all trainings that come after it.
        """
        self._words = f"{number}/{count}  {what}, {quantity.count(epochs, 'epoch')}"
        self._now, self._rest = epochs, rest
        self._bar.update(self._task, description=self._words, total=epochs * self._steps, visible=True)
        self._draw(0)
        if not self._screen.is_interactive:
            left = quantity.left(self._left(0))
            self.say(f"{self._words}{f'; {left} for all' if left else ''}")

    def tick(self, step: int) -> None:
        """Move the bar; costs next to nothing between two drawings.

        Args:
            step: Steps done of this training.
        """
        if self._screen.is_interactive and time.monotonic() - self._drawn >= REFRESH:
            self._draw(step)

    def tell(self, entry: Mapping[str, Any]) -> None:
        """Say what came of the training that was announced.

        Args:
            entry: What compare.json says of it.
        """
        self._epochs += entry["epochs"]
        self._seconds += entry["seconds"]
        title = quantity.metric_title(self._metric)
        parts = [part for part in ("validation", "test") if entry.get(part)]
        reached = [f"{part} {title} {quantity.metric(self._metric, entry[part][self._metric], 2)}" for part in parts]
        words = f"{self._words}: " if self._screen.is_interactive else " " * self._words.find("  ") + "  "
        self.say(f"{words}{', '.join(reached)}, {quantity.duration(entry['seconds'])}")

    def say(self, line: str) -> None:
        """Write a line, above the bar where there is one."""
        self._screen.print(held(quantity.clean(line), self._screen.file), soft_wrap=True)
        self._screen.file.flush()

    def _left(self, step: int) -> float:
        return self._seconds / self._epochs * (self._rest + self._now - step / self._steps)

    def _draw(self, step: int) -> None:
        self._drawn = time.monotonic()
        self._bar.update(self._task, completed=step, left=quantity.left(self._left(step)), refresh=True)


def screen(file: TextIO | None = None) -> Screen:
    """Return a screen that writes text as it is: coloured and as wide as the terminal, or plain and of any width.

    Args:
        file: Where to write; standard output if None.
    """
    file = sys.stdout if file is None else file
    terminal = file.isatty()  # rich would also go by FORCE_COLOR, which says nothing of a cursor that moves
    return Screen(
        file=file,
        force_terminal=terminal,
        force_interactive=None if terminal else False,
        width=None if terminal else 1000,
        markup=False,
        highlight=False,
        emoji=False,
        force_jupyter=False,
    )
