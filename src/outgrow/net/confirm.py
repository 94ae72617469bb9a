"""Confirm by running that an axis can grow, and find the sizes that modules keep in attributes beside their weights."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from outgrow.net.axis import Axis
from outgrow.net.edit import Edit
from outgrow.net.enlargement import widen
from outgrow.net.graph import rounding
from outgrow.net.inputs import Example, call
from outgrow.net.moves import PARTS
from outgrow.net.numbers import compact
from outgrow.net.preserve import (
    NoChance,
    change,
    frozen_state,
    outputs,
    outputs_before,
    sensitivity,
    tensors_in,
    tolerance,
)
from outgrow.net.setting import Scaled
from outgrow.net.trace import Shaped, Trace
from outgrow.net.widening import Widening

EXACT = 1e-10  # of the output's scale: rounding of sums in another order, where all values are float64
MOST_TRIES = 40  # runs of the model for one kind of axis


@dataclass(frozen=True, eq=False)
class Found:
    """An axis and the channel numbers that it is made of.

    Args:
        axis: The axis.
        roots: Representatives of its units.
    """

    axis: Axis
    roots: frozenset[int]


def confirmed(model: nn.Module, example: Example, trace: Trace, found: Sequence[Found]) -> list[Found]:
    """Confirm by running that axes can grow: one axis of each kind is widened by one unit.

    Where sizes may stand in the code, each kind is tried by itself and attributes are searched; at the end one axis of
    every kind is widened at once, in train and in eval mode.

    Args:
        model: As before when this returns.
        example: What to run it on.
        trace: Where the axes come from.
        found: The axes.

    Returns:
        The axes: with the attributes that have to be set, or fixed where the model fails with one more unit.
    """
    touched = [(shaped, trace.roots_in(shaped)) for shaped in trace.shaped]
    kinds: dict[tuple[object, ...], list[tuple[int, list[Shaped]]]] = {}
    for place, one in enumerate(found):
        if one.axis.growable:
            shaped = [s for s, roots in touched if not one.roots.isdisjoint(roots)]
            kinds.setdefault(_kind(model, one.axis, shaped), []).append((place, shaped))
    result = list(found)
    if not kinds:
        return result
    trial = _Trial(model, example, trace, [one.axis for one in found])
    for alike in kinds.values():
        first = result[alike[0][0]].axis
        if any(shaped for _, shaped in alike) or first.zero == "out" or (first.size == 1 and first.multiplicity > 1):
            searches = [_Search(trial, trace, result[place], shaped) for place, shaped in alike]
            for (place, _), search in zip(alike, searches, strict=True):
                axis = search.found() if search is searches[0] else search.like(searches[0])
                result[place] = replace(result[place], axis=axis)
    groups = [places for alike in kinds.values() if (places := [p for p, _ in alike if result[p].axis.growable])]
    if trial.failure([result[places[0]].axis for places in groups], 1, modes=(False, True)):
        for places in groups:
            failure = trial.failure([result[places[0]].axis], 1, modes=(False, True))
            for place in places if failure else ():
                result[place] = replace(result[place], axis=replace(result[place].axis, growable=False, reason=failure))
    return result


def _kind(model: nn.Module, axis: Axis, shaped: Sequence[Shaped]) -> tuple[object, ...]:
    """What makes axes alike: the same layers in the same roles, within the same modules, as in repeated blocks."""
    layers = (
        (type(model.get_submodule(m.module)), m.tensor.rpartition(".")[2], m.dim, m.index.shape, m.roles)
        for m in axis.members
    )
    return (*layers, *(type(model.get_submodule(path)) for s in shaped for path in s.modules))


class _Trial:
    """A model that is widened, run and put back."""

    def __init__(self, model: nn.Module, example: Example, trace: Trace, every: Sequence[Axis]) -> None:
        self.model, self._example, self._every = model, example, every
        self._tolerance = EXACT if rounding(trace.graph) <= torch.finfo(torch.float64).eps else tolerance(model)
        self._before: dict[bool, list[Tensor] | None] = {}

    def failure(self, axes: Sequence[Axis], units: int, modes: Sequence[bool] = (False,)) -> str:
        """Why the model does not do with more units on each of the axes, or an empty string."""
        more, at = "one more unit" if units == 1 else f"{units} more units", ""
        for mode in modes:
            if mode not in self._before:
                self._before[mode] = outputs_before(self.model, self._example, mode)
        try:
            with self._widened(axes, units) as edit:
                for mode in modes:
                    at = " in train mode" if mode else ""
                    before = self._before[mode]
                    moved = 0.0 if before is None else change(before, outputs(self.model, self._example, mode))
                    if not moved <= self._tolerance and not moved <= 10 * sensitivity(self.model, self._example):
                        return f"with {more} an output moves by {moved:.0e} of its scale{at}"
                if any(axis.zero == "out" and not self._learns(edit, axis) for axis in axes):
                    return "its new units would be zeros that never learn"
        except Exception as error:
            return f"with {more} the model fails{at}: {str(error).strip().partition(chr(10))[0]}"
        return ""

    @contextmanager
    def _widened(self, axes: Sequence[Axis], units: int) -> Iterator[Edit]:
        random = torch.Generator().manual_seed(0)
        edit = widen(self.model, self._every, [Widening(axis, units) for axis in axes], random)
        try:
            yield edit
        finally:
            edit.undo()

    def _learns(self, edit: Edit, axis: Axis) -> bool:
        """Whether a gradient reaches the zeros through which new units come in."""
        names = {member.tensor for member in axis.producers}
        rows = [c for c in edit.changes if c.name in names and c.new.requires_grad]
        with frozen_state(self.model), NoChance(), torch.enable_grad():
            values = [x for x in tensors_in(call(self.model.eval(), self._example)) if x.requires_grad]
            directions = [torch.linspace(1, 2, x.numel()).to(x).view_as(x) for x in values]
            grads = torch.autograd.grad(values, [c.new for c in rows], directions, allow_unused=True)
        old = [c.carry(torch.ones_like(c.old)) for c in rows]  # 0 where entries are new
        return any(
            bool((grad[mask == 0] != 0).any()) for grad, mask in zip(grads, old, strict=True) if grad is not None
        )


class _Search:
    """The search for the attributes of one axis."""

    def __init__(self, trial: _Trial, trace: Trace, one: Found, shaped: Sequence[Shaped]) -> None:
        self._trial, self.axis, self.shaped = trial, one.axis, shaped
        model = trial.model
        self.sizes = _sizes(trace, one, shaped)
        owners = [m.module for m in one.axis.members]
        stacks = [path for s in shaped for path in reversed(s.modules or ("",))]
        self.modules = list(dict.fromkeys([*stacks, *owners]))
        held = [
            (path, name, self.sizes[value])
            for path in self.modules
            for name, value in _ints(model, path)
            if value in self.sizes
        ]
        known = [Scaled(*one) for one in held]
        bare = {path for path in self.modules if not list(model.get_submodule(path).parameters(recurse=False))}
        self.candidates = [one for one in known if not _settles(model.get_submodule(one.module))]
        self.forced = [one for one in known if one.attribute in _COUNTS and one.module in bare]
        self.failure = ""

    def found(self) -> Axis:
        """Return the axis with the first attributes with which the model runs, or fixed."""
        for settings, runs in itertools.islice(itertools.product(self._ways(), self._layouts()), MOST_TRIES):
            members = tuple(replace(m, run=run) for m, run in zip(self.axis.members, runs, strict=True))
            axis = replace(self.axis, members=members, settings=(*self.forced, *settings))
            failure = self._failure(axis)
            if not failure:
                self.axis = self._needed(axis)
                return self.axis
            self.failure = self.failure or failure
        self.axis = replace(self.axis, growable=False, reason=self._reason(self.failure))
        return self.axis

    def _failure(self, axis: Axis) -> str:
        """Why the model does not do with more units; one may do by chance, so that three are tried too."""
        return self._trial.failure([axis], 1) or self._trial.failure([axis], 3)

    def _needed(self, axis: Axis) -> Axis:
        """The axis without attributes that merely have its size, such as the number of a token; heads stay."""
        for one in axis.settings:
            less = replace(axis, settings=tuple(other for other in axis.settings if other is not one))
            if (
                one not in self.forced
                and not _is_heads(one)
                and not self._trial.failure([less], 3, modes=(False, True))
            ):
                axis = less
        return axis

    def like(self, other: "_Search") -> Axis:
        """Return this axis with what was found for another one of its kind."""
        axis = other.axis
        if not axis.growable:
            return replace(self.axis, growable=False, reason=self._reason(other.failure))
        at = dict(zip(other.modules, self.modules, strict=False))
        owners = [(at.get(s.module), s.attribute) for s in axis.settings]
        known = {(c.module, c.attribute) for c in (*self.candidates, *self.forced)}
        alone = self.axis.size == 1  # one unit may be laid out in other ways than the one of another axis
        if alone or len(self.modules) != len(other.modules) or any(owner not in known for owner in owners):
            return self.found()
        members = zip(self.axis.members, axis.members, strict=True)
        return replace(
            self.axis,
            members=tuple(replace(mine, run=theirs.run) for mine, theirs in members),
            settings=tuple(replace(s, module=at[s.module]) for s in axis.settings),
        )

    def _reason(self, failure: str) -> str:
        sites = [s for s in self.shaped if s.cut] or list(self.shaped)
        if not sites:
            return f"it can't come in through zeros; {failure}"
        place = f"{sites[0].op} ({sites[0].where})" if sites[0].where else sites[0].op
        advice = "read the size off the weights there, or keep it in an int attribute of the module"
        return f"cut: {place} has a size of its own; {failure}; {advice}"

    def _layouts(self) -> list[tuple[int, ...]]:
        """How many entries of a unit may stand side by side, for each member.

        One unit alone does not tell where the next one goes: behind all its entries, or behind each, or each few.

        Returns:
            Layouts to try, each with a length of run for every member.
        """
        entries = [m.index.shape[1] for m in self.axis.members]
        few = min((count for count in entries if count > 1), default=0)
        if self.axis.size > 1 or not few:
            return [(0,) * len(entries)]
        likely = [0, 1, few]
        if any(site.op in PARTS for site in self.shaped):  # it stands once in each part
            likely = [few if few < max(entries) else 1, 1, few, 0]
        alike = [tuple(run if count > 1 else 0 for count in entries) for run in likely]
        each = itertools.product(*[(0, 1, few) if count > 1 else (0,) for count in entries])
        return list(dict.fromkeys([*alike, *itertools.islice(each, MOST_TRIES)]))

    def _ways(self) -> Iterator[tuple[Scaled, ...]]:
        """Sets of attributes to try, likely ones first."""
        heads = tuple(filter(_is_heads, self.candidates))
        seen: set[tuple[Scaled, ...]] = set()
        singles = [(c,) for c in self.candidates]
        for way in (heads, (), tuple(self.candidates), *singles, *itertools.combinations(self.candidates, 2)):
            if way not in seen:
                seen.add(way)
                yield way


def _sizes(trace: Trace, one: Found, shaped: Sequence[Shaped]) -> dict[int, int]:
    """For each size that the code may know of: by how much it grows with one unit."""
    sizes: dict[int, int] = {one.axis.size: 1}
    for member in one.axis.members:
        entries = member.index.shape[1]
        sizes.setdefault(one.axis.size * entries, entries)
    units = one.axis.size
    for site in shaped:
        (roots,) = compact(trace.numbers.roots(site.numbers))
        mine = torch.isin(roots, torch.tensor(sorted(one.roots)))
        for dim, size in enumerate(site.numbers.shape):
            lines = mine.movedim(dim, -1).reshape(-1, roots.shape[dim])
            line = int(lines.sum(1).argmax())  # one that meets the axis most often
            on = roots.movedim(dim, -1).reshape(-1, roots.shape[dim])[line][lines[line]]
            count = len(on) * size // roots.shape[dim]
            if len(on.unique()) == units and count % units == 0:
                sizes.setdefault(size, count // units)
    return {size: per for size, per in sizes.items() if size > 0}


_COUNTS = ("num_features", "num_channels", "num_groups")  # of norms without parameters, which no tensor tells


def _ints(model: nn.Module, path: str) -> Iterator[tuple[str, int]]:
    """Attributes of a module that are whole numbers, also those within its plain objects ("cfg.heads")."""
    for name, value in vars(model.get_submodule(path)).items():
        if type(value) is int:
            yield name, value
        elif is_dataclass(value) or isinstance(value, SimpleNamespace):
            yield from ((f"{name}.{key}", inner) for key, inner in vars(value).items() if type(inner) is int)


def _is_heads(one: Scaled) -> bool:
    """Whether an attribute is called a number of heads."""
    return re.search(r"heads?$", one.attribute) is not None


def _settles(module: nn.Module) -> bool:
    """Whether a module's sizes follow from its weights."""
    return type(module).__module__.startswith("torch.nn.modules")
