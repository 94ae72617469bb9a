"""Widen one axis of a model by hand."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.net.axes import Axis, axes, find_axis
from outgrow.net.carry import carry_average_, carry_optimizer_
from outgrow.net.edit import Edit
from outgrow.net.inputs import Example
from outgrow.net.preserve import verified
from outgrow.net.widening import Widening, widen


def apply_(
    model: nn.Module,
    found: Sequence[Axis],
    widenings: Sequence[Widening],
    *,
    inputs: Example,
    optimizer: Optimizer | None = None,
    averages: Sequence[AveragedModel] = (),
    generator: torch.Generator | None = None,
) -> Edit:
    """Apply widenings to a model, its optimizer and its averages, verified on `inputs`.

    Args:
        model: Changed in place.
        found: All axes of the model as it is now.
        widenings: The units to add.
        inputs: What to compare the outputs on.
        optimizer: Changed in place: new parameters, carried state.
        averages: Averaged models, changed in place.
        generator: Random source of weights that are not given.

    Returns:
        The edit.

    Raises:
        EditError: The function would have changed; everything is as before.
        InputError: The optimizer's state can't be carried; everything is as before.
    """
    edit = verified(model, inputs, lambda: widen(model, found, widenings, generator))
    try:
        if optimizer is not None:
            carry_optimizer_(optimizer, edit)
        for averaged in averages:
            carry_average_(averaged, edit)
    except Exception:
        edit.undo()
        raise
    return edit


def widen_(
    model: nn.Module,
    axis: str,
    units: int,
    *,
    example: Example,
    optimizer: Optimizer | None = None,
    averages: Sequence[AveragedModel] = (),
    generator: torch.Generator | None = None,
) -> Edit:
    """Add units on an axis, in place, without changing what the model computes.

    Consumers read the new units through zero weights; their own weights are drawn as for a fresh layer.

    Args:
        model: Any module that `torch.export` can export.
        axis: Name of the axis, or of a module that hands it out, as `outgrow.axes` lists them.
        units: How many to add, at least 1.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        optimizer: Gets the new parameters, with the state of the old ones.
        averages: Averaged weights of the model.
        generator: Random source of the new weights; torch's global one by default.

    Returns:
        The edit: `moved` is the largest change of an output relative to its scale, `undo()` takes the edit back.

    Raises:
        InputError: There is no such axis, it can't grow, `units` is less than 1, or the optimizer's state can't be
            carried.
        EditError: The function would have changed; everything is as before.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> edit = widen_(model, "0", 5, example=torch.zeros(1, 4))
        >>> model[2]
        Linear(in_features=8, out_features=2, bias=True)
    """
    if units < 1:
        raise InputError(f"expected at least one unit to add on '{axis}', got {units}")
    found = axes(model, example)
    widening = Widening(find_axis(found, axis), units)
    return apply_(model, found, [widening], inputs=example, optimizer=optimizer, averages=averages, generator=generator)
