"""Rules of matrix products: with a weight they contract its channels, with each other they are attention.

Two activations may be multiplied where their channels are whole heads: the numbers are then the same all along what is
contracted, and both sides, and so queries, keys and values, are joined head by head.
"""

from typing import Any

import torch
from torch import Tensor

from outgrow.net.numbers import Numbers, Stored, packed, spread, steady
from outgrow.net.site import Bound, Shape, Site, blank, channels_along, contract, join_places, no_channels, plain


def linear(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Y = x W^T + b: joins x's last dimension with W's columns and hands out W's rows."""
    return _mixed(site, bound, shape, bound["input"], bound["weight"], (1, 0), -1, bound.get("bias"))


def matmul(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """X Y, where either may be a weight, or both activations."""
    left, right = list(bound.values())[:2]
    return _multiplied(site, bound, shape, left, right, None)


def addmm(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """B + X Y."""
    bias, left, right = list(bound.values())[:3]
    if isinstance(bias, Stored) and isinstance(right, Stored) and len(bias.runs) == 1:
        return _multiplied(site, bound, shape, left, right, bias)
    product = _multiplied(site, bound, shape, left, right, None)
    return join_places(site, product, plain(site, bias, product)).expand(shape)


def _multiplied(site: Site, bound: Bound, shape: Shape, left: Any, right: Any, bias: Any) -> Tensor:
    if _is_matrix(right):
        return _mixed(site, bound, shape, left, right, (-2, -1), -1, bias)
    if _is_matrix(left) and not isinstance(right, Stored) and right.ndim > 1:
        return _mixed(site, bound, shape, right, left, (-1, -2), -2, bias)
    left, right = plain(site, left), plain(site, right)
    if left.ndim < 2 or right.ndim < 2:
        return blank(site, bound, shape, "it multiplies a single vector")
    result = product(site, left, right)
    return blank(site, bound, shape, result) if isinstance(result, str) else result.expand(shape)


def _is_matrix(operand: Any) -> bool:
    """Whether an operand is a weight of two dimensions, or one that is expanded over examples."""
    return isinstance(operand, Stored) and len(operand.runs) > 1 and not any(d is not None for d in operand.dims[:-2])


def _mixed(
    site: Site, bound: Bound, shape: Shape, x: Any, weight: Any, dims: tuple[int, int], dim: int, bias: Any
) -> Tensor:
    """A weight's product with the channels that lie along a dimension of x."""
    if not isinstance(weight, Stored):
        return blank(site, bound, shape, "its weight is computed")
    x = plain(site, x)
    channels = channels_along(site, x, dim)
    if channels is not None:
        contract(site, channels, weight, dims, bias)
        return spread(weight.runs[dims[1]], dim, shape)
    if not steady(site.numbers.roots(x), dim % x.ndim):
        return blank(site, bound, shape, "its channels differ between positions")
    site.freeze([weight, bias], "it mixes positions, whose number the input sets")
    return x.narrow(dim, 0, 1).expand(shape)


def product(site: Site, left: Tensor, right: Tensor) -> Tensor | str:
    """Multiply numbers of two activations: what is contracted must be positions, or the channels of one head.

    Args:
        site: Where.
        left: Numbers [..., rows, inner].
        right: Numbers [..., inner, columns].

    Returns:
        Numbers [..., rows, columns], the heads of both joined, or why that can't be.
    """
    left, right = packed(site.numbers.roots(left)), packed(site.numbers.roots(right))
    varies = not steady(left, left.ndim - 1), not steady(right, right.ndim - 2)
    if all(varies):
        return "it multiplies channels with each other that are not whole heads"
    if any(varies):
        site.numbers.pin(left if varies[0] else right, "all heads share it, or it meets an input or a constant")
        left, right = (left * 0, right) if varies[0] else (left, right * 0)
    rows, columns = left.narrow(-1, 0, 1), right.narrow(-2, 0, 1)  # [..., rows, 1], [..., 1, columns]
    wide = torch.broadcast_shapes(rows.shape, columns.shape)
    if not (rows.any() and columns.any()):
        return packed(rows.expand(wide) + columns.expand(wide))  # one of them is all zeros
    for one, other in ((rows, columns), (columns, rows)):
        if _shared(one, other):
            site.numbers.pin(one, "all heads share it")
            return other.expand(wide)
    if not steady(rows, rows.ndim - 2) or not steady(columns, columns.ndim - 1):
        return "each of its values belongs to two channels"
    return join_places(site, rows, columns).expand(wide)


def _shared(one: Tensor, other: Tensor) -> bool:
    """Whether the heads of `other` lie along dimensions along which `one` is the same."""
    heads = [dim for dim in range(-other.ndim, -2) if not steady(other, dim)]
    return bool(heads) and all(-dim > one.ndim or steady(one, dim) for dim in heads)


def attention(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Scaled dot-product attention: scores of queries and keys, plus a mask, times the values."""
    query, key, value = (plain(site, bound[name]) for name in ("query", "key", "value"))
    if bound.get("enable_gqa"):
        key, value = (repeated(site.numbers, x, query.shape[-3]) for x in (key, value))
    scores = product(site, query, key.transpose(-2, -1))
    if isinstance(scores, str):
        site.freeze([bound["query"], bound["key"]], scores)
        scores = no_channels((*query.shape[:-1], key.shape[-2]))
    mask = bound.get("attn_mask")
    if mask is not None:
        scores = join_places(site, scores, plain(site, mask, scores))
    result = product(site, scores, value)
    return blank(site, bound, shape, result) if isinstance(result, str) else result.expand(shape)


def repeated(numbers: Numbers, x: Tensor, heads: int) -> Tensor:
    """Repeat heads [..., heads of keys, positions, size] for grouped queries."""
    return x.repeat_interleave(heads // x.shape[-3], -3)


def bilinear(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Y_o = x1^T W_o x2 + b_o: joins both inputs with two dimensions of the weight and hands out the third."""
    weight, bias = bound["weight"], bound.get("bias")
    sides = [channels_along(site, plain(site, bound[name]), -1) for name in ("input1", "input2")]
    if not isinstance(weight, Stored) or sides[0] is None or sides[1] is None:
        return blank(site, bound, shape, "its weight is computed, or its channels differ between positions")
    contract(site, sides[0], weight, (1, 0), bias)
    contract(site, sides[1], weight, (2, 0), None)
    return spread(weight.runs[0], -1, shape)


def einsum(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """A product of two operands in index notation: brought to the form of a matrix product."""
    operands = bound["tensors"]
    terms, arrow, output = bound["equation"].replace(" ", "").partition("->")
    names = terms.split(",")
    if len(operands) != 2 or not arrow or "." in bound["equation"] or any(len(set(n)) < len(n) for n in names):
        return blank(site, bound, shape, "outgrow reads it for two operands and with an arrow only")
    first, second = names
    shared = set(first) & set(second)
    batch = [n for n in output if n in shared]
    inner = [n for n in first if n in shared and n not in output]
    rows, columns = ([n for n in output if n in name and n not in shared] for name in names)
    for operand, name, others in ((0, first, rows), (1, second, columns)):
        weight = operands[operand]
        if isinstance(weight, Stored) and not batch and len(inner) == 1 and len(others) == 1 and len(name) == 2:
            x, letters = plain(site, operands[1 - operand]), names[1 - operand]
            channels = channels_along(site, x, letters.index(inner[0]))
            if channels is None:
                break
            contract(site, channels, weight, (name.index(inner[0]), name.index(others[0])), None)
            return spread(weight.runs[name.index(others[0])], output.index(others[0]), shape)
    if any(isinstance(operand, Stored) for operand in operands) or len(inner) != 1:
        return blank(site, bound, shape, "outgrow has no rule for such a product")
    left = _laid_out(operands[0], first, [batch, rows, inner])
    right = _laid_out(operands[1], second, [batch, inner, columns])
    result = product(site, left, right)
    if isinstance(result, str):
        return blank(site, bound, shape, result)
    sizes = dict(zip(first + second, (*operands[0].shape, *operands[1].shape), strict=True))
    laid = [*batch, *rows, *columns]
    result = result.reshape([sizes[name] for name in laid])
    return result.permute([laid.index(name) for name in output])


def _laid_out(x: Tensor, names: str, groups: list[list[str]]) -> Tensor:
    """Permute dimensions to [*batch, rows, columns], flattening all but the batch."""
    batch, rows, columns = groups
    x = x.permute([names.index(name) for name in (*batch, *rows, *columns)])
    sizes = [x.shape[len(batch) :][: len(rows)].numel(), x.shape[len(batch) + len(rows) :].numel()]
    return x.reshape(*x.shape[: len(batch)], *sizes)
