"""The examples that a check reads: one part proposes (A), another judges (B)."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from outgrow.errors import InputError
from outgrow.net.inputs import Example

CHUNK_FLOPS = 1.25e9  # of one forward pass: enough to keep a device busy, little enough memory
STEP_BATCHES = 8  # of each part, at least, where standard errors are over batches
WHOLE_BATCHES = 64  # of each part, at most, that are taken as they are

Pieces = list[tuple[Any, int]]  # batches, each with its number of examples


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Args:
        inputs: What the model is called with; every tensor in it has the examples along dimension 0. For a step of
            the user's own, what that is called with, of any type.
        target: What the loss is called with beside the output.
        size: Number of examples.
        chance: Seed of what a model or a step draws on it, the same whenever it is run.
        share: Share of its targets that count, against that in the whole part; see `counted`.
    """

    inputs: Any
    target: Any
    size: int
    chance: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class Sample:
    """Examples of one check.

    Args:
        a: What proposals and their steps are made from.
        b: Fresh examples that judge them.
    """

    a: Sequence[Batch]
    b: Sequence[Batch]


def demand_rows(example: Example, inputs: Any) -> None:
    """Check that an example has its rows along the first dimension, as what a loader yields has.

    Raises:
        InputError: It is one row alone.
    """
    if isinstance(example, Tensor) and isinstance(inputs, Tensor) and example.shape == inputs.shape[1:]:
        raise InputError(
            f"expected an example like the inputs of the loader, {list(inputs.shape)}, with the examples along "
            f"dimension 0, received {list(example.shape)}: give some of them, such as x[:1]"
        )


def examples_in(batches: Sequence[Batch]) -> int:
    """Return the number of examples in batches."""
    return sum(batch.size for batch in batches)


def chunk_of(flops: int) -> int:
    """Return how many examples to put through a model at once, by its forward FLOPs of one example."""
    return int(min(max(CHUNK_FLOPS / max(flops, 1), 4), 4096))


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
        raise InputError(f"a check needs at least four examples, the loader gave {seen}{_once(loader)}")
    half = min(count, seen // 2)
    a, b = _halves((_cat(inputs), _cat(targets)), half, chunk, device)
    return _sample([[(inputs, target, size) for (inputs, target), size in part] for part in (a, b)])


def _sample(parts: Sequence[Sequence[tuple[Any, Any, int]]]) -> Sample:
    """Two parts of batches, each of which has a seed of its own."""
    a, b = parts
    return Sample(
        [Batch(*batch, chance=2 * i) for i, batch in enumerate(a)],
        [Batch(*batch, chance=2 * i + 1) for i, batch in enumerate(b)],
    )


def counted(sample: Sample, loss: Any) -> Sample:
    """Let each batch weigh as much as it has targets that count, where a loss is the mean over these alone.

    Cross-entropy ignores targets of a number that is its `ignore_index`, -100 where a loss does not say another: with
    c_b of n_b targets left in a batch and c of n in the part, the mean over all is sum_b n_b / n * (c_b n) / (n_b c)
    * L_b. A batch of which none is left has no mean, and is left out.

    Args:
        sample: The two parts.
        loss: Called with an output and a target; its `ignore_index`, or that of a `functools.partial`, is read.

    Returns:
        The parts; as they are where every target counts.

    Examples:
        >>> batches = [Batch(None, torch.tensor(y), 2) for y in ([1, -100], [0, 2], [-100, -100])]
        >>> [batch.share for batch in counted(Sample(batches, []), nn.functional.cross_entropy).a]
        [0.6666666666666666, 1.3333333333333333]
    """
    ignored = _ignored(loss)
    return Sample(_shared(sample.a, ignored), _shared(sample.b, ignored))


def none_counts(batch: Batch, loss: Any) -> Batch:
    """Return a batch of which no target counts: a loss that is the mean over those that do has no value there."""
    classes = {id(x) for x in _classes(batch.target, _ignored(loss))}
    target = pytree.tree_map(lambda x: torch.full_like(x, _ignored(loss)) if id(x) in classes else x, batch.target)
    return replace(batch, target=target)


def _ignored(loss: Any) -> int:
    ignored = getattr(loss, "keywords", {}).get("ignore_index", getattr(loss, "ignore_index", -100))
    return ignored if isinstance(ignored, int) else -100


def _shared(batches: Sequence[Batch], ignored: int) -> Sequence[Batch]:
    counts = [[(int((x != ignored).sum()), x.numel()) for x in _classes(batch.target, ignored)] for batch in batches]
    partly = [i for i, one in enumerate(zip(*counts, strict=False)) if any(left < n for left, n in one)]
    sums = [tuple(sum(of_batch[i][k] for i in partly) for k in (0, 1)) for of_batch in counts]
    kept = [(batch, left / n) for batch, (left, n) in zip(batches, sums, strict=True) if left]
    if not kept:
        return batches
    mean = sum(left for left, _ in sums) / sum(n for left, n in sums if left)
    return [replace(batch, share=share / mean) for batch, share in kept]


def _classes(target: Any, ignored: int) -> list[Tensor]:
    """The tensors of a target that may be class numbers: whole, and not negative but where they are ignored."""
    labels = [x for x in as_tensors(target) if x.dtype == torch.int64 and x.ndim]
    return [x for x in labels if bool(((x >= 0) | (x == ignored)).all())]


def apart(loader: Iterable[Any]) -> Iterable[Any]:
    """Return a loader of the same batches whose iterators leave those of a loop over it alone.

    A `DataLoader` with persistent workers has one iterator, which starts anew for whoever asks for one.

    Args:
        loader: Any.

    Returns:
        The very loader where it hands out iterators of their own.
    """
    if not (isinstance(loader, DataLoader) and loader.persistent_workers):
        return loader
    again = copy.copy(loader)
    again._iterator = None
    return again


def draw_batches(loader: Iterable[Any], count: int, device: torch.device, chunk: int = 256) -> Sample:
    """Read about the first `2 * count` examples of a loader of batches of any type, for a step of the user's own.

    Batches that are nests of tensors with the examples along dimension 0 are split by examples, every other one for
    each part, into at least `STEP_BATCHES` batches a part where there are that many examples: standard errors are then
    over batches. All others, such as lists of strings, graphs or a single example, go to the two parts in turn, one
    batch counting as one example, and no more than `WHOLE_BATCHES` of them are read for each part.

    Args:
        loader: Yields what the step takes; best shuffled and without augmentation.
        count: Examples of each part; fewer where the loader ends.
        device: Where the model is; tensors, and whatever has a method `to`, are moved there.
        chunk: Examples that go through the model at once.

    Returns:
        The two parts; a batch's `inputs` is what the step takes.

    Raises:
        InputError: There are fewer than two batches for each part.
    """
    split: list[tuple[Any, int]] = []
    whole: list[Any] = []
    for item in loader:
        length = _divisible(item)
        if length is not None and length > 1:
            split.append((item, length))
        else:
            whole.append(item)
        if sum(size for _, size in split) + len(whole) >= 2 * count or len(whole) >= 2 * WHOLE_BATCHES:
            break
    a, b = _split_batches(split, count, chunk, device)
    moved = [(_to(item, device), _divisible(item) or 1) for item in whole]
    a, b = a + moved[::2], b + moved[1::2]
    if min(len(a), len(b)) < 2:
        raise InputError(
            f"a check needs at least two batches to propose and two to judge, the loader gave {len(a)} and {len(b)}"
            f"{_once(loader)}"
        )
    return _sample([[(item, None, size) for item, size in part] for part in (a, b)])


def _once(loader: Iterable[Any]) -> str:
    """What to say of a loader that can't start anew, as every look asks it to."""
    return "; it can be read only once: give one that starts anew, or never ends" if iter(loader) is loader else ""


def few(inputs: Any, count: int) -> Any:
    """Return the first examples of inputs or of a target."""
    return pytree.tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.ndim else leaf, inputs)


def as_tensors(inputs: Example) -> list[Tensor]:
    """Return every tensor of inputs in any of the forms."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def rows_in(example: Example) -> int:
    """Return how many examples an input of the model holds: the length of its first tensor; 1 for a single number."""
    return next((len(leaf) for leaf in as_tensors(example) if leaf.ndim), 1)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


def _length(part: Any) -> int | None:
    """The number of examples in inputs or a target, None where its tensors don't agree or there are none."""
    lengths = {len(tensor) for tensor in as_tensors(part) if tensor.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def _shapes(item: Sequence[Any]) -> str:
    tensors = [as_tensors(part) for part in item]
    return " and ".join(
        ", ".join(str(list(t.shape)) for t in found) if found else type(part).__name__
        for part, found in zip(item, tensors, strict=True)
    )


def _cat(parts: list[Any]) -> Any:
    try:
        return pytree.tree_map(lambda *ts: torch.cat(ts) if isinstance(ts[0], Tensor) and ts[0].ndim else ts[0], *parts)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the batches of the loader can't be put together: {error}") from error


def _halves(everything: Any, half: int, chunk: int, device: torch.device) -> tuple[Pieces, Pieces]:
    """Split a nest into two parts of every other example each, so that a loader in some order gives both the same."""
    pieces = -(-half // chunk)
    stops = [half * i // pieces for i in range(pieces + 1)]  # of nearly equal size: no batch of one

    def part(first: int) -> Pieces:
        return [(_every_other(everything, first + 2 * i, first + 2 * j, device), j - i) for i, j in pairwise(stops)]

    return part(0), part(1)


def _every_other(everything: Any, start: int, stop: int, device: torch.device) -> Any:
    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (leaf[start:stop:2] if leaf.ndim else leaf).to(device)

    return pytree.tree_map(taken, everything)


def _split_batches(
    items: Sequence[tuple[Any, int]], count: int, chunk: int, device: torch.device
) -> tuple[Pieces, Pieces]:
    """Split batches of several examples, put together first where they are alike."""
    if not items:
        return [], []
    if _alike([item for item, _ in items]):
        items = [(_cat([item for item, _ in items]), sum(size for _, size in items))]
    half = min(sum(size // 2 for _, size in items), count)
    chunk = max(min(chunk, half // STEP_BATCHES), 1)
    halves = [_halves(item, min(size // 2, count), chunk, device) for item, size in items]
    return [piece for a, _ in halves for piece in a], [piece for _, b in halves for piece in b]


def _divisible(item: Any) -> int | None:
    """The number of examples of a batch that can be split by them, else None."""
    # beside tensors only None, flags and, as values of a dict, numbers and strings: in a list they may be examples
    for path, leaf in pytree.tree_flatten_with_path(item)[0]:
        named = bool(path) and isinstance(path[-1], pytree.MappingKey) and isinstance(leaf, (int, float, str))
        if not (isinstance(leaf, (Tensor, bool)) or leaf is None or named):
            return None
    lengths = {len(leaf) for leaf in as_tensors(item) if leaf.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def _alike(items: Sequence[Any]) -> bool:
    """Whether batches differ in nothing but their examples."""

    def kind(item: Any) -> Any:
        leaves, spec = pytree.tree_flatten(item)
        return spec, [
            (leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) and leaf.ndim else str(leaf) for leaf in leaves
        ]

    return all(kind(item) == kind(items[0]) for item in items[1:])


def _to(item: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, item)
