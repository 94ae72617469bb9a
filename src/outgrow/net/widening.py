"""Widenings: larger tensors in place of the old ones, with the maps that say where every old entry went."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.net.axis import Axis, Member
from outgrow.net.edit import Change, Division, Edit, grid
from outgrow.net.gains import Gain
from outgrow.net.setting import Setting, apply_settings_
from outgrow.net.surgery import replace_, tensors_of


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


@dataclass(frozen=True)
class _Insertion:
    """New places along one dimension of one tensor, for one axis."""

    widening: Widening
    member: Member
    places: Tensor  # [units, entries] in the new tensor

    def divide_(self, origins: Tensor, shares: Tensor, keep: Tensor) -> None:
        """Note the places that are copied and divided, among those of the dimension [size]; see `Division`."""
        copies, index = self.widening.copies, self.member.index
        if copies is None:
            return
        origins[self.places] = index[copies.parents]
        if "in" in self.member.roles:
            shares[keep[index]] = copies.kept(len(index))[:, None]
            shares[self.places] = copies.shares.double()[:, None]


def widen(
    model: nn.Module, found: Sequence[Axis], widenings: Sequence[Widening], generator: torch.Generator | None = None
) -> Edit:
    """Add units on several axes of a model at once, in place, without changing what it computes.

    New columns of every consumer are zero, or given such that they cancel, or a share of those of the unit that is
    copied; rows of producers are given, copied, or drawn as `torch.nn` draws fresh layers. A new unit does not read
    those that come in with it, unless both are copies.

    Args:
        model: Changed in place: new Parameters, the same modules.
        found: All axes of the model as it is now.
        widenings: The units; at most one entry for each axis.
        generator: Random source of rows that are not given; torch's global one by default.

    Returns:
        The edit, not yet verified.
    """
    present = tensors_of(model)
    owners = {
        f"{path}.{key}" if path else key: module
        for path, module in model.named_modules()
        for key in (*module._parameters, *module._buffers)
    }
    widenings = [widening for widening in widenings if widening.units > 0]
    plans = _plans(widenings, present)
    changes = []
    for name, plan in plans.items():
        grown = _grow(present[name].detach(), plan, name, owners[name], generator)
        changes.append((name, present[name], grown, plan))
    put_back = replace_(model, {name: grown for name, _, grown, _ in changes})
    after = tensors_of(model)
    try:
        settings, settings_back = resized_(model, [(w.axis, w.units) for w in widenings])
    except Exception:
        put_back()
        raise
    edit = Edit(
        "widening " + ", ".join(f"{w.axis.name} by {w.units}" for w in widenings),
        tuple(
            Change(name, old, after[name], plan.keep, scale=plan.scale(name), division=plan.division())
            for name, old, _, plan in changes
        ),
        [_regrown(axis, plans) for axis in found],
        settings=settings,
        model=model,
    )
    edit.on_undo(put_back)
    edit.on_undo(settings_back)
    return edit


def resized_(model: nn.Module, resizes: Sequence[tuple[Axis, int]]) -> tuple[tuple[Setting, ...], Callable[[], None]]:
    """Set the attributes that change with axes: numbers of heads and the like, and the eps of RMS norms.

    Args:
        model: Changed in place.
        resizes: Axes as they were, and how many units each has more, negative for fewer.

    Returns:
        What was set, and a function that puts the old values back.
    """
    done: list[Setting] = []
    undo: list[Callable[[], None]] = []

    def put_back() -> None:
        while undo:
            undo.pop()()

    try:
        for axis, units in resizes:
            scaled = [scaled.after(model, units) for scaled in axis.settings]
            epsilons = [
                Setting(
                    gain.module, gain.attribute, gain.eps_now(model) * Gain.factor(axis.size, axis.size + units) ** 2
                )
                for gain in axis.gains
                if gain.attribute
            ]
            undo.append(apply_settings_(model, [*scaled, *epsilons]))
            done += [*scaled, *epsilons]
    except Exception:
        put_back()
        raise
    return tuple(done), put_back


@dataclass
class _Plan:
    """What happens to one tensor: where old entries go, and what is inserted along each dimension."""

    keep: tuple[Tensor, ...]
    shape: list[int]
    insertions: list[_Insertion]

    def scale(self, name: str) -> float:
        """What gains of RMS norms are multiplied with, to make up for the channels of zeros."""
        pairs = [(insertion.widening.axis, insertion.widening.units) for insertion in self.insertions]
        return math.prod(
            Gain.factor(axis.size, axis.size + units)
            for axis, units in pairs
            if any(gain.tensor == name for gain in axis.gains)
        )

    def division(self) -> Division | None:
        """What is copied and divided; None without copies."""
        if all(insertion.widening.copies is None for insertion in self.insertions):
            return None
        origins = tuple(torch.full((size,), -1) for size in self.shape)
        shares = tuple(torch.ones(size, dtype=torch.float64) for size in self.shape)
        for origin, keep in zip(origins, self.keep, strict=True):
            origin[keep] = torch.arange(len(keep))
        for insertion in self.insertions:
            dim = insertion.member.dim
            insertion.divide_(origins[dim], shares[dim], self.keep[dim])
        return Division(origins, shares)


def _plans(widenings: Sequence[Widening], present: Mapping[str, Tensor]) -> dict[str, _Plan]:
    touched: dict[str, dict[int, list[tuple[Widening, Member]]]] = {}
    for widening in widenings:
        for member in widening.axis.members:
            touched.setdefault(member.tensor, {}).setdefault(member.dim, []).append((widening, member))
    plans = {}
    for name, dims in touched.items():
        shape = list(present[name].shape)
        keep = [torch.arange(size) for size in shape]
        insertions = []
        for dim, pairs in dims.items():
            keep[dim], shape[dim], made = _insert(shape[dim], pairs)
            insertions += made
        plans[name] = _Plan(tuple(keep), shape, insertions)
    return plans


def _insert(size: int, pairs: Sequence[tuple[Widening, Member]]) -> tuple[Tensor, int, list[_Insertion]]:
    """Insert each axis's new units behind its last unit, in every run of places that unit has along the dimension."""
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
        made.append(_Insertion(widening, member, places))
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


def _grow(old: Tensor, plan: _Plan, name: str, owner: nn.Module, generator: torch.Generator | None) -> Tensor:
    grown = old.new_zeros(plan.shape)
    for role in ("channel", "in", "out"):
        for insertion in plan.insertions:
            widening, member = insertion.widening, insertion.member
            if role not in member.roles or not _comes_in(widening, member, role, owner):
                continue
            where = list(plan.keep)
            where[member.dim] = insertion.places.reshape(-1)
            shape = [len(index) for index in where]
            given = (widening.rows if role == "out" else {**widening.channels, **widening.columns}).get(name)
            if given is None:
                given = fresh_entries(owner, name, old, shape, role, member.dim, generator)
            grown[grid(where)] = given.to(grown).reshape(shape)
    grown[grid(plan.keep)] = old
    if division := plan.division():
        division.into_(grown, old)
    return grown * plan.scale(name) if plan.scale(name) != 1.0 else grown


def _comes_in(widening: Widening, member: Member, role: str, owner: nn.Module) -> bool:
    """Whether new entries have values of their own, and are not the zeros through which the new units come in.

    Those of copies are neither: they are taken from the present entries last of all.

    Args:
        widening: The units.
        member: The dimension along which they are new.
        role: What the dimension is for.
        owner: The module that has the tensor.

    Returns:
        Whether they are given or drawn.
    """
    axis = widening.axis
    if widening.copies is not None:
        return False
    if axis.zero == "in":
        return role != "in" or member.tensor in widening.columns
    if role == "in":
        return "out" not in member.roles
    gains = any(gain.tensor == member.tensor for gain in axis.gains)
    return role == "channel" and (
        "scale" in member.roles or gains or isinstance(owner, (nn.modules.batchnorm._NormBase, nn.PReLU))
    )


_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def fresh_entries(
    owner: nn.Module,
    name: str,
    old: Tensor,
    shape: Sequence[int],
    role: str,
    dim: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Return starting values [shape] of new entries of a tensor, as a fresh layer of its kind would have them.

    Args:
        owner: The module that has the tensor.
        name: The tensor's name; its last part says what it is.
        old: The tensor before.
        shape: Shape of the new entries.
        role: `out` for rows of weights, `in` for columns, `channel` for one entry a channel.
        dim: The dimension of the tensor along which they are new.
        generator: Random source; torch's global one by default.

    Returns:
        Uniform in +-1/sqrt(fan-in) for rows and filters of weights and for biases of layers; gain 1, shift 0, mean 0
        and variance 1 for norms; the mean of the present entries for anything else.
    """
    kind = name.rpartition(".")[2]
    if isinstance(owner, nn.modules.batchnorm._NormBase):
        return torch.full(list(shape), 1.0 if kind in ("weight", "running_var") else 0.0)
    if role == "out" and isinstance(owner, nn.Embedding):
        rows = torch.randn(list(shape), generator=generator) * old.float().std().cpu()
        if owner.padding_idx is not None:
            rows[owner.padding_idx] = 0.0
        return rows
    weight = getattr(owner, "weight", None) if kind == "bias" else old
    if isinstance(weight, Tensor) and weight.ndim > 1 and (role != "channel" or isinstance(owner, _LAYERS)):
        fan_in = weight.numel() // weight.shape[dim if role == "out" else 0]
        return (torch.rand(list(shape), generator=generator) * 2 - 1) / math.sqrt(max(fan_in, 1))
    return old.float().mean().cpu().expand(list(shape))


def _regrown(axis: Axis, plans: Mapping[str, _Plan]) -> Axis:
    """The axis as it is after the edit."""
    members = []
    for member in axis.members:
        plan = plans.get(member.tensor)
        index = member.index
        if plan is not None:
            index = plan.keep[member.dim][index]
            new = [i.places for i in plan.insertions if i.member is member]
            index = torch.cat([index, *new])
        members.append(replace(member, index=index))
    return replace(axis, members=tuple(members), size=len(members[0].index))
