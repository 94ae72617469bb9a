"""The training state of a network: all that its next step depends on, as tensors and JSON values.

It holds the weights and buffers of a model and of its average, the optimizer's groups and state, and the attributes
that went with the sizes of axes. What it does not hold: the layers themselves, where a run is, and sources of chance.
"""

import copy
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.net.axis import Axis
from outgrow.net.newborns import Newborns
from outgrow.net.resizing import settings_of
from outgrow.net.setting import Setting, apply_settings_
from outgrow.net.surgery import plain_strides, replace_, tensors_of

Tensors = dict[str, Tensor]
Facts = dict[str, Any]

_NO_OPTIONS = {"params", "param_names"}


def captured(
    model: nn.Module, optimizer: Optimizer, average: AveragedModel, axes: Iterable[Axis] = ()
) -> tuple[Tensors, Facts]:
    """Return the training state of a network.

    Args:
        model: The network.
        optimizer: Its optimizer.
        average: Its averaged weights.
        axes: Its axes, for the attributes that change with them, such as numbers of heads.

    Returns:
        Tensors by name, those in use and no copies, and JSON values.

    Raises:
        InputError: The optimizer trains a parameter that is not the model's.
    """
    names = _names(model, optimizer)
    states = {names[id(parameter)]: state for parameter, state in optimizer.state.items()}
    moments = {
        f"{key}.{name}": value
        for name, state in states.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    tensors = joined({"model": tensors_of(model), "average": tensors_of(average), "optimizer": moments})
    return tensors, {
        "training": model.training,
        "groups": [_group(group, names) for group in optimizer.param_groups],
        "numbers": {
            name: {key: value for key, value in state.items() if not isinstance(value, Tensor)}
            for name, state in states.items()
        },
        "settings": [vars(setting) for setting in settings_of(model, axes)],
        "strides": {
            name: tensor.stride() for name, tensor in tensors.items() if tensor.stride() != plain_strides(tensor)
        },
    }


def restore_(
    model: nn.Module,
    optimizer: Optimizer,
    average: AveragedModel,
    tensors: Mapping[str, Tensor],
    facts: Facts,
) -> None:
    """Put a training state into a network of the same layers, of whatever sizes, with its optimizer and average.

    Args:
        model: Changed in place: the seed that the network grew from, with the blocks that it got.
        optimizer: Changed in place: one of the same kind for this model.
        average: Changed in place: any average of this model.
        tensors: What `captured` returned first, as read from a file.
        facts: What it returned second, as read from JSON.

    Raises:
        InputError: The network has other layers, or the optimizer is of another kind.
    """
    laid = {name: _laid_out(tensor, facts["strides"].get(name)) for name, tensor in tensors.items()}
    _replace_(model, part(laid, "model"))
    apply_settings_(model, [Setting(**values) for values in facts["settings"]])
    average.module = copy.deepcopy(model)
    _replace_(average, part(laid, "average"))
    _refill_(optimizer, dict(model.named_parameters()), part(laid, "optimizer"), facts)
    for one in (model, average.module):
        one.train(facts["training"])


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> Tensors:
    """Return the tensors of several parts in one dict, each under the name of its part, a dot, and its own."""
    return {f"{name}.{inner}": tensor for name, tensors in parts.items() for inner, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> Tensors:
    """Return the tensors of one part of `joined`, under their own names.

    Examples:
        >>> part(joined({"a": {"x.y": torch.ones(1)}, "b": {"x": torch.zeros(1)}}), "a")
        {'x.y': tensor([1.])}
    """
    return {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _names(model: nn.Module, optimizer: Optimizer) -> dict[int, str]:
    """The name of every parameter that the optimizer has, by its identity."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    if any(id(parameter) not in names for parameter in chain(held, optimizer.state)):
        raise InputError(
            f"expected an optimizer of {type(model).__name__} alone, received a {type(optimizer).__name__} that trains "
            f"other parameters, too: their state has no name to be saved under"
        )
    return names


def _group(group: Mapping[str, Any], names: Mapping[int, str]) -> Facts:
    return {
        "names": [names[id(parameter)] for parameter in group["params"]],
        "options": {key: value for key, value in group.items() if key not in _NO_OPTIONS},
    }


def _laid_out(tensor: Tensor, strides: Iterable[int] | None) -> Tensor:
    """A copy in memory of its own, with the strides that the tensor had: a kernel may sum in their order."""
    if strides is None:
        return tensor.clone()
    return torch.empty_strided(tensor.shape, tuple(strides), dtype=tensor.dtype).copy_(tensor)


def _replace_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    present = tensors_of(module)
    if other := sorted(present.keys() ^ tensors.keys()):
        raise InputError(
            f"expected the tensors of {type(module).__name__} as it was saved, found others: {', '.join(other[:4])} "
            f"{'is' if len(other) == 1 else 'are'} in one of them only: its code has changed since"
        )
    replace_(module, {name: tensors[name].to(old.device) for name, old in present.items()})


def _refill_(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor], facts: Facts
) -> None:
    """Give an optimizer the parameters of a model, in the saved order, with their saved state."""
    if len(facts["groups"]) != len(optimizer.param_groups):
        raise InputError(
            f"expected an optimizer with {len(facts['groups'])} groups of parameters, as it was saved, received one "
            f"with {len(optimizer.param_groups)}"
        )
    optimizer.state.clear()
    for group, saved in zip(optimizer.param_groups, facts["groups"], strict=True):
        group["params"][:] = [parameters[name] for name in saved["names"]]
        group.update({key: _tuples(value) for key, value in saved["options"].items()})
        if "param_names" in group:
            group["param_names"] = list(saved["names"])
    on_device = {id(p) for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    for name, numbers in facts["numbers"].items():
        optimizer.state[parameters[name]] = {key: _tuples(value) for key, value in numbers.items()}
    for path, value in moments.items():
        key, _, name = path.partition(".")
        parameter = parameters[name]
        counts = not value.ndim and id(parameter) not in on_device  # counts of steps stay where they cost no wait
        optimizer.state[parameter][key] = value if counts else value.to(parameter.device)
    Newborns.follow(optimizer)


def _tuples(value: Any) -> Any:
    """A JSON value with tuples in place of lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
