"""The call that makes a layer of torch.nn again, with no more arguments than it needs."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.export.forward import literal
from outgrow.export.source import Call, Keyword, Size, Source, UnwritableError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is of a class of torch.nn itself, and no container."""
    kind = type(module)
    return getattr(nn, kind.__name__, None) is kind and kind not in (nn.Module, *_CONTAINERS)


def layer_call(layer: nn.Module, owner: str) -> Call:
    """Return the source that makes a layer of the same kind and sizes.

    Args:
        layer: A layer of torch.nn.
        owner: Name of the attribute that holds it.

    Returns:
        The call; its whole numbers are sizes.

    Raises:
        UnwritableError: What the constructor needs can't be read off the layer.

    Examples:
        >>> from outgrow.export.source import flat
        >>> flat(layer_call(nn.Conv2d(3, 8, 3, padding=1, bias=False), "conv"))
        'nn.Conv2d(3, 8, 3, padding=1, bias=False)'
        >>> flat(layer_call(nn.MaxPool2d(2), "pool")), flat(layer_call(nn.ReLU(), "act"))
        ('nn.MaxPool2d(2)', 'nn.ReLU()')
    """
    kind = type(layer)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in ("device", "dtype") and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    arguments = {name: _argument(layer, name) for name in parameters}
    arguments = {name: value for name, value in arguments.items() if value is not inspect.Parameter.empty}
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if not set(needed) <= set(arguments) or not _makes(kind, arguments, layer):
        raise UnwritableError(f"a {kind.__name__} of which torch.nn can't make another one")
    for name, value in list(arguments.items()):
        shorter = {key: part for key, part in arguments.items() if key != name}
        if name not in needed and _makes(kind, shorter, layer):
            arguments = shorter
        elif isinstance(value, tuple) and len(set(value)) == 1 and _makes(kind, arguments | {name: value[0]}, layer):
            arguments[name] = value[0]
    sources = {name: _source(value, name, owner) for name, value in arguments.items()}
    words = tuple(source if name in needed else Keyword(name, source) for name, source in sources.items())
    return Call(f"nn.{kind.__name__}", words)


def empty_source(tensor: Tensor, name: str) -> Source:
    """Return the source that makes a parameter or buffer of the same shape and type, with values as they come.

    Args:
        tensor: A parameter, or a tensor that is none.
        name: What it is called.

    Examples:
        >>> from outgrow.export.source import flat
        >>> flat(empty_source(nn.Parameter(torch.ones(2, 3)), "weight"))
        'nn.Parameter(torch.empty(2, 3))'
        >>> flat(empty_source(torch.tensor(3), "count"))
        'torch.empty((), dtype=torch.int64)'
    """
    sizes = tuple(Size(size, f"{name}_size") for size in tensor.shape)
    dtype = () if tensor.dtype == torch.float32 else (Keyword("dtype", literal(tensor.dtype)),)
    empty = Call("torch.empty", (*(sizes or ("()",)), *dtype))
    if not isinstance(tensor, nn.Parameter):
        return empty
    frozen = () if tensor.requires_grad else (Keyword("requires_grad", "False"),)
    return Call("nn.Parameter", (empty, *frozen))


def _argument(layer: nn.Module, name: str) -> Any:
    value = getattr(layer, name, inspect.Parameter.empty)
    if name == "bias" and (value is None or isinstance(value, Tensor)):
        return value is not None
    return value


def _makes(kind: type[nn.Module], arguments: Mapping[str, Any], layer: nn.Module) -> bool:
    """Whether a constructor makes a layer like this one of these arguments."""
    try:
        with torch.device("meta"):
            made = kind(**arguments)
    except Exception:  # whatever a constructor raises, it does not make such a layer
        return False
    return _facts(made) == _facts(layer)


def _facts(layer: nn.Module) -> list[Any]:
    """All that makes up a layer but the values of its tensors."""
    tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in layer.state_dict().items()}
    found: list[Any] = [tensors]
    for name, module in layer.named_modules():
        public = {key: value for key, value in vars(module).items() if key[:1] != "_" and key != "training"}
        found.append((name, type(module), public))
    return found


def _source(value: Any, name: str, owner: str) -> Source:
    if isinstance(value, (tuple, list)):
        parts = tuple(_source(part, name, owner) for part in value)
        return Call("", parts, "()" if isinstance(value, tuple) else "[]")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Size(value, name, owner)
    return literal(value)
