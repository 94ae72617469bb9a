"""Random units, and pools of units of several kinds, from which the trial takes the best together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from outgrow.grow.closed import closed
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch
from outgrow.grow.splitting import split
from outgrow.net.axis import Axis
from outgrow.net.fresh import fresh_entries
from outgrow.net.surgery import tensors_of
from outgrow.net.widening import Widening

POOL = 2  # units in a mixed pool for each one that is wanted: one closed form, half a split one, half a random one


def random(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose units that are drawn as a fresh layer's, when they are put on trial: no pass over the sample."""
    return [Widening(axis, count) for axis, count in units.items()]


def suited(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose random units behind a norm; elsewhere random ones as long as those that are there, and split ones.

    Without a norm, a fresh row is short beside rows that have been trained, and is hardly heard; so half of the units
    (at least one) are random rows of the mean length of the present ones, the others copies with noise. Behind a norm
    the length of a row says nothing, but a short one turns faster, as a newborn should.

    Returns:
        The units of each axis, in the order of `units`.
    """
    scaled = {axis: count for axis, count in units.items() if is_scaled(model, axis)}
    halves = {axis: count // 2 for axis, count in units.items() if axis not in scaled}
    copies = split(model, halves, batches, objective, generator) if any(halves.values()) else []
    found = {axis: Widening(axis, count) for axis, count in scaled.items()}
    for axis in halves:
        found[axis] = _as_long(model, drawn(model, Widening(axis, units[axis] - halves[axis]), generator))
    for one in copies:
        if one.units:
            found[one.axis] = pooled([found[one.axis], drawn(model, one, generator)])
    return [found[axis] for axis in units]


def _as_long(model: nn.Module, widening: Widening) -> Widening:
    """Units drawn in full, each row of weights as long as the present ones on average."""
    tensors = tensors_of(model)
    return replace(
        widening,
        rows={m.tensor: _scaled(widening.rows[m.tensor], tensors[m.tensor], m.dim) for m in widening.axis.producers},
    )


def _scaled(rows: Tensor, present: Tensor, dim: int) -> Tensor:
    """Rows along a dimension, as long as the present ones on average; a vector stays as it is."""
    if rows.ndim < 2:
        return rows
    others = [d for d in range(rows.ndim) if d != dim]
    lengths, wanted = (torch.linalg.vector_norm(t, dim=others, keepdim=True) for t in (rows, present.detach().to(rows)))
    return rows * (wanted.mean() / lengths.clamp_min(torch.finfo(rows.dtype).tiny))


def is_scaled(model: nn.Module, axis: Axis) -> bool:
    """Return whether a norm with statistics of channels or of groups of them scales an axis."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    return any(isinstance(model.get_submodule(member.module), norms) for member in axis.with_role("channel"))


def mixed(
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose `POOL` times as many units: the closed form's, split ones and random ones."""
    halves = {axis: count // 2 for axis, count in units.items()}
    kinds = [
        closed(model, units, batches, objective, generator),
        split(model, halves, batches, objective, generator),
        random(model, {axis: POOL * n - n - halves[axis] for axis, n in units.items()}, batches, objective, generator),
    ]
    return [pooled([drawn(model, one, generator) for one in parts]) for parts in zip(*kinds, strict=True)]


def drawn(model: nn.Module, widening: Widening, generator: torch.Generator) -> Widening:
    """Return a widening with everything that it leaves open drawn as for a fresh layer."""
    axis, tensors = widening.axis, tensors_of(model)

    def fresh(role: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = dict(given)
        for member in axis.with_role(role):
            if member.tensor not in values:
                old, owner = tensors[member.tensor].detach(), model.get_submodule(member.module)
                shape = [*old.shape]
                shape[member.dim] = widening.units * member.index.shape[1]
                values[member.tensor] = fresh_entries(owner, member.tensor, old, shape, role, member.dim, generator)
        return values

    return Widening(axis, widening.units, fresh("out", widening.rows), fresh("channel", widening.channels))


def pooled(widenings: Sequence[Widening]) -> Widening:
    """Return the units of several widenings of one axis, drawn in full, as one widening."""
    axis = widenings[0].axis

    def together(role: str, of: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {
            member.tensor: torch.cat([values[member.tensor].to(of[0][member.tensor]) for values in of], member.dim)
            for member in axis.with_role(role)
        }

    return Widening(
        axis,
        sum(one.units for one in widenings),
        together("out", [one.rows for one in widenings]),
        together("channel", [one.channels for one in widenings]),
    )
