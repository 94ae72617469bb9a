"""How far an edit moves the outputs: run the model before and after, in train and in eval mode."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from outgrow.errors import EditError, GrowthError
from outgrow.net.edit import Edit
from outgrow.net.inputs import Example, call, gpus_of, seed_

TOLERANCE = 1e-5  # of the output's scale, float32: rounding of sums in another order


def tolerance(model: nn.Module) -> float:
    """Return how far outputs of a model may move by rounding: `TOLERANCE`, or 16 rounding errors of a coarser type."""
    coarse = {p.dtype for p in model.parameters() if p.is_floating_point() and torch.finfo(p.dtype).bits < 32}
    return max([TOLERANCE, *(16 * torch.finfo(dtype).eps for dtype in coarse)])


@contextmanager
def frozen_state(model: nn.Module) -> Iterator[None]:
    """Put attributes, modes, buffers, hooks and random states back afterwards, whatever a forward pass did to them.

    The very same buffers come back with their values, also where a forward pass put others in their place; so do the
    contents of a module's own lists, sets and dicts, such as those of its hooks.
    """
    modules = [*model.modules()]
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    held = [value for _, before in attributes for value in before.values() if isinstance(value, (dict, list, set))]
    contents = [(value, dict(value) if isinstance(value, dict) else list(value)) for value in held]
    buffers = {buffer for module in modules for buffer in module._buffers.values() if buffer is not None}
    values = [(buffer, buffer.clone()) for buffer in buffers]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus_of(model)):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for now, before in [*attributes, *contents]:
            now.clear()
            (now.extend if isinstance(now, list) else now.update)(before)
        with torch.no_grad():
            for buffer, value in values:
                if not _is_expanded(buffer):  # else it can't be written
                    buffer.copy_(value)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether one value stands at many places of a tensor."""
    if tensor.layout != torch.strided:
        return False
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


_ARGUMENTS = {  # of ops that drop or draw within themselves: where, by which name, and the value that makes them not
    "scaled_dot_product_attention": (4, "dropout_p", 0.0),
    "multi_head_attention_forward": (10, "dropout_p", 0.0),
    "rrelu": (3, "training", False),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), (5, "dropout", 0.0)),
}
_DRAWS = {"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli"}
_DRAWS |= {"normal_", "uniform_", "bernoulli_", "exponential_"}


class NoChance(TorchFunctionMode):
    """Make dropout the identity and every random draw a constant, so that widths have no part in what is drawn.

    That goes for modules and functions, and within attention and recurrent layers.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand the input of a dropout on, fill what would be drawn, and call anything else."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if "dropout" in name:
            return args[0] if args else kwargs["input"]
        if name in _DRAWS:
            return func(*args, **kwargs).fill_(0.5)
        if name in _ARGUMENTS:
            place, keyword, value = _ARGUMENTS[name]
            place += keyword == "dropout" and isinstance(args[3], (list, tuple))  # a packed sequence brings its lengths
            if len(args) > place:
                args = (*args[:place], value, *args[place + 1 :])
            elif keyword in kwargs:
                kwargs = {**kwargs, keyword: value}
        return func(*args, **kwargs)


def outputs(model: nn.Module, inputs: Example, training: bool) -> list[Tensor]:
    """Return a model's output tensors in a mode, without chance; nothing of the model changes."""
    with frozen_state(model), torch.no_grad(), NoChance():
        model.train(training)
        seed_(model, 0)
        random.seed(0)
        np.random.seed(0)
        result = call(model, inputs)
    return [_as_real(tensor) for tensor in tensors_in(result)]


def _as_real(tensor: Tensor) -> Tensor:
    """A copy of a tensor whose values can be subtracted."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.clone() if tensor.is_floating_point() else tensor.double()


def outputs_before(model: nn.Module, inputs: Example, training: bool) -> list[Tensor] | None:
    """Return a model's output tensors before an edit; None where it can't run in train mode on such inputs.

    A norm can't train on a single value, and some models want targets when they train.
    """
    try:
        return outputs(model, inputs, training)
    except Exception:
        if training:
            return None
        raise


def lively(model: nn.Module, example: Example) -> Example:
    """Return an example with noise in place of what is the same everywhere, on which different functions look alike.

    Noise between 0 and 1 stands in for zeros, and for equal entries of three dimensions or more; zeros and ones stand
    in for whole numbers that are all zero, such as the indices of words, on a CPU.

    Args:
        model: Not changed.
        example: One input.

    Returns:
        The very example where it has no such tensors, or where the model fails or is not finite on noise.
    """
    for kinds in ((_noisy, _drawn), (_noisy,)):
        noise: Example = pytree.tree_map(partial(_replaced, kinds, torch.Generator().manual_seed(0)), example)
        if all(one is other for one, other in zip(*map(pytree.tree_leaves, (noise, example)), strict=True)):
            return example
        try:
            if all(out.isfinite().all() for out in outputs(model, noise, training=False)):
                return noise
        except Exception:  # not everything takes noise, or has two words
            continue
    return example


def _replaced(kinds: Sequence[Callable[..., Tensor | None]], generator: torch.Generator, leaf: Any) -> Any:
    """What the first kind that suits a leaf makes of it; the very leaf where none does."""
    if not isinstance(leaf, Tensor) or leaf.is_meta or not leaf.numel():
        return leaf
    return next((made for kind in kinds if (made := kind(leaf, generator)) is not None), leaf)


def _noisy(leaf: Tensor, generator: torch.Generator) -> Tensor | None:
    """Noise in place of floats that are the same everywhere; below 1, so that an index made of it is 0."""
    if not leaf.is_floating_point():
        return None
    if leaf.any() and (leaf.ndim < 3 or leaf.numel() == 1 or (leaf != leaf.flatten()[0]).any()):
        return None  # two dimensions of ones may be a mask
    return torch.rand(leaf.shape, generator=generator).to(leaf)


def _drawn(leaf: Tensor, generator: torch.Generator) -> Tensor | None:
    """Zeros and ones, the first of which is a one, in place of whole numbers that are all zero."""
    if leaf.is_floating_point() or leaf.is_complex() or leaf.dtype == torch.bool or leaf.any():
        return None
    if leaf.device.type != "cpu":
        return None  # an index beyond a table ends all that a GPU does
    drawn = torch.randint(2, (leaf.numel(),), generator=generator)
    drawn[0] = 1
    return drawn.view(leaf.shape).to(leaf)


def tensors_in(result: Any) -> Iterator[Tensor]:
    """Yield all tensors in an output, also those that objects in it hold, such as distributions; but for caches."""
    leaves, seen = pytree.tree_leaves(result), set[int]()
    while leaves:
        leaf = leaves.pop(0)
        if isinstance(leaf, Tensor):
            yield leaf
        elif id(leaf) not in seen and _is_record(leaf):
            seen.add(id(leaf))
            leaves = pytree.tree_leaves([*vars(leaf).values()]) + leaves


def _is_record(value: Any) -> bool:
    """Whether what an object of some class holds counts as what it is."""
    other = isinstance(value, (type, ModuleType, nn.Module)) or "cache" in type(value).__name__.lower()
    return hasattr(value, "__dict__") and not other


def measured(model: nn.Module, inputs: Example, apply: Callable[[], Edit], modes: Sequence[bool] = (False,)) -> Edit:
    """Apply an edit and measure how far it moves the outputs.

    Args:
        model: The model that `apply` edits in place.
        inputs: What to compare the outputs on; best a batch of real data.
        apply: Does the edit.
        modes: Where to compare: True for train mode, False for eval mode.

    Returns:
        The edit, with `moved` set.

    Raises:
        EditError: The edited model fails to run. The edit is undone.
        GrowthError: The edit can't be made, as `apply` says; the model is as before.
    """
    before = {training: outputs_before(model, inputs, training) for training in modes}
    try:
        edit = apply()
    except GrowthError:
        raise
    except Exception as error:
        raise EditError(f"the model can't be edited: {error}; it is as before") from error
    try:
        edit.moved = max(
            (change(old, outputs(model, inputs, mode)) for mode, old in before.items() if old is not None), default=0.0
        )
    except BaseException as error:
        edit.undo()
        if not isinstance(error, Exception):
            raise
        raise EditError(f"{edit.what} ({_shapes(edit)}): the edited model fails: {error}; undone") from error
    return edit


def verified(model: nn.Module, inputs: Example, apply: Callable[[], Edit]) -> Edit:
    """Apply an edit and check it: the function must stay the same in train and in eval mode.

    Args:
        model: The model that `apply` edits in place.
        inputs: What to compare the outputs on; best a batch of real data.
        apply: Does the edit.

    Returns:
        The edit, with `moved` set.

    Raises:
        EditError: An output moved beyond rounding, or the edited model fails to run. The edit is undone.
    """
    edit = measured(model, inputs, apply, modes=(True, False))
    moved, most = edit.moved or 0.0, tolerance(model)
    if not moved <= most and not moved <= 10 * sensitivity(model, inputs):
        edit.undo()
        raise EditError(
            f"{edit.what} ({_shapes(edit)}): an output moved by {moved:.1e} of its scale, expected at most {most:.0e}; "
            f"undone"
        )
    return edit


def sensitivity(model: nn.Module, inputs: Example) -> float:
    """Return how far outputs move, relative to their scale, when inputs move by a rounding error, in either mode.

    A norm over few values may magnify rounding a thousandfold.
    """

    def nudged(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf * (1 + 2 * torch.finfo(leaf.dtype).eps) if floating else leaf

    moved = 0.0
    for mode in (True, False):
        before = outputs_before(model, inputs, mode)
        if before is not None:
            moved = max(moved, change(before, outputs(model, pytree.tree_map(nudged, inputs), mode)))
    return moved if math.isfinite(moved) else 0.0


def _shapes(edit: Edit, most: int = 4) -> str:
    """Old and new shapes, for a message."""
    shapes = [f"{c.name} {list(c.old.shape)} -> {list(c.new.shape)}" for c in edit.changes]
    shapes += [f"{len(i.modules)} new behind {i.parent}.{i.child}".replace(" .", " ") for i in edit.insertions]
    return ", ".join(shapes[:most]) + (f" and {len(shapes) - most} more" if len(shapes) > most else "")


def change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest change of an output, relative to the largest finite value of that output."""
    moved = 0.0
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape:
            return float("inf")
        if not old.numel():
            continue
        same = (new == old) | (new.isnan() & old.isnan())
        gap = (new - old).abs().masked_fill(same, 0.0)
        gap[gap.isnan()] = float("inf")  # a value that became NaN, or stopped being one, has moved
        scale = float(old.abs().masked_fill(~old.isfinite(), 0.0).max())
        moved = max(moved, float(gap.max()) / max(scale, 1e-30))
    return moved
