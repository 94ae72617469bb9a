"""Rhythm: looks that are so many epochs apart, up to a share of the run."""

import math
from dataclasses import dataclass

from outgrow.errors import InputError
from outgrow.grow.policy import Situation


@dataclass(frozen=True)
class Rhythm:
    """Looks at every so many epochs, the first one after as many.

    Args:
        every: Epochs from one look to the next.
        share: Share of the run in which there are looks.

    Raises:
        InputError: An argument is out of range.

    Examples:
        >>> rhythm = Rhythm(every=2.0, share=0.5)
        >>> [rhythm.number(epoch) for epoch in (0.0, 1.9, 2.0, 5.0)]
        [0, 0, 1, 2]
    """

    every: float
    share: float

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise InputError(f"every: expected a number of epochs above zero, received {self.every}")
        if not 0 < self.share <= 1:
            raise InputError(f"share: expected a share of the run above 0 and at most 1, received {self.share}")

    def number(self, epoch: float) -> int:
        """Return the number of the last look that has come, from 1; 0 before the first."""
        return math.floor(epoch / self.every + 1e-9)

    def due(self, now: Situation) -> bool:
        """Return whether a look has come since the last event; never behind the share of a run whose end is known."""
        if now.progress is not None and now.progress > self.share:
            return False
        return self.number(now.epoch) > (self.number(now.history[-1].epoch) if now.history else 0)
