"""How a model is called: with a tensor, a tuple of positional or a dict of keyword arguments."""

from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError

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


def gpus_of(model: nn.Module) -> list[int]:
    """Return the numbers of the CUDA devices that hold parameters of a model."""
    if not torch.cuda.is_initialized():
        return []
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


def seed_(model: nn.Module, seed: int) -> None:
    """Set torch's random states on the CPU and on the devices of a model, and no others.

    torch.manual_seed reaches every device, and takes milliseconds on a machine without one: for each kind of device it
    keeps the stack, to seed it should it ever come up.

    Args:
        model: The model.
        seed: The seed.
    """
    torch.default_generator.manual_seed(seed)
    for number in gpus_of(model):
        torch.cuda.default_generators[number].manual_seed(seed)


def check_kind(model: nn.Module) -> None:
    """Check that a model is one whose layers can be changed in place.

    Args:
        model: What a user passes.

    Raises:
        GrowthError: It is scripted, compiled, wrapped, or no module.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise GrowthError(f"expected a torch.nn.Module, got {name}")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise GrowthError(f"{name}: expected a module with its Python code, got a scripted one; pass what was scripted")
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise GrowthError(f"{name}: expected weights that have shapes, got a lazy layer; run the model once first")
    if name == "OptimizedModule":
        raise GrowthError("expected the network itself, got a compiled one; pass what was compiled, it is the same one")
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise GrowthError(f"{name}: expected the network itself; pass model.module, and wrap it again after an edit")


def misfit(model: nn.Module, error: Exception) -> str:
    """Say that a model fails on its example, given what it raised."""
    why = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (
        f"{type(model).__name__} does not run on this example: {why}; give the example as a tensor, a tuple of "
        f"positional or a dict of keyword arguments, as the model's forward takes them"
    )
