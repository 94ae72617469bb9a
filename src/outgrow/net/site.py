"""Where a rule is applied: what every rule may ask of the walk, and what rules share."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from outgrow.net.numbers import Numbers, Stored, along, compact, steady

Bound = dict[str, Any]
Shape = tuple[int, ...]


class Site(Protocol):
    """Where a rule is applied: the numbers so far, and what the walk wants to know."""

    numbers: Numbers
    op: str
    target: Any

    def role(self, tensor: Stored, dim: int, role: str) -> None:
        """Note what a dimension of a stored tensor is for: `out`, `in` or `channel`."""

    def freeze(self, values: Any, why: str) -> None:
        """Pin every number in `values`, naming this op."""

    def note(self, values: Tensor) -> None:
        """Note that sizes in the code may stand behind the shape of these numbers, so that it has to be tried."""

    def grows(self, factors: Sequence[int]) -> int:
        """Return which of the parts that a dimension is cut into grows."""

    def rescale(self, tensor: Stored) -> None:
        """Note that a tensor holds the gains of an RMS norm, whose mean square runs over its channels."""


Rule = Callable[[Site, Bound, Shape], Any]


def plain(site: Site, value: Any, beside: Tensor | None = None) -> Any:
    """Turn stored tensors into plain operands, with the numbers of one dimension; the others are pinned.

    Args:
        site: Where.
        value: Stored tensors in any nesting.
        beside: What they meet place by place, if anything: its channels tell which dimension of theirs holds channels;
            else it is the last one longer than 1.

    Returns:
        The same nesting of plain numbers.
    """

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Stored):
            return leaf
        channels = _channel_dim(leaf, beside)
        for dim, run in enumerate(leaf.runs):
            if dim != channels:
                site.numbers.pin(run, "a parameter used as it is, along a dimension that is not its channels")
        if not leaf.runs:
            return torch.zeros((), dtype=torch.long)
        site.role(leaf, channels, "channel")
        if site.op in ("mul", "div"):
            site.role(leaf, channels, "scale")
        return leaf.spread(channels)

    return pytree.tree_map(convert, value, is_leaf=lambda leaf: isinstance(leaf, Stored))


def _channel_dim(tensor: Stored, beside: Tensor | None) -> int:
    if beside is not None:
        for dim in range(-1, -1 - min(len(tensor.shape), beside.ndim), -1):
            if tensor.shape[dim] > 1 and beside.shape[dim] > 1 and not steady(beside, dim):
                return dim % len(tensor.shape)
    return tensor.channel_dim


def blank(site: Site, bound: Bound, shape: Shape, why: str) -> Tensor:
    """Pin whatever enters and hand on no channels."""
    site.freeze(bound, why)
    return no_channels(shape)


def no_channels(shape: Shape) -> Tensor:
    """No channels, in some shape."""
    return torch.zeros((), dtype=torch.long).expand(shape)


def channels_along(site: Site, x: Tensor, dim: int) -> Tensor | None:
    """Return the numbers along a dimension [size], those that can't change left out where they stand in the way."""
    for view in (x, site.numbers.roots(x), site.numbers.free(x)):
        run = along(view, dim)
        if run is not None:
            return run
    return None


def join_places(site: Site, left: Tensor, right: Tensor) -> Tensor:
    """Join two operands place by place; one that is stretched over the channels of the other only stays single."""
    wide = torch.broadcast_shapes(left.shape, right.shape)
    if stretched(right, left):
        site.numbers.pin(right, f"{site.op} stretches its single channel over several")
        return left.expand(wide)
    if stretched(left, right):
        site.numbers.pin(left, f"{site.op} stretches its single channel over several")
        return right.expand(wide)
    a, b = compact(left.expand(wide), right.expand(wide))
    site.numbers.join(a, b, f"{site.op} with an input or a constant of as many channels")
    return site.numbers.roots(torch.where(a != 0, a, b)).expand(wide)


def stretched(small: Tensor, large: Tensor) -> bool:
    """Whether `small` is broadcast along a dimension along which the channels of `large` lie."""
    if small.numel() == 1:
        return large.numel() > 1 or not bool(small.any())
    sizes = (1,) * (large.ndim - small.ndim) + tuple(small.shape[max(small.ndim - large.ndim, 0) :])
    return any(size == 1 and not steady(large, dim) for dim, size in enumerate(sizes))


def crosses_channels(x: Tensor, dims: Sequence[int]) -> bool:
    """Whether channels lie along one of these dimensions; a single channel may lie along any dimension of size 1."""
    single = bool(x.any()) and all(steady(x, dim) for dim in range(x.ndim))
    return any(not steady(x, dim) or (single and x.shape[dim] == 1) for dim in dims)


def contract(site: Site, channels: Tensor, weight: Stored, dims: tuple[int, int], bias: Any) -> None:
    """Join what a weight contracts along `dims[0]`, and its bias with what it hands out along `dims[1]`."""
    site.numbers.join(channels, weight.runs[dims[0]], "it reads the input or a value that can't grow")
    site.role(weight, dims[1], "out")
    site.role(weight, dims[0], "in")
    if isinstance(bias, Stored):
        site.numbers.join(weight.runs[dims[1]], bias.runs[-1], "bias")
        site.role(bias, len(bias.runs) - 1, "channel")
