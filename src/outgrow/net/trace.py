"""Run a model's graph on channel numbers, to find which channels must grow together."""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from outgrow.net.gains import Gain, gain_of
from outgrow.net.graph import Graph, is_float, live, modules_of, value_of, where
from outgrow.net.numbers import Numbers, Stored, compact, steady
from outgrow.net.rules import RULES
from outgrow.net.site import no_channels

NO_RULES = {"wrap_with_set_grad_enabled": "it runs under no_grad(), where new units would never learn"}
"""Why ops without a rule freeze what enters, where more can be said than that they have none."""


@dataclass(frozen=True, eq=False)
class Shaped:
    """An op whose result may have sizes from the code in its shape.

    Args:
        op: Its name.
        modules: Paths of the modules in whose forward it runs, from the outermost in.
        where: Innermost module and line of the source.
        numbers: Channel numbers of the result.
        cut: Key of the cut in `Trace.cuts`, if it cuts channels into parts.
    """

    op: str
    modules: tuple[str, ...]
    where: str
    numbers: Tensor
    cut: str = ""


@dataclass
class Trace:
    """What one walk over the graph found.

    Args:
        graph: The graph.
        numbers: The channel numbers, joined and pinned.
        stored: Numbers of each parameter and buffer, by its name in the state dict.
        roles: What each (tensor, dimension) is for, in the order of the graph: `out` hands channels out, `in` reads
            them, `channel` has one entry for each.
        shaped: Every op that may have sizes from the code in its shape.
        gains: RMS norms, by the name of their gains.
        cuts: How many ways there are to let a cut grow, by its key.
    """

    graph: Graph
    numbers: Numbers = field(default_factory=Numbers)
    stored: dict[str, Stored] = field(default_factory=dict)
    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    shaped: list[Shaped] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)

    def roots_in(self, shaped: Shaped) -> set[int]:
        """Return the representatives of all numbers in an op's result."""
        (small,) = compact(shaped.numbers)
        return {self.numbers.root(number) for number in small.unique().tolist() if number}


def walk(model: nn.Module, graph: Graph, choices: Mapping[str, int]) -> Trace:
    """Walk a graph with channel numbers in place of values.

    Args:
        model: The model that the graph is of.
        graph: Its graph.
        choices: For cuts of channels into parts, by their key, which of the likely ways to grow to take; the first
            where nothing is said.

    Returns:
        The channel numbers of every parameter and buffer.
    """
    return _Walk(model, graph, choices).result


class _Walk:
    """One walk; it is also the `Site` that rules see, set to the node at hand."""

    def __init__(self, model: nn.Module, graph: Graph, choices: Mapping[str, int]) -> None:
        self._model, self._choices = model, choices
        self.result = Trace(graph)
        self.numbers = self.result.numbers
        self._values: dict[fx.Node, Any] = {}
        self._gains: dict[fx.Node, str] = {}
        self._live = live(graph.nodes)
        for node in graph.nodes:
            self._step(node)
        self._tie_attention()
        self._name_frozen()

    def _step(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "get_attr"):
            self._values[node] = self._leaf(node)
        elif node.op == "call_function":
            self._node, self._cut = node, ""
            self._values[node] = self._call(node)
        elif node.op == "output":
            for leaf in pytree.tree_leaves(node.args):
                value = self._values.get(leaf) if isinstance(leaf, fx.Node) else None
                for numbers in _numbers_in(value):
                    self.numbers.pin(numbers, "it is an output of the network")

    def _leaf(self, node: fx.Node) -> Stored | Tensor | None:
        value = value_of(node)
        name = self.result.graph.stored.get(node)
        if name is None or not is_float(value):
            return _blank(value)
        if name not in self.result.stored:
            shape = _shape(value)
            runs = tuple(self.numbers.new(size) for size in shape)
            self.result.stored[name] = Stored(name, runs, tuple(range(len(shape))))
        return self.result.stored[name]

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = pytree.tree_map(
            lambda leaf: self._values.get(leaf) if isinstance(leaf, fx.Node) else leaf, (list(node.args), node.kwargs)
        )
        if node.target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], (list, tuple)) else None
        self.target: Any = node.target
        self.op = op_name(node.target)
        bound = _bind(node.target, args, kwargs)
        value = value_of(node)
        shape = _shape(value[0] if isinstance(value, (list, tuple)) and value else value)
        if self.op == "mean" and self._is_rms(node, bound["self"]):
            return no_channels(shape)
        why = NO_RULES.get(self.op, "outgrow has no rule for it yet")
        if self.op in RULES:
            try:
                result = RULES[self.op](self, bound, shape)
                if isinstance(value, (list, tuple)) and isinstance(result, Tensor):  # frozen: it gave the first only
                    return [result, *map(_blank, value[1:])]
                if not isinstance(result, (Tensor, Stored)) or tuple(result.shape) == shape:
                    return result
                why = f"its rule gives {list(result.shape)} in place of {list(shape)}"
            except Exception as error:  # whatever a rule did not foresee freezes what enters, and is never fatal
                why = f"its rule failed: {str(error).partition(chr(10))[0]}"
        self.freeze(bound, why)
        return pytree.tree_map(_blank, value)

    def _is_rms(self, node: fx.Node, squares: Any) -> bool:
        """Whether a mean is that of an RMS norm over channels, written out, with gains that are a plain parameter."""
        found = gain_of(node)
        if found is None or isinstance(squares, Stored) or steady(self.numbers.roots(squares), squares.ndim - 1):
            return False  # steady: the mean runs over positions, or over the inside of a head
        gains, eps = found
        name = self.result.graph.stored.get(gains)
        leaf = self._leaf(gains) if name is not None else None
        if not isinstance(leaf, Stored) or len(leaf.runs) != 1:
            return False
        path = (modules_of(node) or [""])[-1]
        held = vars(self._model.get_submodule(path)) if path else {}
        attribute = next((key for key, value in held.items() if isinstance(value, float) and value == eps), "")
        self.result.gains[leaf.name] = Gain(leaf.name, path, attribute, eps or 0.0)
        return True

    def _tie_attention(self) -> None:
        """`nn.MultiheadAttention` insists that its heads fill just the width that it reads: tie the two."""
        for path, module in self._model.named_modules():
            if not isinstance(module, nn.MultiheadAttention):
                continue
            prefix = f"{path}." if path else ""
            packed, out = (self.result.stored.get(prefix + n) for n in ("in_proj_weight", "out_proj.weight"))
            reads = packed or self.result.stored.get(f"{prefix}q_proj_weight")
            if reads is not None and out is not None:
                self.numbers.join(reads.runs[1], out.runs[1], "heads")

    def _name_frozen(self) -> None:
        """Let weights that no rule has seen as such, like those of a parametrization, be axes too, with the reason."""
        seen = {name for name, _ in self.result.roles}
        reasons = self.numbers.reasons()
        for name, tensor in self.result.stored.items():
            rows = math.prod(tensor.shape) > len(tensor.runs[0]) > 0 and self.numbers.root(int(tensor.runs[0][0]))
            if name not in seen and rows in reasons:
                self.result.roles[name, 0] = set()

    # what rules see of the walk

    def role(self, tensor: Stored, dim: int, role: str) -> None:
        """Note what a dimension of a stored tensor is for."""
        original = tensor.dims[dim]
        if original is not None:
            self.result.roles.setdefault((tensor.name, original), set()).add(role)

    def note(self, values: Tensor) -> None:
        """Note that sizes in the code may stand behind a shape."""
        if values.any():
            modules = tuple(modules_of(self._node))
            self.result.shaped.append(Shaped(self.op, modules, where(self._node), values, self._cut))

    def grows(self, factors: Sequence[int]) -> int:
        """Choose which part of a cut grows: heads before their size, and never what counts queries, keys, values."""
        path = (modules_of(self._node) or [""])[-1]
        kind = type(self._model.get_submodule(path)).__qualname__ if path else type(self._model).__qualname__
        self._cut = f"{kind} {self.op} {list(factors)}"
        order = list(range(len(factors)))
        if factors[0] == 3:
            order = [*order[1:], 0]
        self.result.cuts[self._cut] = len(order)
        return order[self._choices.get(self._cut, 0)]

    def rescale(self, tensor: Stored) -> None:
        """Note an `nn.RMSNorm`."""
        path = tensor.name.rpartition(".")[0]
        module = self._model.get_submodule(path)
        eps = getattr(module, "eps", None)
        value = float(eps) if eps is not None else torch.finfo(next(module.parameters()).dtype).eps
        self.result.gains[tensor.name] = Gain(tensor.name, path, "eps" if hasattr(module, "eps") else "", value)

    def freeze(self, values: Any, why: str) -> None:
        """Pin every number in `values`, naming this op and its module."""
        if self._node not in self._live:  # it must still run, but what it gives is of no use to anybody
            for numbers in _numbers_in(values):
                self.note(numbers)
            return
        place = where(self._node)
        reason = f"{self.op}: {why}" + (f" ({place})" if place else "")
        for numbers in _numbers_in(values):
            self.numbers.pin(numbers, reason)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an exported value; a size that only the data tells counts as 1."""
    return tuple(size if isinstance(size, int) else 1 for size in getattr(value, "shape", ()))


def _blank(value: Any) -> Tensor | None:
    """No channels, in the shape of an exported value."""
    return no_channels(_shape(value)) if isinstance(value, Tensor) else None


def _numbers_in(values: Any) -> Iterator[Tensor]:
    """All channel numbers in nested values, those of stored tensors included."""
    for leaf in pytree.tree_leaves(values, is_leaf=lambda leaf: isinstance(leaf, Stored)):
        if isinstance(leaf, (Stored, Tensor)):
            yield from leaf.runs if isinstance(leaf, Stored) else (leaf,)


def op_name(target: Any) -> str:
    """Return the name of an op as the table of rules has it: in-place ones go by that of their twin."""
    name = str(getattr(target, "__name__", target)).split(".")[0]
    return name if name in RULES else name.rstrip("_") or name


def _bind(target: Any, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Give every argument its name in the op's schema."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return {**{f"argument{i}": value for i, value in enumerate(args)}, **kwargs}
    return {**{a.name: value for a, value in zip(schema.arguments, args, strict=False)}, **kwargs}
