"""A graph of one forward pass as the statements of a `forward` method."""

import json
import math
import operator
from collections.abc import Callable, Collection, Sequence
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from outgrow.export.source import Call, Keyword, Source, UnwritableError, flat, lines

_BINARY: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
_IN_PLACE: dict[Any, str] = {operator.iadd: "add_", operator.isub: "sub_", operator.imul: "mul_"}
_UNARY: dict[Any, str] = {operator.neg: "-", operator.invert: "~"}
_HOMES: dict[str, Any] = {
    "torch": torch,
    "F": F,
    "torch.linalg": torch.linalg,
    "torch.special": torch.special,
    "torch.fft": torch.fft,
    "math": math,
}
_LETTERS = ("x", "y", "z", "u", "v", "w")


class Statements:
    """The statements of a graph, with variables that are used again once their value is no longer needed.

    Args:
        graph: The graph.
        stored: Source of the value of each node that is a tensor of the module, such as `self.weight`.
        module: Source of the module that a `call_module` node calls, by its path.
        alive: The nodes to write; all by default.

    Raises:
        UnwritableError: It calls something that torch alone has not.
    """

    def __init__(
        self,
        graph: fx.Graph,
        stored: dict[fx.Node, str],
        module: Callable[[str], str] = lambda path: f"self.{path}",
        alive: Collection[fx.Node] | None = None,
    ) -> None:
        self._module = module
        self._names = dict(stored)
        nodes = [node for node in graph.nodes if node not in stored and (alive is None or node in alive)]
        self._last = {used: at for at, node in enumerate(nodes) for used in node.all_input_nodes}
        self._free = list(_LETTERS)
        self._made = 0
        last = nodes[-2] if len(nodes) > 1 else None
        self._returned = last if last and last.op != "placeholder" and nodes[-1].args == (last,) else None
        self.inputs = [self._input(node) for node in nodes if node.op == "placeholder"]
        self.lines = [line for at, node in enumerate(nodes) for line in self._statement(node, at)]

    def _input(self, node: fx.Node) -> str:
        name = str(node.target)
        if not name.isidentifier() or node.args:
            raise UnwritableError(f"an input '{name}' that is optional, or any number of them")
        self._names[node] = name
        if name in self._free:
            self._free.remove(name)
        return name

    def _statement(self, node: fx.Node, at: int) -> list[str]:
        if node.op == "placeholder":
            return []
        if node.op == "output":
            return [] if self._returned is not None else lines(self._value(node.args[0]), 8, "return ")
        source = self._call(node)
        if node is self._returned:
            return lines(source, 8, "return ")
        done = [used for used in node.all_input_nodes if self._last[used] == at]
        names = list(dict.fromkeys(self._names[used] for used in done if self._names[used].isidentifier()))
        if node not in self._last:  # nobody reads its value: it writes into a tensor
            self._free = names + self._free
            return lines(source, 8)
        if names:
            name, self._free = names[0], names[1:] + self._free
        else:
            name = self._fresh()
        self._names[node] = name
        return lines(source, 8, f"{name} = ")

    def _fresh(self) -> str:
        if self._free:
            return self._free.pop(0)
        self._made += 1
        name = f"x{self._made}"
        return self._fresh() if name in self._names.values() else name

    def _call(self, node: fx.Node) -> Source:
        target: Any = node.target
        args = [self._value(arg) for arg in node.args]
        keywords = [Keyword(name, self._value(value)) for name, value in node.kwargs.items()]
        if node.op == "call_module":
            return Call(self._module(str(target)), (*args, *keywords))
        if node.op == "call_method":
            return Call(f"{flat(args[0])}.{target}", (*args[1:], *keywords))
        if node.op != "call_function":
            raise UnwritableError(f"a node of kind {node.op}")
        return _operator(target, args, node.args) or Call(function(target), (*args, *keywords))

    def _value(self, value: Any) -> Source:
        if isinstance(value, fx.Node):
            return self._names[value]
        if isinstance(value, slice):
            return Call("slice", tuple(self._value(part) for part in (value.start, value.stop, value.step)))
        if isinstance(value, (list, tuple)):
            return Call("", tuple(map(self._value, value)), "[]" if isinstance(value, list) else "()")
        return literal(value)


def _operator(target: Any, args: Sequence[Source], values: Sequence[Any]) -> Source | None:
    """The source of what Python has a sign for."""
    texts = [flat(arg) for arg in args]
    if target in _BINARY:
        first = f"({texts[0]})" if texts[0].startswith("-") else texts[0]
        return f"{first} {_BINARY[target]} {texts[1]}"
    if target in _UNARY:
        return f"{_UNARY[target]}{texts[0]}"
    if target in _IN_PLACE:
        return Call(f"{texts[0]}.{_IN_PLACE[target]}", tuple(args[1:]))
    if target is getattr:
        return f"{texts[0]}.{values[1]}"
    if target is operator.getitem:
        return f"{texts[0]}[{_index(args[1], values[1])}]"
    return None


def _index(source: Source, value: Any) -> str:
    """An index as it stands in square brackets."""
    if isinstance(value, tuple) and isinstance(source, Call) and value:
        return ", ".join(map(_index, source.args, value))
    if isinstance(value, slice) and isinstance(source, Call):
        start, stop, step = ("" if flat(part) == "None" else flat(part) for part in source.args)
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
    return flat(source)


def function(target: Any) -> str:
    """Return the source of a function of torch's.

    Args:
        target: The function, or an operator of ATen.

    Returns:
        Its name, as a file that imports torch and `torch.nn.functional as F` has it.

    Raises:
        UnwritableError: It is somebody else's.

    Examples:
        >>> function(torch.cat), function(F.relu), function(torch.ops.aten.relu.default)
        ('torch.cat', 'F.relu', 'torch.ops.aten.relu.default')
    """
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return f"torch.ops.{target}"
    name = getattr(target, "__name__", "")
    for home, module in _HOMES.items():
        if name and getattr(module, name, None) is target:
            return f"{home}.{name}"
    raise UnwritableError(f"{target}, which is no function of torch")


def literal(value: Any) -> str:
    """Return the source of a constant.

    Args:
        value: A number, a text, None, or a dtype, device, layout or memory format.

    Returns:
        Its source.

    Raises:
        UnwritableError: It is something else.

    Examples:
        >>> [literal(value) for value in (1, -0.5, True, None, "same", float("-inf"), torch.float32)]
        ['1', '-0.5', 'True', 'None', '"same"', 'float("-inf")', 'torch.float32']
    """
    if value is None or value is Ellipsis or isinstance(value, bool):
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, Real):  # of numpy, too
        number = int(value) if isinstance(value, Integral) else float(value)
        return repr(number) if math.isfinite(number) else f'float("{number}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    raise UnwritableError(f"a constant of type {type(value).__name__}")
