"""Plans: what happens to each tensor of a model that is widened, before any tensor is made.

Along each dimension, new entries come in behind the last unit of their axis, in every run of places that it has there,
and what lies behind moves up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from outgrow.net.axis import Member
from outgrow.net.edit import Division
from outgrow.net.gains import Gain
from outgrow.net.widening import Widening


@dataclass(frozen=True)
class Room:
    """Room for the new units of one axis along one dimension of one tensor.

    Args:
        widening: The units.
        member: The dimension.
        places: Where each of them sits along it in the new tensor [units, entries].
    """

    widening: Widening
    member: Member
    places: Tensor

    def divide_(self, origins: Tensor, shares: Tensor, keep: Tensor) -> None:
        """Note the places that are copied and divided, among those of the dimension [size]; see `Division`."""
        copies, index = self.widening.copies, self.member.index
        if copies is None:
            return
        origins[self.places] = index[copies.parents]
        if "in" in self.member.roles:
            shares[keep[index]] = copies.kept(len(index))[:, None]
            shares[self.places] = copies.shares.double()[:, None]


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor.

    Args:
        name: Of the tensor.
        keep: For each dimension, where the old entries go [size].
        shape: The new shape.
        rooms: Where new units come in, along its dimensions.
    """

    name: str
    keep: tuple[Tensor, ...]
    shape: list[int]
    rooms: list[Room]

    @cached_property
    def scale(self) -> float:
        """What gains of RMS norms are multiplied with, to make up for the channels of zeros."""
        pairs = [(room.widening.axis, room.widening.units) for room in self.rooms]
        return math.prod(
            Gain.factor(axis.size, axis.size + units)
            for axis, units in pairs
            if any(gain.tensor == self.name for gain in axis.gains)
        )

    @cached_property
    def division(self) -> Division | None:
        """What is copied and divided; None without copies."""
        if all(room.widening.copies is None for room in self.rooms):
            return None
        origins = tuple(torch.full((size,), -1) for size in self.shape)
        shares = tuple(torch.ones(size, dtype=torch.float64) for size in self.shape)
        for origin, keep in zip(origins, self.keep, strict=True):
            origin[keep] = torch.arange(len(keep))
        for room in self.rooms:
            dim = room.member.dim
            room.divide_(origins[dim], shares[dim], self.keep[dim])
        return Division(origins, shares)


def plans_of(widenings: Sequence[Widening], present: Mapping[str, Tensor]) -> dict[str, TensorPlan]:
    """Return what widenings, taken together, do to the tensors of a model.

    Args:
        widenings: The units; at most one entry for each axis.
        present: The tensors as they are now, by name.

    Returns:
        A plan for each tensor that changes.
    """
    touched: dict[str, dict[int, list[tuple[Widening, Member]]]] = {}
    for widening in widenings:
        for member in widening.axis.members:
            touched.setdefault(member.tensor, {}).setdefault(member.dim, []).append((widening, member))
    plans = {}
    for name, dims in touched.items():
        shape = list(present[name].shape)
        keep = [torch.arange(size) for size in shape]
        rooms = []
        for dim, pairs in dims.items():
            keep[dim], shape[dim], made = _rooms(shape[dim], pairs)
            rooms += made
        plans[name] = TensorPlan(name, tuple(keep), shape, rooms)
    return plans


def _rooms(size: int, pairs: Sequence[tuple[Widening, Member]]) -> tuple[Tensor, int, list[Room]]:
    """Make room for each axis's new units behind its last one, in every run of places that it has along a dimension.

    Args:
        size: Of the dimension.
        pairs: What comes in along it.

    Returns:
        Where the old entries go [size], the new size, and the rooms.
    """
    added = torch.zeros(size, dtype=torch.long)
    runs: list[list[tuple[int, int, list[int]]]] = []
    for widening, member in pairs:
        mine = _runs(member.index[-1].tolist(), member.run)
        runs.append(mine)
        for end, length, _ in mine:
            added[end] = widening.units * length
    keep = torch.arange(size) + added.cumsum(0) - added
    made = []
    for (widening, member), mine in zip(pairs, runs, strict=True):
        places = torch.empty(widening.units, member.index.shape[1], dtype=torch.long)
        for end, length, entries in mine:
            start = int(keep[end]) + 1
            for offset, entry in enumerate(entries):
                places[:, entry] = start + torch.arange(widening.units) * length + offset
        made.append(Room(widening, member, places))
    return keep, size + int(added.sum()), made


def _runs(places: list[int], most: int) -> list[tuple[int, int, list[int]]]:
    """Split the places of a unit into contiguous runs: (last place, length, which entries they are, in order).

    Args:
        places: Of one unit.
        most: Greatest length of a run; 0 for any.

    Returns:
        The runs.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    runs: list[list[int]] = []
    for entry in order:
        if runs and places[entry] == places[runs[-1][-1]] + 1 and len(runs[-1]) != most:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return [(places[run[-1]], len(run), run) for run in runs]
