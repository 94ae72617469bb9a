"""What each operation does to channel numbers: one table from op to rule.

move    moves data: executed on the numbers as it would be on the values
part    cuts in equal parts, which must stay equal: joins them
turn    changes the order along a dimension: fine over positions, pins over channels
join    works place by place, on one value or several: what meets must grow together
gate    joins the two halves of one dimension
mix     contracts channels (linear, convolution, matrix product, recurrent layer): joins what it contracts, hands out
        its weight's numbers
attend  multiplies heads with each other: joins queries, keys and values head by head
norm    has a parameter for each channel, or for each group: joins them; pins channels whose statistics run over all
pool    combines positions, which all carry the same numbers
reduce  sums some dimensions away: fine over positions, pins over channels
scan    runs along a dimension: fine over positions, pins over channels
pick    picks places by their number: fine over positions, pins over channels
make    makes a new tensor without channels
skip    checks something; nothing flows on

An op that is not in the table pins whatever enters it, and says so.
"""

import re
from typing import Any

import torch
from torch import Tensor

from outgrow.net import moves, products, recurrent
from outgrow.net.numbers import Stored, along, spread, steady
from outgrow.net.site import (
    Bound,
    Rule,
    Shape,
    Site,
    blank,
    channels_along,
    contract,
    crosses_channels,
    join_places,
    no_channels,
    plain,
)

SUMS = ("sum", "mean", "logsumexp", "var", "std", "var_mean", "norm", "linalg_vector_norm")
LINEAR = ("mul", "div", "neg", "to", "_to_copy", "type_as")


def join(site: Site, bound: Bound, shape: Shape) -> Any:
    """Join the operands place by place; one that is stretched over the channels of another only stays single."""
    operands = [value for value in bound.values() if isinstance(value, (Tensor, Stored))]
    if site.op in LINEAR and len(operands) == 1 and isinstance(operands[0], Stored):
        return operands[0]  # zeros stay zeros: it is as good as the parameter itself
    operands.sort(key=lambda value: isinstance(value, Stored))  # activations first: they say what a parameter's are
    result = plain(site, operands[0])
    for operand in operands[1:]:
        result = join_places(site, result, plain(site, operand, result))
    return result.expand(shape)


def cast(site: Site, bound: Bound, shape: Shape) -> Any:
    """Convert to the type of another tensor, of which nothing else matters."""
    return join(site, {"self": bound["self"]}, shape)


def gate(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Gated linear unit: the first half of a dimension times the sigmoid of the second."""
    values, gates = plain(site, bound["self"]).chunk(2, bound.get("dim", -1))
    site.note(values)
    return join_places(site, values, gates).expand(shape)


def convolution(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Convolution over positions: joins the input's channels with the weight's columns and hands out its rows.

    Groups stay of the size that they have: a unit is a whole group, with what it reads and what it writes.

    Returns:
        The numbers of the outputs.
    """
    x, weight, bias, groups = plain(site, bound["input"]), bound["weight"], bound.get("bias"), bound.get("groups", 1)
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "its weight is computed")
    dim = x.ndim - len(weight.runs) + 1  # 1, or 0 without a dimension of examples
    channels = channels_along(site, x, dim)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    reads, writes = (0, 1) if "transpose" in site.op else (1, 0)
    if groups == 1:
        contract(site, channels, weight, (reads, writes), bias)
        return spread(weight.runs[writes], dim, shape)
    return spread(_grouped(site, channels, weight, bias, groups, shape[dim]), dim, shape)


def _grouped(site: Site, channels: Tensor, weight: Stored, bias: Any, groups: int, outputs: int) -> Tensor:
    """The numbers of the outputs [outputs] of a convolution in groups: each group is one unit."""
    units = site.numbers.tie(channels.view(groups, -1), 1)[:, :1]
    for tensor in (weight, bias):
        if isinstance(tensor, Stored):
            own = tensor.runs[0].view(groups, -1)
            site.numbers.join(own, units.expand(own.shape), "it reads the input or a value that can't grow")
            site.role(tensor, 0, "channel")
    site.numbers.pin(weight.runs[1], "the size of a group")
    return site.numbers.roots(units.expand(groups, outputs // groups).reshape(-1))


def norm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """A norm with statistics for each channel (dimension 1): joins its parameters and buffers."""
    x = plain(site, bound["input"])
    channels = channels_along(site, x, 1)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    _join_stored(site, bound, channels, ("weight", "bias", "running_mean", "running_var"))
    if not any(isinstance(value, Stored) for value in bound.values()):
        site.note(x)  # only an attribute says how many channels there are
    return x


def _join_stored(site: Site, bound: Bound, channels: Tensor, keys: tuple[str, ...]) -> None:
    for key in keys:
        if isinstance(tensor := bound.get(key), Stored):
            site.numbers.join(channels, tensor.runs[0], "it normalises the input or a value that can't grow")
            site.role(tensor, 0, "channel")


def group_norm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Statistics over each group of channels: a unit is a whole group, so that no group's statistics change."""
    x = plain(site, bound["input"])
    channels = channels_along(site, x, 1)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    groups = site.numbers.tie(channels.view(bound["num_groups"], -1), 1).reshape(-1)
    _join_stored(site, bound, groups, ("weight", "bias"))
    x = spread(site.numbers.roots(groups), 1, shape)
    site.note(x[:, :: len(channels) // bound["num_groups"]])
    return x


def layer_norm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Statistics over all channels at once, which pins them; over the inside of a head they stay as they are."""
    x = site.numbers.roots(plain(site, bound["input"]))
    dims = range(x.ndim - len(bound["normalized_shape"]), x.ndim)
    inside = x.any() and all(steady(x, dim) for dim in dims) and not all(steady(x, dim) for dim in range(x.ndim))
    if not inside:
        channels = along(x, -1)
        if len(bound["normalized_shape"]) == 1 and channels is not None and channels.any():
            _join_stored(site, bound, channels, ("weight", "bias"))
        site.freeze(bound, "its mean and variance run over all channels, and would change with their number")
        return x
    site.freeze([bound.get("weight"), bound.get("bias")], "it is the same for all heads")
    site.note(x)
    return x


def rms_norm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """A mean square over all channels: what changes with their number can be put right in the gains."""
    x = site.numbers.roots(plain(site, bound["input"]))
    weight = bound.get("weight")
    channels = channels_along(site, x, -1)
    if len(bound["normalized_shape"]) > 1 or channels is None or steady(x, x.ndim - 1):
        return layer_norm(site, bound, shape)
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "it has no gains that could make up for more channels")
    _join_stored(site, bound, channels, ("weight",))
    site.rescale(weight)
    return x


def prelu(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """PReLU: one slope for all channels, or one for each of dimension 1."""
    x, weight = plain(site, bound["self"]), bound["weight"]
    channels = channels_along(site, x, 1)
    if not isinstance(weight, Stored) or channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    if len(weight.runs[0]) > 1 or len(channels) == 1:
        site.numbers.join(channels, weight.runs[0], "PReLU of the input")
        site.role(weight, 0, "channel")
    return x


def embedding(site: Site, bound: Bound, shape: Shape) -> Any:
    """Rows of a table: the number of rows is set by the data, their length is an axis."""
    weight = bound["weight"]
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "its weight is computed")
    site.numbers.pin(weight.runs[0], "the size of a vocabulary")
    site.role(weight, 1, "out")
    rows = spread(weight.runs[1], -1, shape)
    return rows if site.op == "embedding" else [rows, *[None] * 3]


def pool(site: Site, bound: Bound, shape: Shape) -> Tensor | list[Tensor]:
    """Combine positions behind the channels; each channel keeps its number. Some hand out places, too."""
    x = plain(site, next(iter(bound.values())))
    dims = re.search(r"(\d)d", site.op)
    first = x.ndim - int(dims[1]) if dims else 2  # where positions begin: without examples, behind the first dimension
    trailing = range(first, x.ndim)
    if not all(steady(x, dim) for dim in trailing):
        return blank(site, bound, shape, "its channels differ between positions")
    if x.shape[:first] != shape[:first]:
        return blank(site, bound, shape, "it changes the number of channels")
    for dim in trailing:
        x = x.narrow(dim, 0, 1)
    results = len(site.target._schema.returns)
    return x.expand(shape) if results == 1 else [x.expand(shape), *[torch.zeros_like(x).expand(shape)] * (results - 1)]


def padded(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Lengthen dimensions along which the channels stay the same."""
    x, amounts = plain(site, bound["self"]), bound["pad"]
    for at in range(len(amounts) // 2):
        dim = x.ndim - 1 - at
        if any(amounts[2 * at : 2 * at + 2]):
            if not steady(x, dim):
                return blank(site, bound, shape, "it changes the number of channels")
            x = x.narrow(dim, 0, 1)
    return x.expand(shape)


def reduce(site: Site, bound: Bound, shape: Shape) -> Any:
    """Sum dimensions away; over channels the result would depend on their number, so they are pinned."""
    if isinstance(bound.get("other"), (Tensor, Stored)):  # the larger of two
        return join(site, bound, shape)
    x = site.numbers.roots(plain(site, next(iter(bound.values()))))
    dims = bound.get("dim")
    dims = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    dims = [dim % x.ndim for dim in dims] if x.ndim else []
    if crosses_channels(x, dims):
        return blank(site, bound, shape, f"it {'sums' if site.op in SUMS else 'reduces'} over channels")
    for dim in sorted(dims, reverse=True):
        x = x.select(dim, 0) if x.shape[dim] else x.sum(dim)
    x = x.reshape(shape) if x.numel() else no_channels(shape)
    results = len(site.target._schema.returns)
    return x if results == 1 else [x, *[no_channels(shape)] * (results - 1)]


def scan(site: Site, bound: Bound, shape: Shape) -> Any:
    """Softmax, sums so far, sorting: fine over positions, pins over channels."""
    x = site.numbers.roots(plain(site, next(iter(bound.values()))))
    dims = [-2, -1] if site.op in ("tril", "triu") else [bound.get("dim", -1)]
    if x.ndim and crosses_channels(x, [dim % x.ndim for dim in dims]):
        return blank(site, bound, shape, "it normalises over channels, or runs along them")
    if site.op == "topk" and x.ndim:
        x = x.narrow(dims[0], 0, 1)
    results = len(site.target._schema.returns)
    return x.expand(shape) if results == 1 else [x.expand(shape), *[no_channels(shape)] * (results - 1)]


def weight_norm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """A weight that is computed from others anew in each forward pass."""
    return blank(site, bound, shape, "it computes a weight, whose parametrization can't follow a change")


def skip(site: Site, bound: Bound, shape: Shape) -> None:
    """Assertions and the like: nothing flows on."""


_KINDS: dict[Rule, str] = {
    moves.move: """reshape _unsafe_view view transpose permute t flatten unflatten squeeze unsqueeze slice select cat
        unbind stack contiguous clone expand repeat repeat_interleave detach detach_ alias movedim moveaxis narrow
        pixel_unshuffle numpy_T mT swapaxes swapdims view_as reshape_as expand_as lift_fresh_copy lift_fresh atleast_1d
        hstack vstack concat concatenate positive resolve_conj resolve_neg unfold diagonal broadcast_to tile""",
    moves.part: "chunk split split_with_sizes tensor_split unsafe_split unsafe_chunk",
    moves.turn: "flip roll",
    moves.shuffle_pixels: "pixel_shuffle",
    moves.shuffle_channels: "channel_shuffle",
    moves.index: "index",
    moves.gather: "gather index_select",
    moves.made: """new_zeros new_ones new_full new_empty zeros ones full empty arange eye linspace scalar_tensor
        sym_size sym_numel sym_stride""",
    join: """add sub mul div maximum minimum where rsub lerp relu gelu silu sigmoid tanh dropout hardtanh leaky_relu elu
        celu selu softplus hardswish relu6 hardsigmoid mish neg exp log log1p expm1 sqrt rsqrt square abs pow clamp
        clamp_min clamp_max to _to_copy feature_dropout alpha_dropout reciprocal erf sin cos log_sigmoid threshold round
        floor ceil trunc sign softshrink hardshrink masked_fill eq ne lt le gt ge logical_and
        logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not isnan isinf isfinite nan_to_num
        addcmul addcdiv fmod remainder floor_divide atan atan2 sinh cosh asinh exp2 copysign rrelu special_expit
        zeros_like ones_like full_like empty_like rand_like randn_like bernoulli fill native_dropout copy
        hypot xlogy true_divide multiply subtract negative log2 log10 tan exponential""",
    cast: "type_as",
    gate: "glu",
    products.linear: "linear",
    products.matmul: "matmul mm bmm",
    products.addmm: "addmm baddbmm",
    products.attention: "scaled_dot_product_attention",
    products.bilinear: "bilinear",
    products.einsum: "einsum",
    convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    recurrent.recurrent: "lstm gru rnn_tanh rnn_relu",
    recurrent.cell: "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    norm: "batch_norm instance_norm",
    group_norm: "group_norm",
    layer_norm: "layer_norm",
    rms_norm: "rms_norm",
    prelu: "prelu",
    embedding: "embedding embedding_bag _embedding_bag",
    padded: "pad constant_pad_nd",
    pool: """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
        upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d reflection_pad1d
        reflection_pad2d replication_pad2d grid_sampler grid_sampler_2d""",
    reduce: """mean sum amax amin logsumexp max min var std var_mean any all prod median argmax argmin count_nonzero
        norm linalg_vector_norm""",
    scan: "softmax log_softmax _softmax _log_softmax cumsum cumprod tril triu sort topk",
    weight_norm: "_weight_norm _weight_norm_interface ",
    skip: """_assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range sym_constrain_range_for_size item
        _local_scalar_dense _functional_assert_async""",
}

RULES: dict[str, Rule] = {op: rule for rule, ops in _KINDS.items() for op in ops.split()}
