"""The calls of one forward pass: what each module is called with, and what comes out."""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.net.inputs import Example, call_arguments, seed_
from outgrow.net.kernels import fast_path


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module, with tensors of its own.

    Args:
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        output: What came out.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def stream(self) -> Tensor | None:
        """The first floating-point tensor that went in."""
        return _first_tensor((self.args, self.kwargs))

    @property
    def result(self) -> Tensor | None:
        """The first floating-point tensor that came out."""
        return _first_tensor(self.output)

    @property
    def keeps_shape(self) -> bool:
        """Whether the first tensor that came out is like the first that went in."""
        before, after = self.stream, self.result
        return before is not None and after is not None and (before.shape, before.dtype) == (after.shape, after.dtype)

    def again(self) -> "Call":
        """Return the call of a copy behind the module: what came out goes in."""
        return self._onto(self.result)

    def negated(self) -> "Call":
        """Return the call with the first tensor of the other sign."""
        return self._onto(None if self.stream is None else -self.stream)

    def _onto(self, tensor: Tensor | None) -> "Call":
        stream = self.stream
        args, kwargs = pytree.tree_map(lambda leaf: tensor if leaf is stream else leaf, (self.args, self.kwargs))
        return Call(args, kwargs, None)

    def run(self, module: nn.Module) -> Tensor | None:
        """Call a module in the same way and return its first tensor."""
        args, kwargs = _fresh((self.args, self.kwargs))
        return _first_tensor(module(*args, **kwargs))


class Leaf(NamedTuple):
    """A call of a module without children.

    Args:
        module: The module.
        before: Shape of the first floating-point tensor that went in; empty where there is none.
        after: Shape of the first that came out.
    """

    module: nn.Module
    before: torch.Size
    after: torch.Size


@dataclass(frozen=True, eq=False)
class Forward:
    """What one forward pass showed.

    Args:
        outputs: The model's floating-point output tensors.
        counts: How often each module was called.
        calls: The first call of each module that was asked for.
        leaves: Every call of a module without children, in order.
        unlearned: Modules that run under no_grad().
    """

    outputs: list[Tensor] = field(default_factory=list)
    counts: Counter[nn.Module] = field(default_factory=Counter)
    calls: dict[nn.Module, Call] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)
    unlearned: set[nn.Module] = field(default_factory=set)


def observe(model: nn.Module, example: Example, wanted: Collection[nn.Module] = ()) -> Forward:
    """Run a model once, in the mode that it is in, and note how its modules are called.

    Args:
        model: Any module; hooks are on only while it runs.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        wanted: Modules whose arguments and outputs to keep.

    Returns:
        Counts and calls.
    """
    seen = Forward()
    arguments: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.counts[module] += 1
        if not torch.is_grad_enabled():
            seen.unlearned.add(module)
        if module in wanted and module not in arguments:
            arguments[module] = _fresh((args, kwargs))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if module in arguments and module not in seen.calls:
            seen.calls[module] = Call(*arguments[module], _fresh(output))
        if next(module.children(), None) is None:
            seen.leaves.append(Leaf(module, _shape((args, kwargs)), _shape(output)))

    with (
        _hooked(model, before, after),
        torch.compiler.set_stance("force_eager"),  # compiled parts would trace the hooks
        fast_path(False),
        _without_graph(model),
    ):
        leaves = pytree.tree_leaves(_run(model, example))
    seen.outputs.extend(
        leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )
    return seen


@torch.no_grad()
def run(model: nn.Module, example: Example) -> Any:
    """Run a model on a copy of an example, without gradients and in the mode that it is in, from one random state."""
    return _run(model, example)


def _run(model: nn.Module, example: Example) -> Any:
    args, kwargs = _fresh(call_arguments(example))
    seed_(model, 0)
    return model(*args, **kwargs)


@contextmanager
def _without_graph(model: nn.Module) -> Iterator[None]:
    """Let nothing be kept for a backward pass, and yet be seen where the model itself turns gradients off."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _hooked(model: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
    """Call functions before and after each module, seeing the arguments before the user's own hooks change them."""
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fresh(values: Any) -> Any:
    """Nested values with copies of their tensors and of other objects that a call may change (caches)."""
    return pytree.tree_map(_fresh_leaf, values)


def _fresh_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if isinstance(leaf, nn.Module):
        return leaf
    try:
        return copy.deepcopy(leaf)
    except Exception:  # an object that can't be copied is handed on as it is
        return leaf


def _first_tensor(values: Any) -> Tensor | None:
    leaves = pytree.tree_leaves(values)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)


def _shape(values: Any) -> torch.Size:
    tensor = _first_tensor(values)
    return torch.Size() if tensor is None else tensor.shape
