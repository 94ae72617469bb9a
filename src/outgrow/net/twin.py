"""The twin of a block: a copy that shares with the rest of the model what the block shares with it."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def duplicate(module: Module, shared: Mapping[int, Any] | None = None) -> Module:
    """Copy a module, with the values of what it keeps in attributes as a result of its weights.

    Old weight norm, spectral norm and pruning keep such results, which belong to a graph and so can't be copied as
    they are; a forward pass computes them anew.

    Args:
        module: Any.
        shared: What stands for an object in the copy, by the object's id, as `copy.deepcopy` takes it.

    Returns:
        The copy.

    Examples:
        >>> import warnings
        >>> warnings.simplefilter("ignore")
        >>> layer = torch.nn.utils.weight_norm(nn.Linear(2, 2))
        >>> _ = layer(torch.zeros(1, 2))
        >>> torch.equal(duplicate(layer)(torch.ones(1, 2)), layer(torch.ones(1, 2)))
        True
    """
    memo: dict[int, Any] = {**(shared or {})}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    return copy.deepcopy(module, memo)


def twin(model: nn.Module, block: nn.Module) -> nn.Module:
    """Copy a block of a model.

    Modules, parameters, buffers and objects (such as a configuration) that are used outside the block too are not
    copied: the copy uses the very same ones, as the block does.

    Args:
        model: What the block belongs to.
        block: Any of its modules.

    Returns:
        The copy, not yet part of the model.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        >>> model[1][0].weight = model[0].weight
        >>> copied = twin(model, model[1])
        >>> copied[0].weight is model[0].weight, copied[1].weight is model[1][1].weight
        (True, False)
    """
    memo: dict[int, Any] = {}
    for module in _outside(model, block):
        held = (module, *module._parameters.values(), *module._buffers.values(), *vars(module).values())
        memo.update((id(thing), thing) for thing in held if thing is not None)
    memo.pop(id(block), None)
    return duplicate(block, memo)


def _outside(model: nn.Module, block: nn.Module) -> Iterator[nn.Module]:
    """Go over every module that can be reached without going through a block."""
    seen = {block}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += module.children()
            yield module


def own_parameters(model: nn.Module, block: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that nothing but the block uses, by their names within it."""
    tied = {id(parameter) for module in _outside(model, block) for parameter in module._parameters.values()}
    return {name: parameter for name, parameter in block.named_parameters() if id(parameter) not in tied}


def redraw_(module: nn.Module, names: Collection[str]) -> None:
    """Draw a block's parameters as if it were new, from torch's random state.

    Args:
        module: Changed in place. What its parts can reset themselves is reset; another matrix or filter is drawn from
            the normal distribution with its own mean and deviation, and another vector stays as it is.
        names: The parameters to draw; the others stay.
    """
    chosen = {id(parameter) for name, parameter in module.named_parameters() if name in names}
    done: set[int] = set()
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        mine = {id(parameter) for parameter in part.parameters()}
        if callable(reset) and mine and mine <= chosen:
            reset()
            done |= {id(parameter) for parameter in part.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in module.parameters():
            if id(parameter) in chosen - done and parameter.ndim > 1:
                parameter.copy_(_like(parameter))


def _like(tensor: Tensor) -> Tensor:
    return torch.randn_like(tensor) * tensor.std() + tensor.mean()
