"""Run a model's exported graph on channel numbers, to find which channels must grow together."""

import io
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.net.inputs import Example, call_arguments, modes_kept
from outgrow.net.numbers import Numbers, Stored
from outgrow.net.rules import RULES


@dataclass
class Trace:
    """What one walk over the exported graph found.

    Args:
        numbers: The channel numbers, joined and pinned.
        stored: Numbers of each parameter and buffer, by its name in the state dict.
        roles: What each (tensor, dimension) is for, in the order of the graph: `out` hands channels out, `in` reads
            them, `channel` has one entry for each.
        frozen: Why each op that is not understood keeps its inputs from growing, by op and module.
    """

    numbers: Numbers = field(default_factory=Numbers)
    stored: dict[str, Stored] = field(default_factory=dict)
    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)


def trace(model: nn.Module, example: Example) -> Trace:
    """Export a model and walk its graph once with channel numbers in place of values.

    Args:
        model: Any module that `torch.export` can export; it is not changed.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        The channel numbers of every parameter and buffer.

    Raises:
        InputError: The model can't be exported with this example.
    """
    args, kwargs = call_arguments(example)
    try:
        with modes_kept(model), _quiet():
            exported = torch.export.export(model.eval(), args, kwargs, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"torch.export can't read {type(model).__name__} with this example: {first}") from error
    return _Walk(exported, model).result


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing whole graphs and stack traces where it can't export; its exception says it all."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            # recurrent layers list their weights anew whenever they are called, also while they are exported
            warnings.filterwarnings("ignore", message="The tensor attribute.* assigned during export")
            yield
    finally:
        logging.disable(level)


class _Walk:
    """One walk; it is also the `Site` that rules see, set to the node at hand."""

    def __init__(self, exported: torch.export.ExportedProgram, model: nn.Module) -> None:
        self.result = Trace()
        self.numbers = self.result.numbers
        self._values: dict[fx.Node, Any] = {}
        signature = exported.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        canonical = _canonical_names(model)
        self._names = {node: canonical.get(name, name) for node, name in names.items()}
        for node in exported.graph.nodes:
            self._step(node)

    def _step(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            self._values[node] = self._leaf(node)
        elif node.op == "call_function":
            self._node = node
            self._values[node] = self._call(node)
        elif node.op == "output":
            for leaf in pytree.tree_leaves(node.args):
                value = self._values.get(leaf) if isinstance(leaf, fx.Node) else None
                for numbers in _numbers_in(value):
                    self.numbers.pin(numbers, "it is an output of the network")

    def _leaf(self, node: fx.Node) -> Stored | Tensor | None:
        value = node.meta.get("val")
        name = self._names.get(node.name)
        if name is None or not isinstance(value, Tensor) or not value.ndim:
            return _blank(value)
        if name not in self.result.stored:
            self.result.stored[name] = Stored(name, tuple(self.numbers.new(size) for size in _shape(value)))
        return self.result.stored[name]

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = pytree.tree_map(
            lambda leaf: self._values.get(leaf) if isinstance(leaf, fx.Node) else leaf, (list(node.args), node.kwargs)
        )
        if node.target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], (list, tuple)) else None
        self.target: Any = node.target
        self.op = _op_name(node.target)
        bound = _bind(node.target, args, kwargs)
        value = node.meta.get("val")
        shape = _shape(value[0] if isinstance(value, (list, tuple)) and value else value)
        why = "outgrow has no rule for it yet"
        if self.op in RULES:
            try:
                result = RULES[self.op](self, bound, shape)
                if not isinstance(result, Tensor) or result.shape == shape:
                    return result
                why = f"its rule gives {list(result.shape)} in place of {list(shape)}"
            except Exception as error:  # whatever a rule did not foresee freezes what enters, and is never fatal
                why = f"its rule failed: {str(error).partition(chr(10))[0]}"
        self.freeze(bound, why)
        return pytree.tree_map(_blank, value)

    # what rules see of the walk

    def role(self, tensor: Stored, dim: int, role: str) -> None:
        """Note what a dimension of a stored tensor is for."""
        self.result.roles.setdefault((tensor.name, dim), set()).add(role)

    def freeze(self, values: Any, why: str) -> None:
        """Pin every number in `values`, naming this op and its module."""
        reason = f"{self.op}: {why}"
        found = False
        for numbers in _numbers_in(values):
            found = found or bool(numbers.any())
            self.numbers.pin(numbers, reason)
        if found:
            self.result.frozen.setdefault(f"{self.op} in {_module_of(self._node) or 'the model'}", why)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an exported value; a size that only the data tells counts as 1."""
    return tuple(size if isinstance(size, int) else 1 for size in getattr(value, "shape", ()))


def _blank(value: Any) -> Tensor | None:
    """No channels, in the shape of an exported value."""
    return torch.zeros((), dtype=torch.long).expand(_shape(value)) if isinstance(value, Tensor) else None


def _numbers_in(values: Any) -> Iterator[Tensor]:
    """All channel numbers in nested values, those of stored tensors included."""
    for leaf in pytree.tree_leaves(values, is_leaf=lambda leaf: isinstance(leaf, Stored)):
        if isinstance(leaf, (Stored, Tensor)):
            yield from leaf.runs if isinstance(leaf, Stored) else (leaf,)


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a tensor, tied ones included, to its first name."""
    first: dict[int, str] = {}
    names = {}
    for tensors in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            names[name] = first.setdefault(id(tensor), name)
    return names


def _op_name(target: Any) -> str:
    name = str(getattr(target, "__name__", target)).split(".")[0]
    return name if name in RULES else name.rstrip("_") or name


def _bind(target: Any, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give every argument its name in the op's schema."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return {**{f"argument{i}": value for i, value in enumerate(args)}, **kwargs}
    return {**{a.name: value for a, value in zip(schema.arguments, args, strict=False)}, **kwargs}


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths else ""
