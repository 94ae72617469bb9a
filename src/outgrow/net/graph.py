"""The graph of one forward pass: exported, or recorded on real values where control flow depends on the data."""

import functools
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx

from outgrow.errors import GrowthError
from outgrow.net.inputs import Example, call_arguments, check_kind, misfit
from outgrow.net.kernels import fast_path
from outgrow.net.preserve import frozen_state, tensors_in


@dataclass(frozen=True)
class Graph:
    """A graph and the tensors that enter it.

    Args:
        nodes: In the order in which they run.
        stored: For each node that is a parameter or buffer, its first name in the model.
        recorded: Whether it was recorded on one example, with the branches that this takes.
    """

    nodes: list[fx.Node]
    stored: dict[fx.Node, str]
    recorded: bool = False


def graph_of(model: nn.Module, example: Example) -> Graph:
    """Export a model; where that fails, run it once and record what it does.

    Args:
        model: Any module; it is not changed.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        The graph of a forward pass in eval mode.

    Raises:
        GrowthError: The model is scripted, compiled or wrapped, or does not run on this example.
    """
    check_kind(model)
    with frozen_state(model), _quiet():
        model.eval()
        _hand_out_tensors_(model)
        exported = error = None
        try:
            exported = _exported(model, example)
            if not _hides_weights(exported):
                return exported
        except Exception as failure:
            error = failure
        try:
            with fast_path(False):
                return _recorded(model, example)
        except Exception as failure:
            if exported is not None:
                return exported
            raise GrowthError(misfit(model, failure)) from error


def _hand_out_tensors_(model: nn.Module) -> None:
    """Let a model hand out the tensors of its output alone, since `torch.export` does not take every class."""
    forward = model.forward

    @functools.wraps(forward)
    def tensors(*args: Any, **kwargs: Any) -> list[Tensor]:
        return list(tensors_in(forward(*args, **kwargs)))

    vars(model)["forward"] = tensors


def _exported(model: nn.Module, example: Example) -> Graph:
    args, kwargs = call_arguments(example)
    exported = torch.export.export(model, args, kwargs, strict=False)
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    canonical = _canonical_names(model)
    nodes = list(exported.graph.nodes)
    stored = {node: canonical.get(names[node.name], names[node.name]) for node in nodes if node.name in names}
    return Graph(nodes, stored)


def _hides_weights(graph: Graph) -> bool:
    """Whether layers stand in a graph of its own, as `torch.export` makes one of what runs under an autocast."""
    packed = [node for node in graph.nodes if str(node.target) == "wrap_with_autocast"]
    return any(read in graph.stored for node in packed for read in node.all_input_nodes)


def _recorded(model: nn.Module, example: Example) -> Graph:
    """Run the model on the values of the example, as `torch.export` would on none, branches taken as they come."""
    args, kwargs = call_arguments(example)

    def run(*inputs: Any) -> Any:
        return model(*inputs[: len(args)], **dict(zip(kwargs, inputs[len(args) :], strict=True)))

    known = inspect.signature(make_fx).parameters
    options: dict[str, Any] = {"record_stack_traces": True} if "record_stack_traces" in known else {}
    with torch.no_grad(), traceback.preserve_node_meta(), _noting_modules(model):
        record = make_fx(run, tracing_mode="real", pre_dispatch=True, _error_on_data_dependent_ops=False, **options)
        recorded = record(*args, *kwargs.values())
    by_id = {id(tensor): name for name, tensor in [*model.named_buffers(), *model.named_parameters()]}
    nodes = list(recorded.graph.nodes)
    tensors = {node: getattr(recorded, str(node.target), None) for node in nodes if node.op == "get_attr"}
    return Graph(
        nodes, {node: by_id[id(tensor)] for node, tensor in tensors.items() if id(tensor) in by_id}, recorded=True
    )


@contextmanager
def _noting_modules(model: nn.Module) -> Iterator[None]:
    """Note with each node the modules in whose forward it is made, as `torch.export` does."""
    paths = {module: path for path, module in model.named_modules()}
    stack: list[str] = []

    def note() -> None:
        traceback.current_meta["nn_module_stack"] = {path: (path, "") for path in stack}

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(paths[module])
        note()

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()
        note()

    handles = [module.register_forward_pre_hook(enter) for module in paths]
    handles += [module.register_forward_hook(leave) for module in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing whole graphs and stack traces where it can't export; its exception says it all."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            # the model's own warnings are for its user's own runs of it
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a tensor, tied ones included, to its first name."""
    first: dict[int, str] = {}
    names = {}
    for tensors in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            names[name] = first.setdefault(id(tensor), name)
    return names


def rounding(graph: Graph) -> float:
    """Return the relative rounding error of the coarsest floating-point values in a graph."""
    values = [
        value for node in graph.nodes if isinstance(value := value_of(node), Tensor) and value.is_floating_point()
    ]
    return max((torch.finfo(value.dtype).eps for value in values), default=0.0)


def live(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes that what the model hands back depends on; ops in place count, for what they write to."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        in_place = node.op == "call_function" and str(node.target).partition(".")[2].partition(".")[0].endswith("_")
        if node.op == "output" or in_place or any(user in found for user in node.users):
            found.add(node)
    return found


def modules_of(node: fx.Node) -> list[str]:
    """Return the paths of the modules in whose forward a node was made, from the outermost in."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path) for path, _ in stack.values()]


def where(node: fx.Node) -> str:
    """Return the innermost module and the line of the user's source, for a message."""
    places = [path for path in modules_of(node)[-1:] if path]
    files = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    own = [(file, number) for file, number in files if "/torch/" not in file] or files
    places += [f"{Path(file).name}:{number}" for file, number in own[-1:]]
    return ", ".join(places)


def value_of(node: fx.Node) -> Any:
    """Return the value that a node has in the graph: a tensor of its shape, or several."""
    return node.meta.get("val")


def is_float(value: Any) -> bool:
    """Whether a value is a tensor that can hold channels."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
