"""Budgets: what a network may cost, in parameters, in floating-point operations and in time.

All of it is the cost of using the network, not of training it: FLOPs [multiply-adds count 2] of a forward pass of one
example, seconds of a forward pass on the example as it is given.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from outgrow.errors import InputError


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Args:
        params: Parameters.
        flops: FLOPs of one example's forward pass.
        latency: Seconds of a forward pass; None where it was not measured.
    """

    params: int
    flops: int
    latency: float | None = None

    def after(self, params: int, flops: int) -> "Cost":
        """Return what the network costs with other parameters and FLOPs, its latency in proportion to the FLOPs.

        For a network that grows this errs on the safe side where starting modules takes part of the time, since that
        part stays; where larger layers leave a cache it may promise too little. So a prediction serves one step only,
        and latency is measured anew after it.

        Args:
            params: Parameters then.
            flops: FLOPs then.

        Returns:
            The cost; without FLOPs now, the latency stays.

        Examples:
            >>> Cost(100, 2_000, latency=0.001).after(150, 3_000)
            Cost(params=150, flops=3000, latency=0.0015)
        """
        ratio = flops / self.flops if self.flops else 1.0
        return Cost(params, flops, None if self.latency is None else self.latency * ratio)


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost; true if anything is limited.

    Args:
        max_params: Parameters; None for no limit.
        max_flops: FLOPs of one example's forward pass; None for no limit.
        max_latency: Seconds of a forward pass on the example as it is given; None for no limit.

    Raises:
        InputError: A limit is not a number above zero, whole for parameters and FLOPs.

    Examples:
        >>> budget = Budget(max_params=20_000, max_flops=1_500_000, max_latency=0.002)
        >>> print(budget)
        20,000 parameters, 1.5 MFLOP, 2.0 ms
        >>> budget.room(Cost(10_000, 1_000_000, 0.0005)), bool(budget), bool(Budget())
        (1.5, True, False)
    """

    max_params: int | None = None
    max_flops: int | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        _demand("max_params", self.max_params, "a whole number", int)
        _demand("max_flops", self.max_flops, "a whole number", int)
        _demand("max_latency", self.max_latency, "a number of seconds", (int, float))

    def __bool__(self) -> bool:
        return self != Budget()

    def __str__(self) -> str:
        parts = [
            f"{self.max_params:,} parameter{'s' * (self.max_params != 1)}" if self.max_params else "",
            _flops(self.max_flops) if self.max_flops else "",
            _milliseconds(self.max_latency) if self.max_latency else "",
        ]
        return ", ".join(filter(None, parts)) or "no limit"

    def room(self, cost: Cost) -> float:
        """Return by what factor the cost that is closest to its limit may grow.

        Args:
            cost: What a network costs.

        Returns:
            The least of limit / present: below 1 where a limit is exceeded, infinite without any.

        Raises:
            InputError: Latency is limited, but was not measured.
        """
        return min((limit / present for _, limit, present in self._limits(cost) if present), default=math.inf)

    def fits(self, cost: Cost) -> bool:
        """Return whether a cost is within every limit.

        Args:
            cost: What a network costs.

        Returns:
            Whether no limit is exceeded.

        Raises:
            InputError: Latency is limited, but was not measured.
        """
        return all(present <= limit for _, limit, present in self._limits(cost))

    def demand_room(self, cost: Cost) -> None:
        """Check that a seed network is within every limit.

        Args:
            cost: What the seed costs.

        Raises:
            InputError: It exceeds one, which is named; or latency is limited, but was not measured.

        Examples:
            >>> Budget(max_params=1_000).demand_room(Cost(1_234, 5_678))
            Traceback (most recent call last):
            ...
            outgrow.errors.InputError: the budget of 1,000 parameters is below the seed's 1,234
        """
        for what, limit, present in self._limits(cost):
            if present <= limit:
                continue
            if what == "latency":
                digits = next(d for d in range(2, 18) if _milliseconds(limit, d) != _milliseconds(present, d))
                raise InputError(
                    f"the latency of {_milliseconds(limit, digits)} is below the seed's "
                    f"{_milliseconds(present, digits)}"
                )
            raise InputError(f"the budget of {limit:,} {what} is below the seed's {present:,}")

    def _limits(self, cost: Cost) -> Iterator[tuple[str, float, float]]:
        """Yield what is limited, to how much, and how much of it there is."""
        if self.max_params is not None:
            yield "parameters", self.max_params, cost.params
        if self.max_flops is not None:
            yield "FLOPs", self.max_flops, cost.flops
        if self.max_latency is not None:
            if cost.latency is None:
                raise InputError(
                    f"a budget of {_milliseconds(self.max_latency)} needs a cost with its latency, received none: "
                    "measure it with outgrow.net.latency.latency(model, example)"
                )
            yield "latency", self.max_latency, cost.latency


def _demand(name: str, limit: float | None, what: str, kinds: type | tuple[type, ...]) -> None:
    """Check that a limit is a finite number above zero, of one of the kinds, or absent."""
    if limit is None:
        return
    if not isinstance(limit, kinds) or isinstance(limit, bool) or not 0 < limit < math.inf:
        raise InputError(f"expected {name} as {what} above zero, or None for no limit, received {limit!r}")


def _flops(number: int) -> str:
    """Write FLOPs with three digits and an SI prefix."""
    power = min(int(math.log10(float(f"{number:.3g}"))) // 3, 6)
    return f"{number / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}FLOP"


def _milliseconds(seconds: float, digits: int = 2) -> str:
    """Write a time with so many significant digits, or as many more as it has before the point."""
    value = 1000 * seconds
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(value)), 0)}f} ms"
