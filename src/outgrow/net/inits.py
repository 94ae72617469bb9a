"""What new units are at first: fresh or copied and read through zeros, or copies and twins that are read at once.

A layer reads units a_1..a_n through weights: y = sum_i w_i a_i. Two ways without zeros keep y for any activation:

    divided    a unit j that is as unit p in all it has, so that a_j = a_p, takes a share s_j of its outgoing weights:
               w_j = s_j w_p, and w_p becomes (1 - s_j - ..) w_p (Net2WiderNet, Chen et al., arXiv 1511.05641)
    twins      two new units that are equal in all they have, so that a_j = a_k, are read with opposite weights:
               w_j = v, w_k = -v

Behind zeros, `fresh` and `copied`, only these have a gradient in the first step; here all new weights have one.

Equal copies with equal shares would have equal gradients for ever. So shares are random: the gradient of a unit's
incoming weights is in proportion to its share, and copies part from the first step of SGD on. Under Adam, which sees no
constant factor, they part from the second on, when outgoing weights have moved by equal steps from unequal places.
Dropout parts them at once; what it then drops of a copy, or of one of a pair, is noise that was not there before.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.net.axis import Axis, Member
from outgrow.net.fresh import fresh_entries
from outgrow.net.surgery import tensors_of
from outgrow.net.widening import Copies, Widening

UNEVEN = 0.5  # weights of those that divide a unit are drawn from 1 +- this, then normed: 0.25 to 0.75 between two

Init = Callable[[nn.Module, Axis, int, torch.Generator | None], Widening]


def fresh(model: nn.Module, axis: Axis, units: int, generator: torch.Generator | None = None) -> Widening:
    """Return units that are drawn as a fresh layer's when they come in, with zero outgoing weights."""
    return Widening(axis, units)


def copied(model: nn.Module, axis: Axis, units: int, generator: torch.Generator | None = None) -> Widening:
    """Return copies of units at random, with zero outgoing weights: equal to their parents until these weights move."""
    tensors, chosen = tensors_of(model), torch.randint(axis.size, (units,), generator=generator)
    rows, channels = (
        {m.tensor: _taken(tensors[m.tensor], m.dim, m.index[chosen]) for m in members}
        for members in (axis.producers, [m for m in axis.with_role("channel") if "out" not in m.roles])
    )
    return Widening(axis, units, rows, channels)


def divided(model: nn.Module, axis: Axis, units: int, generator: torch.Generator | None = None) -> Widening:
    """Return copies of units at random, with replacement, that divide the outgoing weights of their parents among them.

    Args:
        model: Not read: weights are copied and divided when the units come in, those of averages by their own.
        axis: The axis, as the model has it now.
        units: How many.
        generator: Random source; torch's global one by default.

    Returns:
        The units. A parent and its k copies have 1 / (k + 1) of its outgoing weights each, times 0.5 to 1.5, normed.

    Raises:
        GrowthError: The axis is one of those whose outgoing weights can't be divided, see `undivided`.

    Examples:
        >>> from outgrow.net.axes import axes
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> copies = divided(model, axes(model, torch.zeros(1, 4))[0], 5).copies
        >>> total = copies.kept(3).index_add(0, copies.parents, copies.shares)
        >>> bool((copies.shares > 0).all() and (copies.kept(3) > 0).all() and torch.allclose(total, total.new_ones(3)))
        True
    """
    parents = torch.randint(axis.size, (units,), generator=generator)
    weights = 1 + UNEVEN * (2 * torch.rand(axis.size + units, dtype=torch.float64, generator=generator) - 1)
    own, new = weights[: axis.size], weights[axis.size :]
    return Widening(axis, units, copies=Copies(parents, new / own.index_add(0, parents, new)[parents]))


def twins(model: nn.Module, axis: Axis, units: int, generator: torch.Generator | None = None) -> Widening:
    """Return pairs of equal new units, drawn as a fresh layer's, with opposite random outgoing weights.

    Args:
        model: The model as it is now.
        axis: The axis, as the model has it now.
        units: How many; the last one of an odd number comes alone, with zero outgoing weights.
        generator: Random source; torch's global one by default.

    Returns:
        The units, pair after pair. Outgoing weights are uniform in +-1/sqrt(fan-in of the consumer after widening).

    Raises:
        GrowthError: The outgoing weights of the axis have to be zero or are used otherwise, too, see `undivided`; or a
            weight multiplies the axis with itself, so that opposite columns don't cancel.

    Examples:
        >>> from outgrow.net.axes import axes
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = twins(model, axes(model, torch.zeros(1, 4))[0], 2)
        >>> bool((found.columns["2.weight"].sum(1) == 0).all())
        True
    """
    tensors, reading = tensors_of(model), [member.tensor for member in axis.consumers]
    if twice := next((name for name in reading if reading.count(name) > 1), ""):
        raise GrowthError(
            f"{axis.name}: its new units can't be twins: {twice} multiplies them with each other; copy units"
        )

    def drawn(member: Member, role: str) -> Tensor:
        old, owner = tensors[member.tensor].detach(), model.get_submodule(member.module)
        shape = _halves(old, member, units)
        halves = fresh_entries(owner, member.tensor, old, shape, role, member.dim, generator)
        return _paired(halves, member, units)

    rows = {m.tensor: drawn(m, "out") for m in axis.producers}
    channels = {m.tensor: drawn(m, "channel") for m in axis.with_role("channel")}
    columns = {m.tensor: _opposite(tensors[m.tensor], m, units, generator) for m in axis.consumers}
    return Widening(axis, units, rows, channels, columns)


INITS: dict[str, Init] = {"fresh": fresh, "copy": copied, "net2net": divided, "twins": twins}
"""The ways in which new units can come in, by name."""


def _taken(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries of units [units, entries] along a dimension."""
    return tensor.detach().index_select(dim, index.flatten().to(tensor.device))


def _opposite(weight: Tensor, member: Member, units: int, generator: torch.Generator | None) -> Tensor:
    """Columns for pairs of units with opposite signs; zero for one that is left over."""
    size, entries = weight.shape[member.dim], member.index.shape[1]
    outputs = weight.shape[1 if member.dim == 0 else 0] if weight.ndim > 1 else 1
    fan_in = weight.numel() // outputs // size * (size + units * entries)
    values = (2 * torch.rand(_halves(weight, member, units), generator=generator) - 1) / math.sqrt(fan_in)
    signs = 1.0 - 2 * (torch.arange(units) % 2)
    signs[units // 2 * 2 :] = 0.0
    along = [-1 if dim == member.dim else 1 for dim in range(weight.ndim)]
    return _paired(values, member, units) * signs.repeat_interleave(entries).view(along)


def _halves(like: Tensor, member: Member, units: int) -> list[int]:
    """The shape of the entries of one unit of each pair."""
    shape = list(like.shape)
    shape[member.dim] = -(-units // 2) * member.index.shape[1]
    return shape


def _paired(halves: Tensor, member: Member, units: int) -> Tensor:
    """The entries of both units of each pair."""
    entries = member.index.shape[1]
    return _taken(halves, member.dim, torch.arange(units)[:, None] // 2 * entries + torch.arange(entries))
