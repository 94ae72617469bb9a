"""Removals: smaller tensors in place of the old ones, without some units of an axis."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index as whole
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import GrowthError
from outgrow.net.axes import axes, find_axis
from outgrow.net.axis import Axis, Member
from outgrow.net.compensate import compensation
from outgrow.net.edit import Change, Edit
from outgrow.net.follow import followed
from outgrow.net.gains import Gain
from outgrow.net.inputs import Example
from outgrow.net.optimizers import Optimizers
from outgrow.net.preserve import lively, measured
from outgrow.net.resizing import resized_
from outgrow.net.surgery import replace_, tensors_of

Values = Mapping[str, Tensor]
"""Other values of tensors by name, in the shapes that they have before a removal."""


@dataclass(frozen=True, eq=False)
class Removal:
    """Units to remove from an axis.

    Args:
        axis: The axis, as the model has it now.
        units: Their numbers along it, ascending, each once [removed].
    """

    axis: Axis
    units: Tensor

    @classmethod
    def of(cls, axis: Axis, indices: Iterable[int] | Tensor) -> "Removal":
        """Check what is to be removed.

        Args:
            axis: The axis, as the model has it now.
            indices: Numbers of units in 0..size-1 in any order; negative ones count from the end.

        Returns:
            The removal.

        Raises:
            GrowthError: They are no whole numbers, name no unit, one that the axis has not, one twice, or all of them.
        """
        given = _whole_numbers(axis, indices)
        where, size = f"removing units of '{axis.name}'", axis.size
        if wrong := [i for i in given if not -axis.size <= i < axis.size]:
            raise GrowthError(
                f"{where}: expected numbers in 0..{size - 1} (or -{size}..-1, from the end), got {_listed(wrong)}"
            )
        units = torch.tensor(sorted(i % size for i in given), dtype=torch.long)
        if twice := units[1:][units[1:] == units[:-1]].unique().tolist():
            raise GrowthError(
                f"{where}: expected each unit once, got {_listed(twice)} more than once ({twice[0]} and "
                f"{twice[0] - size} are the same unit)"
            )
        if not 0 < len(units) < size:
            raise GrowthError(
                f"{where}: expected 1 to {size - 1} of its {size} units, got {len(units)}; at least one has to "
                f"{'stay' if len(units) else 'go'}"
            )
        return cls(axis, units)

    def __str__(self) -> str:
        return f"{len(self.units)} of {self.axis.size} units of {self.axis.name} ({_listed(self.units.tolist())})"

    def places(self, member: Member) -> Tensor:
        """Return where the units sit along the dimension of a member [removed * entries]."""
        return member.index[self.units].flatten()


def _whole_numbers(axis: Axis, indices: Iterable[int] | Tensor) -> list[int]:
    numbers = indices.tolist() if isinstance(indices, Tensor) else indices
    try:
        if isinstance(indices, Tensor) and indices.dtype == torch.bool:
            raise TypeError
        return [whole(i) for i in numbers]
    except TypeError as error:
        raise GrowthError(
            f"removing units of '{axis.name}': expected a list or tensor of whole numbers, got {indices!r}; "
            f"`mask.nonzero().flatten()` gives the numbers of a mask"
        ) from error


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def remove(
    model: nn.Module, found: Sequence[Axis], removals: Sequence[Removal], values: Values = MappingProxyType({})
) -> Edit:
    """Remove units from several axes of a model at once, in place; the units that stay keep their order.

    Args:
        model: Changed in place: new Parameters, the same modules.
        found: All axes of the model as it is now.
        removals: The units; at most one entry for each axis.
        values: What tensors are to be before the units go, such as weights that make up for them.

    Returns:
        The edit; what it did to the outputs is not yet measured.
    """
    present = tensors_of(model)
    stay = _stay(removals, values, present)
    smaller = {name: _part(values.get(name, present[name]).detach(), kept) for name, kept in stay.items()}
    for name in {gain.tensor for removal in removals for gain in removal.axis.gains}:
        smaller[name] *= _rescale(name, removals)
    tensors_back = replace_(model, smaller)
    try:
        settings, settings_back = resized_(model, [(removal.axis, -len(removal.units)) for removal in removals])
    except Exception:
        tensors_back()
        raise
    after = tensors_of(model)
    edit = Edit(
        "removing " + ", ".join(map(str, removals)),
        tuple(_change(name, present[name], after[name], kept, _rescale(name, removals)) for name, kept in stay.items()),
        [_renumbered(axis, removals, stay) for axis in found],
        settings=settings,
        model=model,
    )
    for action in (tensors_back, settings_back):
        edit.on_undo(action)
    return edit


def _stay(removals: Sequence[Removal], values: Values, present: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """For each tensor that changes and each of its dimensions, which places stay [kept]."""
    names = dict.fromkeys([*(member.tensor for r in removals for member in r.axis.members), *values])
    masks = {name: [torch.ones(size, dtype=torch.bool) for size in present[name].shape] for name in names}
    for removal in removals:
        for member in removal.axis.members:
            masks[member.tensor][member.dim][removal.places(member)] = False
    return {name: tuple(mask.nonzero().flatten() for mask in dims) for name, dims in masks.items()}


def _part(tensor: Tensor, kept: Sequence[Tensor]) -> Tensor:
    """A copy of the places that stay."""
    part = tensor
    for dim, places in enumerate(kept):
        if len(places) < tensor.shape[dim]:
            part = part.index_select(dim, places.to(tensor.device))
    return part.clone() if part is tensor else part


def _rescale(name: str, removals: Sequence[Removal]) -> float:
    """What the gains of RMS norms are multiplied with, for units that go as if they had been zero."""
    sizes = [(r.axis.size, len(r.units)) for r in removals for gain in r.axis.gains if gain.tensor == name]
    return math.prod(Gain.factor(size, size - gone) for size, gone in sizes)


def _change(name: str, old: Tensor, new: Tensor, kept: tuple[Tensor, ...], scale: float) -> Change:
    return Change(name, old, new, tuple(torch.arange(len(places)) for places in kept), kept, scale)


def _renumbered(axis: Axis, removals: Sequence[Removal], stay: Mapping[str, Sequence[Tensor]]) -> Axis:
    """The axis as it is after the removals, its own or those of axes beside it in the same tensors."""
    units = torch.ones(axis.size, dtype=torch.bool)
    for removal in removals:
        if removal.axis is axis:
            units[removal.units] = False
    members = []
    for member in axis.members:
        index = member.index[units]
        if member.tensor in stay:
            index = torch.searchsorted(stay[member.tensor][member.dim], index)
        members.append(replace(member, index=index))
    return replace(axis, members=tuple(members), size=int(units.sum()))


def shrink_(
    model: nn.Module,
    found: Sequence[Axis],
    removals: Sequence[Removal],
    values: Values = MappingProxyType({}),
    *,
    inputs: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
    own: Sequence[Values] = (),
) -> Edit:
    """Apply removals to a model, its optimizer and its averages in one edit, measured on `inputs`.

    Args:
        model: Changed in place.
        found: All axes of the model as it is now.
        removals: The units; at most one entry for each axis.
        values: What tensors of the model are to be before the units go, such as weights that make up for them.
        inputs: What to compare the outputs on, in eval mode.
        optimizer: One or several, changed in place: new parameters, carried state.
        averages: Averaged models, changed in place.
        own: The same as `values` of each average, by its own weights; without any they only lose the units.

    Returns:
        The edit.
    """

    def edited() -> Edit:
        return measured(model, inputs, lambda: remove(model, found, removals, values))

    edit = followed(model, edited, optimizer, averages)
    kept = {change.name: change.kept for change in edit.changes}
    for averaged, tensors in zip(averages, own, strict=bool(own)):
        smaller = {name: _part(t.detach(), kept.get(name, ())) for name, t in tensors.items()}
        edit.on_undo(replace_(averaged.module, smaller))
    return edit


def remove_(
    model: nn.Module,
    axis: str,
    indices: Iterable[int] | Tensor,
    *,
    example: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
    compensate: Example | None = None,
) -> Edit:
    """Remove units from an axis, in place: their weights go from every layer that makes, reads or normalises them.

    The network then computes what it would with every weight that reads these units set to zero. Units that nothing
    reads yet, such as new ones, go without a change of the outputs; others change them. Over a stream with RMS norms it
    computes what it would if these channels were zero throughout.

    Args:
        model: Any module.
        axis: Name of the axis, as `outgrow.axes` lists it, or of a module or tensor along which it lies.
        indices: Numbers of the units, 0..size-1; negative ones count from the end.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments. The change of the outputs is
            measured on it.
        optimizer: One or several: gets the new parameters, with the state of what stays.
        averages: Averaged weights of the model.
        compensate: A batch of real inputs in the form of `example`. Each linear layer or convolution that reads the
            axis then gets the least-squares weights (and bias, where it has one) with which the units that stay stand
            in for those that go, for what it reads of this batch in eval mode; averages likewise, for their own. Layers
            that are not called as modules stay as they are, for example the output projection of
            `nn.MultiheadAttention`; see `outgrow.net.compensate`.

    Returns:
        The edit: `moved` is the largest change of an output in eval mode relative to its scale, `undo()` takes the edit
        back.

    Raises:
        GrowthError: There is no such axis, it can't change, the units can't go, the model can't run on `compensate`, or
            the optimizer or an average is that of another model; everything is as before.
        EditError: The edited model fails to run; everything is as before.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> edit = remove_(model, "0", [0, 3, -1], example=torch.zeros(1, 4))
        >>> model[2]
        Linear(in_features=5, out_features=2, bias=True)
        >>> edit.undo()
        >>> model[2]
        Linear(in_features=8, out_features=2, bias=True)
    """
    example = lively(model, example)
    found = axes(model, example)
    removal = Removal.of(find_axis(found, axis), indices)
    own = [
        _stand_ins(averaged.module, removal, compensate) if _of_one_shape(model, averaged.module, removal) else {}
        for averaged in averages
    ]
    return shrink_(
        model,
        found,
        [removal],
        _stand_ins(model, removal, compensate),
        inputs=example,
        optimizer=optimizer,
        averages=averages,
        own=own,
    )


def _stand_ins(model: nn.Module, removal: Removal, inputs: Example | None) -> dict[str, Tensor]:
    """Weights with which what stays stands in for what goes, as far as a batch tells."""
    if inputs is None:
        return {}
    return compensation(model, [(member, removal.places(member)) for member in removal.axis.consumers], inputs)


def _of_one_shape(model: nn.Module, average: nn.Module, removal: Removal) -> bool:
    """Whether an average has what goes; one that has not is refused when it should follow."""
    live, present = tensors_of(model), tensors_of(average)
    names = [member.tensor for member in removal.axis.members]
    return all(name in present and present[name].shape == live[name].shape for name in names)
