"""Widenings: units to add on an axis, with what is known of their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outgrow.errors import GrowthError
from outgrow.net.axis import Axis


@dataclass(frozen=True, eq=False)
class Copies:
    """Which units are copied, and how their outgoing weights are divided.

    Args:
        parents: The present unit that each new one is a copy of [units].
        shares: What each new one takes of its parent's outgoing weights [units]; the parent keeps the rest.
    """

    parents: Tensor
    shares: Tensor

    def kept(self, size: int) -> Tensor:
        """Return what each of `size` present units keeps of its outgoing weights [size]."""
        return torch.ones(size, dtype=torch.float64).index_add(0, self.parents, -self.shares.double())


@dataclass(frozen=True, eq=False)
class Widening:
    """Units to add on an axis.

    Args:
        axis: The axis, as the model has it now.
        units: How many.
        rows: For each producing tensor, the new units' weights in the shape of the model as it is now: `units *
            entries` along the axis, the old size along every other dimension. Drawn at random where absent.
        channels: For tensors with one entry for each channel, the new units' entries [units * entries]; the kind of
            layer decides where absent (gain 1, shift 0, mean 0, variance 1).
        columns: For each consuming tensor, the weights with which it reads the new units, in the shape of `rows`. Zero
            where absent; those that are given must cancel each other.
        copies: The new units are copies of present ones, with all that these have; then nothing else is given.

    Raises:
        GrowthError: There are columns or copies where new units have to be zero channels, or they don't fit the units.
    """

    axis: Axis
    units: int
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    channels: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    copies: Copies | None = None

    def __post_init__(self) -> None:
        if self.unread:
            return
        if why := undivided(self.axis):
            raise GrowthError(f"{self.axis.name}: its new units can be neither copies nor twins: {why}; use fresh ones")
        if self.copies is not None and (self.rows or self.channels or self.columns):
            raise GrowthError(f"{self.axis.name}: expected copies or given weights, got both; copies bring their own")
        if self.copies is not None and not len(self.copies.parents) == len(self.copies.shares) == self.units:
            counts = f"{len(self.copies.parents)} parents and {len(self.copies.shares)} shares"
            raise GrowthError(f"{self.axis.name}: expected a parent and a share for each of {self.units}, got {counts}")

    @property
    def unread(self) -> bool:
        """Whether nothing reads the new units yet, as their columns are zero."""
        return self.copies is None and not self.columns


def undivided(axis: Axis) -> str:
    """Return why the outgoing weights of an axis can't be divided among copies; empty where they can.

    A copy keeps the function where all that happens to the axis on the way to its consumers happens to each unit by
    itself, and each consumer is linear in it. Every axis whose new units come in through zero columns is such a one:
    gates, softmax attention and norms of each channel are within the unit that is copied.
    """
    if axis.zero == "in":
        return ""
    if axis.gains:
        return "an RMS norm divides by the mean square of its channels, which channels other than zero would change"
    return "a tied weight reads it that is used in another way too, so that it can't be divided"
