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

CHUNK_FLOPS = 2e9  # of one forward pass: enough to keep a device busy, little enough memory


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


def chunk_of(flops: int) -> int:
    """Return how many examples to put through a model at once, by its forward FLOPs of one example."""
    return int(min(max(CHUNK_FLOPS / max(flops, 1), 64), 4096))


def draw(loader: Iterable[Any], count: int, device: torch.device, chunk: int = 256) -> Sample:
    """Read the first `2 * count` examples of a loader, every other one for each part.

    Args:
        loader: Yields (inputs, target); best shuffled and without augmentation.
        count: Examples of each part; fewer where the loader ends, always as many in A as in B.
        device: Where the model is.
        chunk: Examples that go through the model at once.

    Returns:
        The two parts.

    Raises:
        InputError: The loader yields something else, or fewer than four examples.
    """
    inputs, targets, seen = [], [], 0
    for item in loader:
        if not (isinstance(item, (tuple, list)) and len(item) == 2):
            raise InputError(f"expected a loader of (inputs, target) pairs, received {type(item).__name__}")
        lengths = {_length(part) for part in item}
        if len(lengths) != 1 or None in lengths:
            raise InputError(
                "expected a loader of (inputs, target) pairs of tensors with the examples along dimension 0, as many "
                f"in both, received {_shapes(item)}"
            )
        inputs.append(item[0])
        targets.append(item[1])
        seen += lengths.pop() or 0
        if seen >= 2 * count:
            break
    if seen < 4:
        raise InputError(f"a check needs at least four examples, the loader gave {seen}")
    half = min(count, seen // 2)
    everything = (_cat(inputs), _cat(targets))

    def part(first: int) -> list[Batch]:
        """Every other example, so that a loader in some order gives both parts the same distribution."""
        pieces = -(-half // chunk)
        stops = [half * i // pieces for i in range(pieces + 1)]  # of nearly equal size: no batch of one
        return [_slice(everything, first + 2 * i, first + 2 * j, device) for i, j in pairwise(stops)]

    return Sample(part(0), part(1))


def as_tensors(inputs: Example) -> list[Tensor]:
    """Return every tensor of inputs in any of the forms."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


def _length(part: Any) -> int | None:
    """The number of examples in inputs or a target, None where its tensors don't agree or there are none."""
    lengths = {len(tensor) if tensor.ndim else None for tensor in as_tensors(part)}
    return lengths.pop() if len(lengths) == 1 else None


def _shapes(item: Sequence[Any]) -> str:
    tensors = [as_tensors(part) for part in item]
    return " and ".join(
        ", ".join(str(list(t.shape)) for t in found) if found else type(part).__name__
        for part, found in zip(item, tensors, strict=True)
    )


def _cat(parts: list[Any]) -> Any:
    try:
        return pytree.tree_map(lambda *ts: torch.cat(ts) if isinstance(ts[0], Tensor) else ts[0], *parts)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the batches of the loader can't be put together: {error}") from error


def _slice(pair: Any, start: int, stop: int, device: torch.device) -> Batch:
    """Every other example from `start` to before `stop`."""
    inputs, target = pytree.tree_map(lambda t: t[start:stop:2].to(device) if isinstance(t, Tensor) else t, pair)
    return Batch(inputs, target, (stop - start) // 2)
