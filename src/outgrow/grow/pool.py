"""Random units, and pools of units of several kinds, from which the trial takes the best together."""

from collections.abc import Mapping, Sequence

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
