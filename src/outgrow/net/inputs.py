"""How a model is called: with a tensor, a tuple of positional or a dict of keyword arguments."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Example = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


def call_arguments(inputs: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that `inputs` stands for.

    Examples:
        >>> call_arguments({"x": 1})
        ((), {'x': 1})
    """
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def call(model: nn.Module, inputs: Example) -> Any:
    """Call a model on inputs in any of the forms."""
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put the train or eval mode of every module back afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
