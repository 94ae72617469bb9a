"""Growth that is done again: a fresh model brought to the sizes of a saved one, so that its state can be loaded."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import GrowthError, InputError
from outgrow.grow.event import Event
from outgrow.net.axis import Axis
from outgrow.net.deepen import deepen_
from outgrow.net.inputs import Example
from outgrow.net.resizing import settings_of
from outgrow.net.setting import Setting, apply_settings_
from outgrow.net.surgery import replace_, tensors_of

SHOWN = 3  # names that an error tells


def sizes_to_save(model: nn.Module, axes: Iterable[Axis]) -> dict[str, Any]:
    """Return what a fresh model needs to become as large as a model, as JSON.

    That is shapes, attributes beside them, and the values of buffers along what can grow that its state dict leaves
    out.
    """
    saved, tensors = _saved(model), tensors_of(model)
    growing = [member.tensor for axis in axes if axis.growable for member in axis.members]
    grown = [name for name in dict.fromkeys(growing) if name not in saved and not tensors[name].is_complex()]
    return {
        "shapes": {name: list(tensor.shape) for name, tensor in saved.items()},
        "settings": [vars(setting) for setting in settings_of(model, axes)],
        "values": {name: tensors[name].tolist() for name in grown},
    }


def blocks_of(history: Iterable[Event]) -> list[str]:
    """Return the places of the blocks that were inserted, in order."""
    return [growth.where for event in history for growth in event.growths if growth.kind == "insert"]


def regrow_(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    averages: Sequence[AveragedModel],
    example: Example,
    blocks: Sequence[str],
    saved: Mapping[str, Any],
) -> None:
    """Bring a fresh model, with its optimizers and averages, to saved sizes; nothing happens where it has them.

    Tensors of other sizes are NaN afterwards, and have no state in the optimizers: load both.

    Args:
        model: Changed in place: the model as it was made before it grew.
        optimizers: Get the new parameters; none where they are built afterwards.
        averages: Become copies of the model.
        example: One input.
        blocks: Places where blocks were inserted, in order.
        saved: What `sizes_to_save` returned.

    Raises:
        InputError: The model is another one.
    """
    shapes = {name: torch.Size(shape) for name, shape in saved["shapes"].items()}
    if {name: tensor.shape for name, tensor in _saved(model).items()} == shapes:
        return
    if _saved(model).keys() != shapes.keys():
        _insert_(model, optimizers, averages, example, blocks)
    present = _saved(model)
    other = [name for name in {**present, **shapes} if not _may_become(present.get(name), shapes.get(name))]
    if other:
        more = f" and {len(other) - SHOWN} others" if len(other) > SHOWN else ""
        raise InputError(
            f"expected the {type(model).__name__} whose state was saved, as it was before it grew; it differs in "
            f"{', '.join(other[:SHOWN])}{more}: make it with the same code and options"
        )
    before = tensors_of(model)
    new = {name: _unset(present[name], shape) for name, shape in shapes.items() if present[name].shape != shape}
    new |= _other_values(before, saved.get("values", {}))
    replace_(model, new)
    after = tensors_of(model)
    became = {id(before[name]): after[name] for name in new}
    for optimizer in optimizers:
        for parameter in [parameter for parameter in optimizer.state if id(parameter) in became]:
            del optimizer.state[parameter]
        for group in optimizer.param_groups:
            group["params"][:] = [became.get(id(parameter), parameter) for parameter in group["params"]]
    apply_settings_(model, [Setting(**values) for values in saved["settings"]])
    for average in averages:
        average.module = copy.deepcopy(model)


@contextmanager
def filled(model: nn.Module) -> Iterator[None]:
    """Let tensors that are unset be noise for a while: on NaN every function looks alike."""
    unset = [x for x in tensors_of(model).values() if x.is_floating_point() and x.numel() and bool(x.isnan().all())]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in unset:
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor in unset:
                tensor.fill_(math.nan)


def _insert_(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    averages: Sequence[AveragedModel],
    example: Example,
    blocks: Sequence[str],
) -> None:
    for place in blocks:
        try:
            deepen_(model, place, example=example, optimizer=optimizers, averages=averages)
        except GrowthError as error:
            raise InputError(
                f"expected the {type(model).__name__} whose state was saved, as it was before it grew: {error}"
            ) from error


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, and the buffers that a state dict has, by first name."""
    stored = model.state_dict().keys()
    parameters = dict(model.named_parameters())
    return {name: tensor for name, tensor in tensors_of(model).items() if name in parameters or name in stored}


def _other_values(present: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The buffers whose saved values have another shape."""
    known = {name: present[name] for name in values if name in present}
    made = {name: torch.tensor(values[name], dtype=old.dtype, device=old.device) for name, old in known.items()}
    return {name: new for name, new in made.items() if new.shape != known[name].shape}


def _may_become(tensor: Tensor | None, shape: torch.Size | None) -> bool:
    return tensor is not None and shape is not None and tensor.ndim == len(shape)


def _unset(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor.new_full(shape, math.nan if tensor.is_floating_point() else 0)
