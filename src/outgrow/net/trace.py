"""Run a model's exported graph on channel numbers, to find which channels must grow together."""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.net.inputs import Example, call_arguments
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
    training = model.training
    try:
        model.eval()
        exported = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"torch.export can't read {type(model).__name__} with this example: {first}") from error
    finally:
        model.train(training)
    return _Walk(exported, model).result


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
        if node.op == "placeholder":
            self._values[node] = self._placeholder(node)
        elif node.op == "call_function":
            self._node = node
            self._values[node] = self._call(node)
        elif node.op == "output":
            for leaf in pytree.tree_leaves(node.args):
                value = self._values.get(leaf) if isinstance(leaf, fx.Node) else None
                if isinstance(value, Tensor):
                    self.numbers.pin(value, "it is an output of the network")

    def _placeholder(self, node: fx.Node) -> Stored | Tensor | None:
        shape = getattr(node.meta.get("val"), "shape", None)
        if shape is None:
            return None
        name = self._names.get(node.name)
        if name is None or not len(shape):
            return torch.zeros((), dtype=torch.long).expand([int(size) for size in shape])
        if name not in self.result.stored:
            self.result.stored[name] = Stored(name, tuple(self.numbers.new(int(size)) for size in shape))
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
        shape = tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()
        rule = RULES.get(self.op)
        if rule is not None:
            try:
                return rule(self, bound, shape)
            except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
                why = f"its rule failed: {error}"
        else:
            why = "outgrow has no rule for it yet"
        self.freeze(bound, why)
        return (
            pytree.tree_map(lambda leaf: torch.zeros(leaf.shape, dtype=torch.long), value)
            if value is not None
            else None
        )

    # what rules see of the walk

    def role(self, tensor: Stored, dim: int, role: str) -> None:
        """Note what a dimension of a stored tensor is for."""
        self.result.roles.setdefault((tensor.name, dim), set()).add(role)

    def freeze(self, values: Any, why: str) -> None:
        """Pin every number in `values`, naming this op and its module."""
        reason = f"{self.op}: {why}"
        found = False
        for leaf in pytree.tree_leaves(values, is_leaf=lambda leaf: isinstance(leaf, Stored)):
            for numbers in leaf.runs if isinstance(leaf, Stored) else [leaf] if isinstance(leaf, Tensor) else []:
                found = found or bool(numbers.any())
                self.numbers.pin(numbers, reason)
        if found:
            self.result.frozen.setdefault(f"{self.op} in {_module_of(self._node) or 'the model'}", why)


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
