"""Find the axes of a model: what can grow, what is fixed and why."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from outgrow.errors import GrowthError
from outgrow.net.axis import Axis as Axis
from outgrow.net.axis import Member as Member
from outgrow.net.confirm import Found, confirmed
from outgrow.net.graph import Graph, graph_of
from outgrow.net.inputs import Example, check_kind
from outgrow.net.notice import warn
from outgrow.net.preserve import lively
from outgrow.net.surgery import tensors_of
from outgrow.net.trace import Trace, walk


def axes(model: nn.Module, example: Example) -> list[Axis]:
    """Find every axis of a model: what can grow, what is fixed and why.

    The model's graph is run once on channel numbers (architecture.md, decision 1). Where sizes that stand in the code
    may be in the way, such as a number of heads, one axis of each kind is widened by one unit, run and undone.

    Args:
        model: Any module; it is as before when this returns.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        The axes in the order of the graph.

    Raises:
        GrowthError: The model does not run on this example, or is scripted or wrapped.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> for axis in axes(model, torch.zeros(1, 4)):
        ...     print(axis)
        0: 3 units in 0.weight[0], 0.bias[0], 2.weight[1]
        0 (input): 4 units in 0.weight[1] (fixed: it reads the input or a value that can't grow)
        2: 2 units in 2.weight[0], 2.bias[0] (fixed: it is an output of the network)
    """
    check_kind(model)
    example = lively(model, example)
    graph = graph_of(model, example)
    cuts = Cuts()
    while True:
        found = walk(model, graph, cuts.choices)
        known = confirmed(model, example, found, axes_of(found))
        if cuts.done(found, known):
            _warn_of_unseen(model, graph, [one.axis for one in known if one.axis.growable])
            return [_learning(model, one.axis) for one in known]


def _learning(model: nn.Module, axis: Axis) -> Axis:
    """The axis; fixed where the weights through which new units would come in are all frozen."""
    gates = {member.tensor for member in (axis.consumers if axis.zero == "in" else axis.producers)}
    tensors = tensors_of(model)
    if not axis.growable or any(tensors[name].requires_grad for name in gates):
        return axis
    return replace(axis, growable=False, reason=f"{', '.join(sorted(gates))} does not require gradients")


def _warn_of_unseen(model: nn.Module, graph: Graph, growable: Sequence[Axis]) -> None:
    """Say which parameters the pass has not met that other branches may have beside what grows, by their sizes."""
    tensors, met = tensors_of(model), {name for node, name in graph.stored.items() if node.users}
    sizes = {tensors[member.tensor].shape[member.dim] for axis in growable for member in axis.members}
    unseen = [name for name, p in model.named_parameters() if name not in met and not sizes.isdisjoint(p.shape)]
    if unseen:
        warn(
            f"{type(model).__name__}: this example did not use {', '.join(unseen[:4])}; what reads a grown axis there "
            f"does not grow along"
        )


class Cuts:
    """Which part of each cut of channels into parts grows: the first likely one that lets more than one unit grow.

    Attributes:
        choices: The one to take next, by the key of the cut.
    """

    def __init__(self) -> None:
        self.choices: dict[str, int] = {}
        self._units: dict[str, dict[int, int]] = {}

    def done(self, found: Trace, known: Sequence[Found]) -> bool:
        """Note how many units each choice gives, and choose anew; False where that changes anything."""
        before = dict(self.choices)
        units = _units_by_cut(found, known)
        for key, ways in found.cuts.items():
            tried = self._units.setdefault(key, {})
            tried[before.get(key, 0)] = units.get(key, 0)
            untried = [choice for choice in range(ways) if choice not in tried]
            best = max(tried, key=lambda choice: (tried[choice], -choice))
            self.choices[key] = untried[0] if tried[best] <= 1 and untried else best
        return all(self.choices[key] == before.get(key, 0) for key in found.cuts)


def _units_by_cut(found: Trace, known: Sequence[Found]) -> dict[str, int]:
    """The most units of an axis that can grow and goes through a cut."""
    sizes = {root: one.axis.size for one in known if one.axis.growable for root in one.roots}
    units: dict[str, int] = {}
    for shaped in found.shaped:
        if shaped.cut:
            here = max((sizes.get(root, 0) for root in found.roots_in(shaped)), default=0)
            units[shaped.cut] = max(units.get(shaped.cut, 0), here)
    return units


def axes_of(found: Trace) -> list[Found]:
    """Group joined channel numbers into axes: units with the same places belong to one axis."""
    roots = _places(found)
    reasons = found.numbers.reasons()
    groups: dict[tuple[object, ...], list[int]] = {}
    for root, places in roots.items():
        signature = tuple((tensor, dim, len(at)) for (tensor, dim), at in places.items())
        groups.setdefault((signature, root in reasons), []).append(root)
    known = [
        Found(_axis(found, [roots[root] for root in group], reasons.get(group[0], "")), frozenset(group))
        for group in groups.values()
    ]
    return _with_unique_names(known)


def _places(found: Trace) -> dict[int, dict[tuple[str, int], list[int]]]:
    """For each representative: where its numbers stand, by (tensor, dimension)."""
    roots: dict[int, dict[tuple[str, int], list[int]]] = {}
    for tensor, dim in found.roles:
        for position, number in enumerate(found.stored[tensor].runs[dim].tolist()):
            places = roots.setdefault(found.numbers.root(number), {})
            places.setdefault((tensor, dim), []).append(position)
    return roots


def _axis(found: Trace, units: Sequence[dict[tuple[str, int], list[int]]], reason: str) -> Axis:
    members = tuple(
        Member(tensor, dim, torch.tensor([unit[tensor, dim] for unit in units]), frozenset(found.roles[tensor, dim]))
        for tensor, dim in units[0]
    )
    outs = [m for m in members if "out" in m.roles]
    ins = [m for m in members if "in" in m.roles]
    named = (outs or ins or members)[0]
    name = (named.module if outs or ins else named.tensor) or named.tensor
    name = name.partition(".parametrizations.")[0]
    name += " (input)" if ins and not outs else ""
    gains = tuple(found.gains[m.tensor] for m in members if m.tensor in found.gains)
    both = any(len(m.roles) > 1 for m in ins)  # a tied weight: its columns can't be zero for one and not for the other
    if not reason and not outs:
        reason = "no layer hands it out"
    if not reason and not ins:
        reason = "no layer reads it"
    if not reason and both and all("out" in m.roles for m in ins):
        reason = f"{ins[0].tensor} both hands it out and reads it, so that new weights would be zeros that never learn"
    return Axis(name, len(units), members, not reason, reason, gains=gains, zero="out" if gains or both else "in")


def _with_unique_names(known: list[Found]) -> list[Found]:
    seen: dict[str, int] = {}
    named = []
    for one in known:
        name = one.axis.name
        seen[name] = seen.get(name, 0) + 1
        axis = one.axis if seen[name] == 1 else replace(one.axis, name=f"{name}:{seen[name]}")
        named.append(replace(one, axis=axis))
    return named


def find_axis(found: Sequence[Axis], name: str) -> Axis:
    """Return the axis with this name, or the only one, of those that can grow, that has a member of this name.

    Args:
        found: The axes of a model.
        name: Name of an axis, or of a module or tensor along which it lies; what hands an axis out comes before what
            reads it or has one entry for each channel.

    Returns:
        The axis.

    Raises:
        GrowthError: There is no such axis, or several, or it can't grow.
    """
    ways = (
        [axis for axis in found if axis.name == name],
        [axis for axis in found if any(name in (m.module, m.tensor) for m in axis.producers)],
        [axis for axis in found if any(name in (m.module, m.tensor) for m in axis.members)],
    )
    matches = next((way for way in ways if way), [])
    if not matches:
        growable = ", ".join(axis.name for axis in found if axis.growable) or "none"
        raise GrowthError(f"no axis is called '{name}'; what can grow here: {growable}")
    growable_here = [axis for axis in matches if axis.growable]
    if not growable_here:
        raise GrowthError(f"axis '{name}' can't grow: {matches[0].reason}")
    if len(growable_here) > 1:
        raise GrowthError(f"'{name}' is part of several axes: choose one of {', '.join(a.name for a in growable_here)}")
    return growable_here[0]
