"""What each module of a network says in source: the attributes it makes, and its forward, traced."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from keyword import iskeyword

from torch import fx, nn

from outgrow.export.forward import Statements, literal
from outgrow.export.layers import empty_source, is_layer, layer_call
from outgrow.export.source import Call, Inner, Source, UnwritableError

ROOT = "Network"
"""Name of the class of a network that has none of its own."""


@dataclass
class Body:
    """What the class of one module says.

    Args:
        kind: Name of the module's class.
        summary: First line of its docstring, if any.
        made: The statements of its constructor: what stands before a source, and the source.
        inputs: Names of what its forward takes.
        forward: The statements of its forward in eval mode.
        trains: Whether they are the same in train mode.
        depth: How many classes are nested in it, itself included.
    """

    kind: str
    summary: str
    made: list[tuple[str, Source]]
    inputs: Sequence[str]
    forward: Sequence[str]
    trains: bool
    depth: int


def read(net: nn.Module) -> tuple[Source, dict[str, Body]]:
    """Read a network whose forwards do not depend on the values that they get.

    Args:
        net: The network; not changed.

    Returns:
        The source that makes it, and the bodies of the modules in it that need a class, by their paths.

    Raises:
        UnwritableError: It can't be traced, calls something that torch has not, shares tensors, or has hooks.

    Examples:
        >>> source, bodies = read(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        >>> source.name, len(source.args), bodies
        ('nn.Sequential', 2, {})
    """
    for tensors in (net.named_parameters(remove_duplicate=False), net.named_buffers(remove_duplicate=False)):
        ids = [id(tensor) for _, tensor in tensors]
        if len(set(ids)) < len(ids):
            raise UnwritableError("tensors that are shared")
    try:
        copied = copy.deepcopy(net)  # tracing may leave constants on a module, and changes its mode
    except Exception as error:  # whatever the user's code raises
        raise UnwritableError(f"{type(net).__name__}, which can't be copied: {error}") from error
    bodies: dict[str, Body] = {}
    return _read(copied, "", bodies), bodies


def _read(module: nn.Module, path: str, bodies: dict[str, Body]) -> Source:
    """The source of a module; what it needs a class for goes into `bodies`, innermost first."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnwritableError(f"{path or type(module).__name__}, which has hooks")
    if is_layer(module):
        return layer_call(module, path.rpartition(".")[2])
    before = set(bodies)
    present = {name: child for name, child in module._modules.items() if child is not None}  # one may be there twice
    children = {name: _read(child, f"{path}.{name}".lstrip("."), bodies) for name, child in present.items()}
    if _is_list(module):
        parts = tuple(children.values())
        return Call("nn.Sequential", parts) if isinstance(module, nn.Sequential) else _module_list(parts)
    depth = 1 + max((bodies[inner].depth for inner in set(bodies) - before), default=0)
    bodies[path] = _body(module, path, [_child(name, child) for name, child in children.items()], depth)
    return Inner(path)


def _is_list(module: nn.Module) -> bool:
    """Whether a module is written as a list of what is in it, with numbers for names."""
    names = [name for name, child in module._modules.items() if child is not None]
    numbers = [str(at) for at in range(len(module._modules))]
    return type(module) in (nn.Sequential, nn.ModuleList) and names == numbers


def _child(name: str, made: Source) -> tuple[str, Source]:
    """The statement that puts a module into another one."""
    return (f"self.{name} = ", made) if _is_plain(name) else ("", Call("self.add_module", (literal(name), made)))


def _is_plain(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _module_list(parts: tuple[Source, ...]) -> Call:
    return Call("nn.ModuleList", (Call("", parts, "[]"),))


def _body(module: nn.Module, path: str, children: list[tuple[str, Source]], depth: int) -> Body:
    forward, train = _traced(module.eval()), _traced(copy.deepcopy(module).train())  # which may set buffers
    kind = type(module).__name__
    if kind == "Sequential":
        kind = "".join(word.capitalize() for word in path.replace(".", "_").split("_")) or ROOT
    made = _own_tensors(module) + children
    return Body(kind, _summary(type(module)), made, forward.inputs, forward.lines, forward.lines == train.lines, depth)


def _summary(kind: type[nn.Module]) -> str:
    """The first line of a class's own docstring, if it can stand in another one."""
    first = next(iter((vars(kind).get("__doc__") or "").splitlines()), "").strip()
    return "" if kind.__module__.startswith("torch.") or '"' in first or "\\" in first else first


def _own_tensors(module: nn.Module) -> list[tuple[str, Source]]:
    """The statements that make a module's own parameters and buffers."""
    found: list[tuple[str, Source]] = []
    for name, parameter in module.named_parameters(recurse=False):
        found.append((f"self.{name} = ", empty_source(parameter, name)))
    for name, buffer in module.named_buffers(recurse=False):
        found.append(("", Call("self.register_buffer", (f'"{name}"', empty_source(buffer, name)))))
    return found


class _OneLevel(fx.Tracer):
    """Records what the forward of one module does; the modules that it calls are called as they are."""

    proxy_buffer_attributes = True  # what is computed from buffers alone is recorded, too

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Call every module."""
        return True


def _traced(module: nn.Module) -> Statements:
    try:
        graph = _OneLevel().trace(module)
    except Exception as error:  # whatever the user's code raises where its values are not known
        raise UnwritableError(f"the forward of {type(module).__name__}: {error}") from error
    if any(name.startswith("_tensor_constant") for name in vars(module)):
        raise UnwritableError(f"a constant tensor in the forward of {type(module).__name__}")
    if isinstance(module, nn.Sequential):
        next(iter(graph.nodes)).target = "x"
    stored = {node: _attribute(module, str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    return Statements(graph, stored, lambda path: _attribute(module, path))


def _attribute(module: nn.Module, path: str) -> str:
    """The source of a module or tensor within a module, such as `self.blocks[0]`."""
    written, at = "self", module
    for name in path.split("."):
        inner = at._modules.get(name)
        other = f".{name}" if _is_plain(name) or inner is None else f".get_submodule({literal(name)})"
        written += f"[{name}]" if _is_list(at) else other
        at = inner if inner is not None else at
    return written
