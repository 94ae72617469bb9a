"""A saved network: a fresh seed with the blocks, tensors and settings of a size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError, InputError
from outgrow.models import SeedNetwork
from outgrow.net.carry import adopt_shapes_
from outgrow.net.deepen import deepen_
from outgrow.net.preserve import frozen_state
from outgrow.net.setting import Setting
from outgrow.net.surgery import tensors_of
from outgrow.stored import shown

SHOWN = 4  # differences that an error tells


def restored(
    seed: SeedNetwork, blocks: Sequence[str], tensors: Mapping[str, Tensor], settings: Sequence[Setting]
) -> nn.Module:
    """Build a saved network on the CPU, whatever torch's default device is; its random state stays as it is.

    Args:
        seed: The seed network that it grew from.
        blocks: Places of the blocks that were inserted, in order.
        tensors: Its parameters and buffers by name.
        settings: Sizes that its modules keep beside their weights.

    Returns:
        The network in eval mode.

    Raises:
        InputError: The seed network is another one, or the tensors or settings do not fit it.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        net, example = _built(seed)
        for place in blocks:
            try:
                deepen_(net, place, example=example)
            except GrowthError as error:
                raise InputError(f"the seed network is another one: {error}") from error
    if found := _differences(net, tensors):
        more = "; and more" if len(found) > SHOWN else ""
        raise InputError(f"the seed network is another one: {'; '.join(found[:SHOWN])}{more}")
    try:
        adopt_shapes_(net, dict(tensors))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"its tensors do not fit the seed network: {error}") from error
    for setting in settings:
        _set_(net, setting)
    _demand_answer(net.eval(), example, seed.outputs)
    return net


def _built(seed: SeedNetwork) -> tuple[nn.Module, Tensor]:
    """A fresh seed network and an example."""
    try:
        return seed.build(), seed.example()
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        raise InputError(f"the seed network can't be built: {error}") from error


def _differences(net: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Say which tensors the seed has and the file has not, or the other way, or in another form."""
    present = tensors_of(net)
    return [
        f"{name} is {_form(present.get(name))} in the seed and {_form(tensors.get(name))} in the file"
        for name in {**present, **tensors}
        if _kind(present.get(name)) != _kind(tensors.get(name))
    ]


def _kind(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """What growth does not change of a tensor."""
    return None if tensor is None else (tensor.dtype, tensor.ndim)


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{list(tensor.shape)}{'' if tensor.dtype == torch.float32 else f' ({tensor.dtype})'}"


def _set_(net: nn.Module, setting: Setting) -> None:
    """Set a number that a module keeps; nothing else can be set."""
    what = f"{setting.module or 'the network'}.{setting.attribute}"
    try:
        now: Any = setting.read(net)
        if type(now) is type(setting.value) or (now is None and isinstance(setting.value, float)):
            setting.write(net)
            return
    except (AttributeError, TypeError) as error:
        raise InputError(f"{what}: expected an attribute to be set to {setting.value}: {error}") from error
    raise InputError(f"{what}: expected a number to be set to {setting.value}, the seed network has {shown(now)}")


@torch.no_grad()
def _demand_answer(net: nn.Module, example: Tensor, outputs: int) -> None:
    """Check that all parts of a network fit together."""
    try:
        with frozen_state(net):
            shape = list(net(example).shape)
    except Exception as error:  # whatever the modules raise
        raise InputError(f"it does not run on an example of shape {list(example.shape[1:])}: {error}") from error
    if shape != [1, outputs]:
        raise InputError(f"it gives {shape} for one example: expected [1, {outputs}]")
