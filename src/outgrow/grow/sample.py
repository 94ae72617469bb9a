"""The examples that a check reads: one part proposes (A), another judges (B)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.net.inputs import Example


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Args:
        inputs: What the model is called with; every tensor in it has the examples along dimension 0.
        target: What the loss is called with beside the output.
        size: Number of examples.
    """

    inputs: Example
    target: Any
    size: int


@dataclass(frozen=True)
class Sample:
    """Examples of one check.

    Args:
        a: What proposals and their steps are made from.
        b: Fresh examples that judge them.
    """

    a: Sequence[Batch]
    b: Sequence[Batch]


def examples_in(batches: Sequence[Batch]) -> int:
    """Return the number of examples in batches."""
    return sum(batch.size for batch in batches)


def draw(loader: Iterable[Any], count: int, device: torch.device, chunk: int = 256) -> Sample:
    """Read the first `2 * count` examples of a loader, half for each part.

    Args:
        loader: Yields (inputs, target); best shuffled and without augmentation.
        count: Examples of each part; fewer where the loader ends, always as many in A as in B.
        device: Where the model is.
        chunk: Examples that go through the model at once.

    Returns:
        The two parts.

    Raises:
        InputError: The loader yields something else, or fewer than two examples.
    """
    inputs, targets, seen = [], [], 0
    for item in loader:
        if not (isinstance(item, (tuple, list)) and len(item) == 2):
            raise InputError(f"expected a loader of (inputs, target) pairs, received {type(item).__name__}")
        inputs.append(item[0])
        targets.append(item[1])
        seen += _length(item[0])
        if seen >= 2 * count:
            break
    if seen < 2:
        raise InputError(f"a check needs at least two examples, the loader gave {seen}")
    half = min(count, seen // 2)
    everything = (_cat(inputs), _cat(targets))

    def part(start: int) -> list[Batch]:
        pieces = -(-half // chunk)
        stops = [start + half * i // pieces for i in range(pieces + 1)]  # of nearly equal size: no batch of one
        return [_slice(everything, i, j, device) for i, j in pairwise(stops)]

    return Sample(part(0), part(half))


def as_tensors(inputs: Example) -> list[Tensor]:
    """Return every tensor of inputs in any of the forms."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


def _length(inputs: Example) -> int:
    return len(as_tensors(inputs)[0])


def _cat(parts: list[Any]) -> Any:
    return pytree.tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *parts)


def _slice(pair: Any, start: int, stop: int, device: torch.device) -> Batch:
    inputs, target = pytree.tree_map(lambda t: t[start:stop].to(device) if isinstance(t, Tensor) else t, pair)
    return Batch(inputs, target, stop - start)
