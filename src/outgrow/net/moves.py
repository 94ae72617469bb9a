"""Rules of ops that move data: they are executed on the numbers as they would be on the values.

A view that cuts channels into parts, such as (heads, head size), lets one of the parts grow: the numbers along the
others are tied, so that a unit is a whole head, or one channel in each of several groups.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from outgrow.net.numbers import Stored, along, packed, spread, steady
from outgrow.net.site import Bound, Shape, Site, blank, crosses_channels, no_channels, plain

PARTS = ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk", "glu")
CUTS = ("view", "reshape", "_unsafe_view", "unflatten", "view_as", "reshape_as")


def move(site: Site, bound: Bound, shape: Shape) -> Any:
    """Run the op itself on the numbers."""
    key, x = next(iter(bound.items()))
    if isinstance(x, Stored):
        viewed = moved_stored(site, bound, key, shape)
        if viewed is not None:
            return viewed
    bound = plain(site, bound)
    if site.op in CUTS:
        return cut(site, bound["self"], shape)
    result = site.target(**bound)
    result = packed(result) if isinstance(result, Tensor) else result
    if site.op in ("expand", "slice", "select", "narrow", "repeat", "cat"):
        site.note(result)
    return result


def cut(site: Site, x: Tensor, shape: Shape) -> Tensor:
    """Reshape, tying the numbers along all but one of the parts that a dimension of channels is cut into."""
    for dim in range(x.ndim):
        if steady(x, dim):
            continue
        factors = split_factors(tuple(x.shape), shape, dim)
        if len(factors) > 1 and math.prod(factors) == x.shape[dim]:
            x = _tied(site, x, dim, factors)
    x = packed(x.reshape(shape))
    site.note(x)
    return x


def _tied(site: Site, x: Tensor, dim: int, factors: list[int]) -> Tensor:
    """Tie the numbers along all parts but the one that grows, of those along which they change at all."""
    parts = site.numbers.roots(x.movedim(dim, -1)).unflatten(-1, factors)
    changing = [part for part in range(len(factors)) if not steady(parts, parts.ndim - len(factors) + part)]
    if len(changing) > 1:
        grows = changing[site.grows([factors[part] for part in changing])]
        for part in changing:
            if part != grows:
                parts = site.numbers.tie(parts, part - len(factors))
    return parts.flatten(-len(factors)).movedim(-1, dim)


def split_factors(old: Shape, new: Shape, dim: int) -> list[int]:
    """Return the parts, from the outermost, into which a reshape cuts a dimension.

    Examples:
        >>> split_factors((2, 5, 12), (2, 5, 3, 4), 2), split_factors((2, 12, 5), (24, 5), 1)
        ([3, 4], [12])
    """
    inner = math.prod(old[dim + 1 :])
    outer, factors = inner * old[dim], []
    for place, size in enumerate(new):
        right = math.prod(new[place + 1 :])
        part = min(right * size, outer) // max(right, inner)
        if part > 1:
            factors.append(part)
    return factors


def moved_stored(site: Site, bound: Bound, key: str, shape: Shape) -> Any:
    """Run the op on each dimension of a stored tensor apart: what is still one dimension each is a view of it."""
    tensor: Stored = bound[key]
    others = {name: value for name, value in bound.items() if name != key}
    results = []
    for dim in range(len(tensor.runs)):
        try:
            run = tensor.spread(dim)
            results.append(run.reshape(shape) if site.op in CUTS else site.target(**{key: run, **others}))
        except (RuntimeError, IndexError, TypeError):
            return None
    if isinstance(results[0] if results else None, (list, tuple)):
        views = [_view(tensor, [result[i] for result in results]) for i in range(len(results[0]))]
        return None if any(view is None for view in views) else views
    return _view(tensor, results)


def _view(tensor: Stored, results: Sequence[Tensor]) -> Stored | None:
    """The view that has each dimension's numbers along one dimension of its own."""
    if not results:
        return None
    shape = results[0].shape
    runs: list[Tensor] = [torch.zeros(size, dtype=torch.long) for size in shape]
    dims: list[int | None] = [None] * len(shape)
    for dim, numbers in enumerate(results):
        lies = [place for place in range(len(shape)) if not steady(numbers, place)]
        if not lies and tensor.shape[dim] == 1:  # one number: it may stand at any free place of size 1
            lies = [place for place, size in enumerate(shape) if size == 1 and dims[place] is None][:1]
        if not lies and numbers.any() and numbers.numel():
            continue  # cut down to one entry along this dimension, or another one took its place
        if len(lies) != 1 or dims[lies[0]] is not None:
            return None
        run = along(numbers, lies[0])
        if run is None:
            return None
        runs[lies[0]], dims[lies[0]] = run, tensor.dims[dim]
    return Stored(tensor.name, tuple(runs), tuple(dims))


def part(site: Site, bound: Bound, shape: Shape) -> Any:
    """Cut a dimension: parts of equal size must stay equal, or the cuts would fall elsewhere."""
    parts = move(site, bound, shape)
    if len({tuple(piece.shape) for piece in parts}) == 1:
        runs = [piece.runs[bound.get("dim", 0)] if isinstance(piece, Stored) else piece for piece in parts]
        for piece in runs[1:]:
            site.numbers.join(runs[0], piece, f"{site.op} puts it beside an input or a constant")
    for piece in parts:
        if isinstance(piece, Tensor):
            site.note(piece)
    return parts


def turn(site: Site, bound: Bound, shape: Shape) -> Any:
    """Flip or roll: a new last channel would not stay the last."""
    x = plain(site, bound["self"])
    if crosses_channels(x, bound.get("dims") or range(x.ndim)):
        return blank(site, bound, shape, "it changes the order of channels")
    return move(site, {**bound, "self": x}, shape)


def shuffle_pixels(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Pixel shuffle: the r * r channels that make one channel of r times the size are one unit."""
    x, r = plain(site, bound["self"]), bound["upscale_factor"]
    channels = along(x, -3)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    tied = site.numbers.tie(channels.view(-1, r * r), 1)
    return spread(tied[:, 0], -3, shape)


def shuffle_channels(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Channel shuffle: one channel of each group is one unit."""
    x, groups = plain(site, bound["self"]), bound["groups"]
    channels = along(x, 1)
    if channels is None:
        return blank(site, bound, shape, "its channels differ between positions")
    tied = site.numbers.tie(channels.view(groups, -1), 0)
    result = spread(tied.mT.reshape(-1), 1, shape)
    site.note(result)
    return result


def index(site: Site, bound: Bound, shape: Shape) -> Tensor | None:
    """Pick places by tensors of numbers or of truth values: fine over positions, pins over channels."""
    x, picks = bound["self"], list(bound["indices"])
    picked = [dim for dim, place in enumerate(picks) if place is not None]
    if isinstance(x, Stored) and picked == [0] and len(x.runs) > 1:  # a table whose rows are looked up
        site.numbers.pin(x.runs[0], "the size of a table")
        for dim in range(1, len(x.runs)):
            site.role(x, dim, "channel")
        return spread(x.runs[1], len(shape) - len(x.runs) + 1, shape) if len(x.runs) == 2 else None
    x = plain(site, x)
    x = site.numbers.roots(x)
    if any(not steady(x, dim) for dim in picked):
        return blank(site, bound, shape, "it picks channels")
    for dim in reversed(picked):
        x = x.select(dim, 0) if x.shape[dim] else x.new_zeros(x.shape[:dim] + x.shape[dim + 1 :])
    together = picked == list(range(picked[0], picked[0] + len(picked))) if picked else True
    front = picked[0] if together and picked else 0
    new = len(shape) - x.ndim
    return x[(slice(None),) * front + (None,) * new].expand(shape)


def gather(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """Pick places along one dimension: fine over positions, pins over channels."""
    x, dim = plain(site, bound["self"]), bound["dim"]
    if crosses_channels(site.numbers.roots(x), [dim % max(x.ndim, 1)]) or not x.ndim:
        return blank(site, bound, shape, "it picks channels")
    x = x.narrow(dim, 0, 1)
    return x[tuple(slice(0, size) for size in shape)].expand(shape) if site.op == "gather" else x.expand(shape)


def made(site: Site, bound: Bound, shape: Shape) -> Tensor:
    """A new tensor of a given size: no channels."""
    return no_channels(shape)
