"""Widen axes of a model, with its optimizer and averages, verified."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import GrowthError
from outgrow.net.axes import axes, find_axis
from outgrow.net.axis import Axis
from outgrow.net.edit import Edit
from outgrow.net.enlargement import widen
from outgrow.net.follow import followed
from outgrow.net.inits import INITS
from outgrow.net.inputs import Example
from outgrow.net.optimizers import Optimizers
from outgrow.net.preserve import lively, verified
from outgrow.net.surgery import tensors_of
from outgrow.net.widening import Widening


def apply_(
    model: nn.Module,
    found: Sequence[Axis],
    widenings: Sequence[Widening],
    *,
    inputs: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
    generator: torch.Generator | None = None,
) -> Edit:
    """Apply widenings to a model, its optimizer and its averages, verified on `inputs`.

    Args:
        model: Changed in place.
        found: All axes of the model as it is now.
        widenings: The units to add.
        inputs: What to compare the outputs on.
        optimizer: One or several, changed in place: new parameters, carried state.
        averages: Averaged models, changed in place.
        generator: Random source of weights that are not given.

    Returns:
        The edit.
    """
    inputs = lively(model, inputs)

    def edited() -> Edit:
        return verified(model, inputs, lambda: widen(model, found, widenings, generator))

    return followed(model, edited, optimizer, averages)


def widen_(
    model: nn.Module,
    axis: str,
    units: int,
    *,
    example: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
    init: str | Mapping[str, Tensor] = "fresh",
    generator: torch.Generator | None = None,
) -> Edit:
    """Add units on an axis, in place, without changing what the model computes.

    Consumers read the new units through zero weights, or through weights that cancel (`net2net`, `twins`). Over a
    stream with RMS norms it is the other way round: new channels are zero, and gains make up for their number.

    Args:
        model: Any module.
        axis: Name of the axis, as `outgrow.axes` lists it, or of a module or tensor along which it lies.
        units: How many to add, at least 1: channels, or heads or groups where a unit is one of those.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        optimizer: One or several: gets the new parameters, with the state of the old ones.
        averages: Averaged weights of the model.
        init: The new units' weights. `fresh` draws them as for a fresh layer, `copy` copies units at random (for
            splitting by later noise or training); both are read through zeros at first. `net2net` copies units at
            random and divides the outgoing weights of each among it and its copies, unevenly; `twins` draws pairs of
            equal units that are read through opposite weights; see `outgrow.net.inits`. Or tensors by name of the
            producing weights, in the shape of the weight with as many entries along the axis as come in.
        generator: Random source of the new weights; torch's global one by default.

    Returns:
        The edit: `moved` is the largest change of an output relative to its scale, `undo()` takes the edit back.

    Raises:
        GrowthError: There is no such axis, it can't grow, `units` or `init` is not what is expected or can't be had on
            this axis, the function would have changed, or the optimizer is of another model; everything is as before.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> edit = widen_(model, "0", 5, example=torch.zeros(1, 4))
        >>> model[2]
        Linear(in_features=8, out_features=2, bias=True)
    """
    if not isinstance(units, int) or isinstance(units, bool) or units < 1:
        raise GrowthError(f"expected a whole number of at least one unit to add on '{axis}', got {units!r}")
    found = axes(model, example)
    widening = _initialised(model, find_axis(found, axis), units, init, generator)
    return apply_(model, found, [widening], inputs=example, optimizer=optimizer, averages=averages, generator=generator)


def _initialised(
    model: nn.Module, axis: Axis, units: int, init: str | Mapping[str, Tensor], generator: torch.Generator | None
) -> Widening:
    """The units with their own weights."""
    if isinstance(init, str) and init in INITS:
        return INITS[init](model, axis, units, generator)
    tensors = tensors_of(model)
    if not isinstance(init, Mapping) or not all(isinstance(given, Tensor) for given in init.values()):
        raise GrowthError(f"unknown init {init!r}: expected one of {', '.join(INITS)}, or tensors by name")
    for name, given in init.items():
        member = next((m for m in axis.producers if m.tensor == name), None)
        if member is None:
            names = ", ".join(m.tensor for m in axis.producers)
            raise GrowthError(f"init for '{name}', which does not hand out axis {axis.name}; expected {names}")
        shape = list(tensors[name].shape)
        shape[member.dim] = units * member.index.shape[1]
        if list(given.shape) != shape:
            raise GrowthError(f"init for '{name}': expected shape {shape} for {units} units, got {list(given.shape)}")
    return Widening(axis, units, dict(init))
