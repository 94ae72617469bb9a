"""Uniform widths: a seed network whose widths all grew by one factor, as networks are scaled usually."""

import bisect
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from outgrow.models import Seed, SeedNetwork
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.cost import parameters
from outgrow.net.resizing import settings_of
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.architecture import Grown


def uniform(seed: SeedNetwork, params: int) -> SeedNetwork:
    """Return a seed with all widths grown by one factor, as near to a number of parameters as whole units allow.

    Examples:
        >>> uniform(Seed("mlp", (4,), 3, widths=(2, 4)), 200).widths
        (7, 15)
    """
    return of_widths(seed, uniform_widths(seed, params))


def uniform_widths(seed: SeedNetwork, params: int) -> tuple[int, ...]:
    """Return the widths of the seed that `uniform` makes, without building all that are smaller.

    Args:
        seed: The seed network.
        params: How many parameters it should have.

    Returns:
        Its widths, as many as `widths_of` returns.
    """
    steps, count = [widths_of(seed)], _counter(seed)

    def too_large(step: int) -> bool:
        while len(steps) <= step:
            steps.append(_one_more(steps[0], steps[-1]))
        return count(steps[step]) > params

    reach = 1
    while not too_large(reach):
        reach *= 2
    above = bisect.bisect_left(range(reach), True, lo=1, key=too_large)
    return min(steps[above - 1 : above + 1], key=lambda widths: abs(count(widths) - params))


def widths_of(seed: SeedNetwork) -> tuple[int, ...]:
    """Return the widths of a seed network: those that it says, else the sizes of all axes that can grow."""
    return seed.widths if isinstance(seed, Seed) else tuple(axis.size for axis in _growable(seed, seed.build()))


def of_widths(seed: SeedNetwork, widths: Sequence[int]) -> SeedNetwork:
    """Return a seed network with other widths.

    Args:
        seed: The seed network.
        widths: As many as `widths_of` returns, none of them smaller.

    Returns:
        The wider seed network.
    """
    if isinstance(seed, Seed):
        return replace(seed, widths=tuple(widths))
    net = seed.build()
    for axis, width in zip(_growable(seed, net), widths, strict=True):
        if width > axis.size:
            widen_(net, axis.name, width - axis.size, example=seed.example())
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(net).items()}
    return Grown(seed, (), shapes, settings_of(net, axes(net, seed.example())))


def size(network: SeedNetwork) -> int:
    """Return the number of parameters of a seed network."""
    return parameters(network.build())


def _counter(seed: SeedNetwork) -> Callable[[Sequence[int]], int]:
    """Return what tells the number of parameters of `of_widths`."""
    if isinstance(seed, Seed):
        return lambda widths: size(replace(seed, widths=tuple(widths)))
    net = seed.build()
    found, shapes = _growable(seed, net), {name: list(tensor.shape) for name, tensor in net.named_parameters()}

    def count(widths: Sequence[int]) -> int:
        wide = copy.deepcopy(shapes)
        for axis, width in zip(found, widths, strict=True):
            for member in axis.members:
                if member.tensor in wide:
                    wide[member.tensor][member.dim] += (width - axis.size) * member.index.shape[1]
        return sum(map(math.prod, wide.values()))

    return count


def _growable(seed: SeedNetwork, net: nn.Module) -> list[Axis]:
    return [axis for axis in axes(net, seed.example()) if axis.growable]


def _one_more(start: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """Return widths with one unit more where the common factor, rising, next rounds up."""
    factors = [(width + 0.5) / first for first, width in zip(start, now, strict=True)]
    chosen = factors.index(min(factors))
    return tuple(width + (i == chosen) for i, width in enumerate(now))
