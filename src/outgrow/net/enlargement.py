"""Larger tensors in place of the old ones, with the maps that say where every old entry went."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from outgrow.net.axis import Axis, Member
from outgrow.net.edit import Change, Edit, grid
from outgrow.net.fresh import fresh_entries
from outgrow.net.plan import TensorPlan, plans_of
from outgrow.net.resizing import resized_
from outgrow.net.surgery import replace_, tensors_of
from outgrow.net.widening import Widening


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
    plans = plans_of(widenings, present)
    changes = []
    for name, plan in plans.items():
        grown = _enlarged(present[name].detach(), plan, owners[name], generator)
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
            Change(name, old, after[name], plan.keep, scale=plan.scale, division=plan.division)
            for name, old, _, plan in changes
        ),
        [_regrown(axis, plans) for axis in found],
        settings=settings,
        model=model,
    )
    edit.on_undo(put_back)
    edit.on_undo(settings_back)
    return edit


def _enlarged(old: Tensor, plan: TensorPlan, owner: nn.Module, generator: torch.Generator | None) -> Tensor:
    grown = old.new_zeros(plan.shape)
    for role in ("channel", "in", "out"):
        for room in plan.rooms:
            widening, member = room.widening, room.member
            if role not in member.roles or not _comes_in(widening, member, role, owner):
                continue
            where = list(plan.keep)
            where[member.dim] = room.places.reshape(-1)
            shape = [len(index) for index in where]
            given = (widening.rows if role == "out" else {**widening.channels, **widening.columns}).get(plan.name)
            if given is None:
                given = fresh_entries(owner, plan.name, old, shape, role, member.dim, generator)
            grown[grid(where)] = given.to(grown).reshape(shape)
    grown[grid(plan.keep)] = old
    if plan.division:
        plan.division.into_(grown, old)
    return grown * plan.scale if plan.scale != 1.0 else grown


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


def _regrown(axis: Axis, plans: Mapping[str, TensorPlan]) -> Axis:
    """The axis as it is after the edit."""
    members = []
    for member in axis.members:
        plan = plans.get(member.tensor)
        index = member.index
        if plan is not None:
            index = plan.keep[member.dim][index]
            new = [room.places for room in plan.rooms if room.member is member]
            index = torch.cat([index, *new])
        members.append(replace(member, index=index))
    return replace(axis, members=tuple(members), size=len(members[0].index))
