"""What each operation does to channel numbers: one table from op to rule.

move    moves data: executed on the numbers as it would be on the values
part    cuts in equal parts, which must stay equal: joins them
turn    changes the order along a dimension: fine over positions, pins over channels
join    works place by place, on one value or several: what meets must grow together
gate    joins the two halves of one dimension
mix     contracts channels (linear, convolution): joins what it contracts, hands out its weight's numbers
norm    has a parameter for each channel: joins them
pool    combines positions, which all carry the same numbers
reduce  sums some dimensions away: fine over positions, pins over channels
pin     depends on how many channels there are: its channels can't grow

An op that is not in the table pins whatever enters it, and says so.
"""

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


Rule = Callable[[Site, Bound, Shape], Any]


def plain(site: Site, value: Any) -> Any:
    """Turn stored tensors into plain operands, whose channels are their last dimension longer than 1."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Stored):
            return leaf
        for dim, run in enumerate(leaf.runs):
            if dim != leaf.channel_dim:
                site.numbers.pin(run, "a parameter used as it is, along a dimension that is not its channels")
        site.role(leaf, leaf.channel_dim, "channel")
        return leaf.spread()

    return pytree.tree_map(convert, value, is_leaf=lambda leaf: isinstance(leaf, Stored))


def move(site: Site, bound: Bound, shape: Shape) -> Any:
    """Run the op itself on the numbers."""
    bound = plain(site, bound)
    if site.op in ("view", "reshape", "_unsafe_view"):
        return bound["self"].reshape(shape)
    return site.target(**bound)


def part(site: Site, bound: Bound, shape: Shape) -> Any:
    """Cut a dimension: parts of equal size must stay equal, or the cuts would fall elsewhere."""
    parts = move(site, bound, shape)
    if len({piece.shape for piece in parts}) == 1:
        for piece in parts[1:]:
            site.numbers.join(parts[0], piece, f"{site.op} puts it beside an input or a constant")
    return parts


def turn(site: Site, bound: Bound, shape: Shape) -> Any:
    """Flip or roll: a new last channel would not stay the last."""
    x = plain(site, bound["self"])
    if crosses_channels(x, bound.get("dims") or range(x.ndim)):
        return blank(site, bound, shape, "it changes the order of channels")
    return move(site, bound, shape)


def join(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Join the operands place by place; one that is stretched over the channels of another only stays single."""
    operands = [v for v in plain(site, list(bound.values())) if isinstance(v, Tensor)]
    result = operands[0]
    for operand in operands[1:]:
        wide = torch.broadcast_shapes(result.shape, operand.shape)
        if stretched(operand, result):
            site.numbers.pin(operand, f"{site.op} stretches its single channel over several")
        elif stretched(result, operand):
            site.numbers.pin(result, f"{site.op} stretches its single channel over several")
            result = operand
        else:
            left, right = compact(result.expand(wide), operand.expand(wide))
            site.numbers.join(left, right, f"{site.op} with an input or a constant of as many channels")
            result = site.numbers.roots(torch.where(left != 0, left, right))
        result = result.expand(wide)
    return result.expand(shape)


def stretched(small: Tensor, large: Tensor) -> bool:
    """Whether `small` is broadcast along a dimension along which the channels of `large` lie."""
    if small.numel() == 1:
        return large.numel() > 1 or not bool(small.any())
    sizes = (1,) * (large.ndim - small.ndim) + tuple(small.shape[-large.ndim :])
    return any(size == 1 and not steady(large, dim) for dim, size in enumerate(sizes))


def gate(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Gated linear unit: the first half of a dimension times the sigmoid of the second."""
    values, gates = plain(site, bound["self"]).chunk(2, bound.get("dim", -1))
    return join(site, {"values": values, "gates": gates}, shape)


def linear(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Y = x W^T + b: joins x's last dimension with W's columns and hands out W's rows."""
    x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "its weight is computed")
    channels = along(plain(site, x), -1)
    if channels is None:
        return blank(site, bound, shape, "it mixes positions, or channels that differ between positions")
    mix(site, channels, weight, bias)
    return weight.runs[0].expand(shape)


def convolution(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Convolution over positions: joins the input's channels with the weight's columns and hands out its rows."""
    x, weight, bias, groups = plain(site, bound["input"]), bound["weight"], bound.get("bias"), bound.get("groups", 1)
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "its weight is computed")
    dim = x.ndim - len(weight.runs) + 1  # 1, or 0 without a dimension of examples
    channels = along(x, dim)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    if groups == 1:
        mix(site, channels, weight, bias)
    elif groups == len(channels) == len(weight.runs[0]):
        site.numbers.join(channels, weight.runs[0], "convolved with an input")
        for tensor in (weight, bias):
            if isinstance(tensor, Stored):
                site.numbers.join(weight.runs[0], tensor.runs[0], "bias")
                site.role(tensor, 0, "channel")
    else:
        return blank(site, bound, shape, f"it has {groups} groups")
    return weight.runs[0].view([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)


def mix(site: Site, channels: Tensor, weight: Stored, bias: Any) -> None:
    """Join what a weight contracts, and its bias with its rows."""
    site.numbers.join(channels, weight.runs[1], "it reads the input or a value that can't grow")
    site.role(weight, 0, "out")
    site.role(weight, 1, "in")
    if isinstance(bias, Stored):
        site.numbers.join(weight.runs[0], bias.runs[0], "bias")
        site.role(bias, 0, "channel")


def norm(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """A norm with statistics for each channel (dimension 1): joins its parameters and buffers."""
    x = plain(site, bound["input"])
    channels = along(x, 1)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    for key in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(tensor := bound.get(key), Stored):
            site.numbers.join(channels, tensor.runs[0], "normalises the input")
            site.role(tensor, 0, "channel")
    return x


def prelu(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """PReLU: one slope for all channels, or one for each of dimension 1."""
    x, weight = plain(site, bound["self"]), bound["weight"]
    channels = along(x, 1)
    if not isinstance(weight, Stored) or channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    if len(weight.runs[0]) > 1 or len(channels) == 1:
        site.numbers.join(channels, weight.runs[0], "PReLU of the input")
        site.role(weight, 0, "channel")
    return x


def embedding(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Rows of a table: the number of rows is set by the data, their length is an axis."""
    weight = bound["weight"]
    site.numbers.pin(weight.runs[0], "the size of a vocabulary")
    site.role(weight, 1, "out")
    return weight.runs[1].expand(shape)


def pool(site: Site, bound: Bound, shape: Shape) -> Tensor | list[Tensor]:
    """Combine positions behind the first two dimensions; each channel keeps its number. Some hand out places, too."""
    x = plain(site, next(iter(bound.values())))
    trailing = range(2, x.ndim)
    if not all(steady(x, dim) for dim in trailing):
        return blank(site, bound, shape, "its channels differ between positions")
    if x.shape[:2] != shape[:2]:
        return blank(site, bound, shape, "it changes the number of channels")
    for dim in trailing:
        x = x.narrow(dim, 0, 1)
    results = len(site.target._schema.returns)
    return x.expand(shape) if results == 1 else [x.expand(shape), *[torch.zeros_like(x).expand(shape)] * (results - 1)]


def reduce(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Sum dimensions away; over channels the result would depend on their number, so they are pinned."""
    x = plain(site, next(iter(bound.values())))
    dims = bound.get("dim")
    dims = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    dims = [dim % x.ndim for dim in dims]
    if crosses_channels(x, dims):
        return blank(site, bound, shape, "it sums over channels")
    for dim in sorted(dims, reverse=True):
        x = x.select(dim, 0)
    return x.reshape(shape) if x.numel() else torch.zeros(shape, dtype=torch.long)


def crosses_channels(x: Tensor, dims: Sequence[int]) -> bool:
    """Whether channels lie along one of these dimensions; a single channel may lie along any dimension of size 1."""
    single = bool(x.any()) and all(steady(x, dim) for dim in range(x.ndim))
    return any(not steady(x, dim) or (single and x.shape[dim] == 1) for dim in dims)


def softmax(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Softmax: fine over positions, pins over channels."""
    x = plain(site, next(iter(bound.values())))
    if crosses_channels(x, [bound["dim"] % x.ndim]):
        return blank(site, bound, shape, "it normalises over channels")
    return x


def pin(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Pin what enters: the value of each channel depends on how many there are."""
    return blank(site, bound, shape, "what it computes depends on how many channels there are")


def skip(site: Site, bound: Bound, shape: Shape) -> None:
    """Assertions and the like: nothing flows on."""


def blank(site: Site, bound: Bound, shape: Shape, why: str) -> Tensor:
    """Pin whatever enters and hand on no channels."""
    site.freeze(bound, why)
    return torch.zeros((), dtype=torch.long).expand(shape)


_KINDS: dict[Rule, str] = {
    move: """reshape _unsafe_view view transpose permute t flatten unflatten squeeze unsqueeze slice select cat unbind
        stack contiguous clone expand repeat repeat_interleave detach detach_ alias movedim narrow pixel_shuffle
        pixel_unshuffle numpy_T mT swapaxes""",
    part: "chunk split split_with_sizes",
    turn: "flip roll",
    join: """add sub mul div maximum minimum where rsub lerp relu gelu silu sigmoid tanh dropout hardtanh leaky_relu elu
        celu selu softplus hardswish relu6 hardsigmoid mish neg exp log log1p expm1 sqrt rsqrt square abs pow clamp
        clamp_min clamp_max to _to_copy feature_dropout alpha_dropout reciprocal erf sin cos log_sigmoid threshold round
        floor""",
    gate: "glu",
    linear: "linear",
    convolution: "conv1d conv2d conv3d",
    norm: "batch_norm",
    prelu: "prelu",
    embedding: "embedding",
    pool: """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d pad
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
        upsample_bicubic2d upsample_trilinear3d""",
    reduce: "mean sum amax amin logsumexp",
    softmax: "softmax log_softmax _softmax _log_softmax",
    pin: "layer_norm rms_norm group_norm instance_norm",
    skip: "_assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range sym_constrain_range_for_size",
}

RULES: dict[str, Rule] = {op: rule for rule, ops in _KINDS.items() for op in ops.split()}
