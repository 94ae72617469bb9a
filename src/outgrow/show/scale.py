"""A scale: from values to pixels, linear or logarithmic, and the round values that are named beside it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

STEPS = ((4.0, (1,)), (2.0, (1, 3)), (1.2, (1, 2, 5)), (0.0, (1, 1.5, 2, 3, 5, 7)))
"""The leading digits of ticks of a logarithmic scale, by how many decades it has at least."""


@dataclass(frozen=True)
class Scale:
    """Values between two ends, and the pixels where they stand.

    Args:
        low: The value at the start.
        high: The value at the end; above `low`.
        start: Pixels of the lowest value.
        end: Pixels of the highest value.
        log: Equal factors, not equal differences, are equally far apart; then both values are positive.

    >>> Scale(0, 10, 100, 200).at(2.5), Scale(1, 100, 0, 50, log=True).at(10)
    (125.0, 25.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Self:
        """Make a scale with room around some values.

        Args:
            values: What is to be seen; at least one value.
            start: Pixels of the lowest value.
            end: Pixels of the highest value.
            log: Whether to make it logarithmic.
            pad: Room on both sides, as a share of the whole.

        Returns:
            The scale.
        """
        seen = list(values)
        low, high = (math.log(min(seen)), math.log(max(seen))) if log else (min(seen), max(seen))
        least = 0.2 if log else 1e-3 * max(abs(low), abs(high)) or 1.0
        room = max(pad * (high - low), (least - (high - low)) / 2)
        low, high = low - room, high + room
        return cls(math.exp(low), math.exp(high), start, end, log) if log else cls(low, high, start, end)

    def at(self, value: float) -> float:
        """Return where a value stands [pixels]."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6, *, whole: bool = False) -> list[float]:
        """Choose round values to be named.

        Args:
            most: How many there is room for, about; of a linear scale.
            whole: Whole numbers only.

        Returns:
            The values, in rising order.

        >>> Scale(0, 41, 0, 1).ticks(), Scale(900, 25_000, 0, 1, log=True).ticks()
        ([0, 10, 20, 30, 40], [1000, 2000, 5000, 10000, 20000])
        """
        return self._powers() if self.log else self._multiples(most, whole)

    def _multiples(self, most: int, whole: bool) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * (1 - 1e-9))
        if whole:
            step = max(1.0, step)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [_short(index * step) for index in range(first, last + 1)]

    def _powers(self) -> list[float]:
        decades = math.log10(self.high / self.low)
        digits = next(digits for least, digits in STEPS if decades >= least)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = 1 + len(powers) // 8
        ticks = [_short(digit * 10.0**power) for power in powers if power % every == 0 for digit in digits]
        within = [tick for tick in ticks if self.low <= tick <= self.high]
        return within if len(within) > 2 else self._multiples(6, whole=False)


def _short(value: float) -> float:
    """Drop what arithmetic left behind the twelfth digit; whole numbers become integers."""
    value = float(f"{value:.12g}")
    return int(value) if value.is_integer() else value
