"""Axes: the dimensions of parameters and buffers that must change together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.net.inputs import Example
from outgrow.net.setting import Scaled
from outgrow.net.trace import Trace, trace


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor along which an axis lies.

    Args:
        tensor: Name in the state dict.
        dim: Dimension of the tensor.
        index: Where each unit sits along the dimension [units, entries]; several entries where one unit covers more
            than one place, like the k*k columns of a linear layer behind a flattened convolution.
        roles: What the dimension is for: `out` hands the axis out, `in` reads it, `channel` has one entry for each.
    """

    tensor: str
    dim: int
    index: Tensor
    roles: frozenset[str]

    @property
    def module(self) -> str:
        """Path of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Axis:
    """A number of channels or neurons, in all the places where it shows.

    Args:
        name: Path of the first module that hands the axis out.
        size: Units it has now.
        members: Every dimension that changes with it, in the order of the graph.
        growable: Whether it can change.
        reason: Why not, or empty.
        settings: Attributes of modules that change with it, such as the number of heads.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    growable: bool
    reason: str
    settings: tuple[Scaled, ...] = ()

    def with_role(self, role: str) -> list[Member]:
        """Return the members that have a role."""
        return [member for member in self.members if role in member.roles]

    @property
    def consumers(self) -> list[Member]:
        """The weights that read the axis."""
        return self.with_role("in")

    @property
    def producers(self) -> list[Member]:
        """The weights that hand the axis out."""
        return self.with_role("out")

    def __repr__(self) -> str:
        places = ", ".join(f"{m.tensor}[{m.dim}]" for m in self.members)
        return f"{self.name}: {self.size} units in {places}" + ("" if self.growable else f" (fixed: {self.reason})")


def axes(model: nn.Module, example: Example) -> list[Axis]:
    """Find every axis of a model: what can grow, what is fixed and why.

    The model is exported with `torch.export` and its graph run once on channel numbers (architecture.md, decision 1).

    Args:
        model: Any module; it is not changed.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        The axes in the order of the graph.

    Raises:
        InputError: The model can't be exported with this example.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> for axis in axes(model, torch.zeros(1, 4)):
        ...     print(axis)
        0: 3 units in 0.weight[0], 0.bias[0], 2.weight[1]
        0 (input): 4 units in 0.weight[1] (fixed: it reads the input or a value that can't grow)
        2: 2 units in 2.weight[0], 2.bias[0] (fixed: it is an output of the network)
    """
    return axes_of(trace(model, example))


def axes_of(walk: Trace) -> list[Axis]:
    """Group joined channel numbers into axes: units with the same places belong to one axis."""
    roots = _places(walk)
    reasons = walk.numbers.reasons()
    groups: dict[tuple[object, ...], list[int]] = {}
    for root, places in roots.items():
        signature = tuple((tensor, dim, len(at)) for (tensor, dim), at in places.items())
        groups.setdefault((signature, root in reasons), []).append(root)
    found = [_axis(walk, [roots[root] for root in group], reasons.get(group[0], "")) for group in groups.values()]
    return _with_unique_names(found)


def _places(walk: Trace) -> dict[int, dict[tuple[str, int], list[int]]]:
    """For each representative: where its numbers stand, by (tensor, dimension)."""
    roots: dict[int, dict[tuple[str, int], list[int]]] = {}
    for tensor, dim in walk.roles:
        for position, number in enumerate(walk.stored[tensor].runs[dim].tolist()):
            places = roots.setdefault(walk.numbers.root(number), {})
            places.setdefault((tensor, dim), []).append(position)
    return roots


def _axis(walk: Trace, units: Sequence[dict[tuple[str, int], list[int]]], reason: str) -> Axis:
    members = tuple(
        Member(tensor, dim, torch.tensor([unit[tensor, dim] for unit in units]), frozenset(walk.roles[tensor, dim]))
        for tensor, dim in units[0]
    )
    outs = [m for m in members if "out" in m.roles]
    ins = [m for m in members if "in" in m.roles]
    named = (outs or ins or members)[0]
    name = (named.module if outs or ins else named.tensor) or named.tensor
    name += " (input)" if ins and not outs else ""
    both = [m.tensor for m in ins if len(m.roles) > 1]
    if not reason and both:
        reason = f"{both[0]} both hands it out and reads it"
    if not reason and not outs:
        reason = "no layer hands it out"
    if not reason and not ins:
        reason = "no layer reads it"
    return Axis(name, len(units), members, not reason, reason)


def _with_unique_names(found: list[Axis]) -> list[Axis]:
    seen: dict[str, int] = {}
    named = []
    for axis in found:
        seen[axis.name] = seen.get(axis.name, 0) + 1
        named.append(axis if seen[axis.name] == 1 else replace(axis, name=f"{axis.name}:{seen[axis.name]}"))
    return named


def find_axis(found: Sequence[Axis], name: str) -> Axis:
    """Return the axis with this name, or the only one, of those that can grow, that a module of this name hands out.

    Raises:
        InputError: There is no such axis, or several, or it can't grow.
    """
    matches = [axis for axis in found if axis.name == name]
    matches = matches or [axis for axis in found if any(m.module == name for m in axis.producers)]
    if not matches:
        growable = ", ".join(axis.name for axis in found if axis.growable) or "none"
        raise InputError(f"no axis is called '{name}'; what can grow here: {growable}")
    growable_here = [axis for axis in matches if axis.growable]
    if not growable_here:
        raise InputError(f"axis '{name}' can't grow: {matches[0].reason}")
    if len(growable_here) > 1:
        raise InputError(f"'{name}' hands out several axes: choose one of {', '.join(a.name for a in growable_here)}")
    return growable_here[0]
