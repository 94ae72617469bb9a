"""Verify that an edit keeps the function: run the model before and after, in train and in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from outgrow.errors import EditError
from outgrow.net.edit import Edit
from outgrow.net.inputs import Example, call, modes_kept

TOLERANCE = 1e-5  # of the output's scale, float32: rounding of sums in another order


@contextmanager
def frozen_state(model: nn.Module) -> Iterator[None]:
    """Put modes, buffers and the random state back afterwards, whatever a forward pass in train mode did to them."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with modes_kept(model), torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


class DropoutOff(TorchFunctionMode):
    """Make every kind of dropout the identity, in modules and as a function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand the input of a dropout on, and call anything else."""
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


def outputs(model: nn.Module, inputs: Example, training: bool) -> list[Tensor] | None:
    """Return a model's output tensors in a mode, dropout off; None where the mode can't run on such inputs."""
    with frozen_state(model), torch.no_grad(), DropoutOff():
        model.train(training)
        torch.manual_seed(0)
        try:
            result = call(model, inputs)
        except ValueError as error:
            if training and "Expected more than 1" in str(error):
                return None  # a norm can't train on a single value
            raise
    return [
        leaf.clone() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


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
    before = {training: outputs(model, inputs, training) for training in (True, False)}
    edit = apply()
    try:
        after = {training: outputs(model, inputs, training) for training in (True, False)}
    except Exception as error:
        edit.undo()
        raise EditError(f"{edit.what}: the edited model fails: {error}") from error
    edit.moved = max((change(old, after[mode]) for mode, old in before.items() if old is not None), default=0.0)
    if not edit.moved <= TOLERANCE:
        edit.undo()
        raise EditError(
            f"{edit.what}: an output moved by {edit.moved:.1e} of its scale, expected at most {TOLERANCE:.0e}; undone"
        )
    return edit


def change(before: list[Tensor], after: list[Tensor] | None) -> float:
    """Return the largest change of an output, relative to the largest finite value of that output."""
    moved = 0.0
    for old, new in zip(before, after or [], strict=True):
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
