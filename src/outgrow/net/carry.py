"""Carry an optimizer's state and averaged weights through an edit."""

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.net.edit import Change, Edit, grid
from outgrow.net.surgery import replace_, tensors_of


def carry_optimizer_(optimizer: Optimizer, edit: Edit) -> None:
    """Give an optimizer the edited parameters in place of the old ones, with its state.

    Old slices of every moment are kept bit for bit and new slices are zero. For Adam and AdamW each newborn slice has
    its own bias correction from its birth: the zero moments and old step count alone would give it a first step of 3.2
    learning rates (method.md, section 10).

    Args:
        optimizer: Changed in place; an `edit.undo()` restores it.
        edit: The edit that was applied to the model.

    Raises:
        InputError: The optimizer keeps state in another shape than its parameter's.
    """
    changes = {id(change.old): change for change in edit.changes if isinstance(change.old, nn.Parameter)}
    groups = [list(group["params"]) for group in optimizer.param_groups]
    replaced: list[tuple[Change, dict[str, Any] | None]] = []
    newborns = Newborns.of(optimizer)
    births = dict(newborns.births) if newborns is not None else {}

    def put_back() -> None:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"][:] = parameters
        for change, state in replaced:
            optimizer.state.pop(change.new, None)
            if state is not None:
                optimizer.state[change.old] = state
        if newborns is not None:
            newborns.births = births

    edit.on_undo(put_back)
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            change = changes.get(id(parameter))
            if change is None:
                continue
            group["params"][i] = change.new
            state = optimizer.state.pop(parameter, None)
            replaced.append((change, state))
            if state is not None:
                optimizer.state[change.new] = _carried(state, change, type(optimizer).__name__)
    if newborns is not None:
        newborns.carry([change for change, state in replaced if state], optimizer)


def _carried(state: dict[str, Any], change: Change, optimizer: str) -> dict[str, Any]:
    """The state of a grown parameter; counts are copied, so that the old ones stay as they are for an undo."""
    carried = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            carried[key] = value
        elif value.shape == change.old.shape:
            carried[key] = change.carry(value)
        elif value.numel() == 1:
            carried[key] = value.clone()
        else:
            raise InputError(
                f"{optimizer} keeps '{key}' in shape {list(value.shape)} for {change.name} {list(change.old.shape)}: "
                f"expected state in the shape of the parameter, as SGD and Adam have it"
            )
    return carried


class Newborns:
    """Bias correction of Adam's moments for each slice from its own birth.

    Adam divides its moments by `1 - beta^t` with one step count t for a whole parameter. A slice born s steps ago needs
    `1 - beta^s`, so after each step its update is scaled by

        (1 - beta1^t) / (1 - beta1^s) * sqrt((1 - beta2^s) / (1 - beta2^t)).

    Attributes:
        births: When the entries of each parameter with young slices were born.
    """

    _known: ClassVar["WeakKeyDictionary[Optimizer, Newborns]"] = WeakKeyDictionary()

    def __init__(self, optimizer: Optimizer) -> None:
        self.births: dict[Tensor, Births] = {}
        self._before: dict[Tensor, Tensor] = {}
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._correct)

    @classmethod
    def of(cls, optimizer: Optimizer) -> "Newborns | None":
        """Return the newborns of an Adam or AdamW optimizer, None for others, which correct no bias."""
        if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
            return None
        if optimizer not in cls._known:
            cls._known[optimizer] = cls(optimizer)
        return cls._known[optimizer]

    def carry(self, changes: list[Change], optimizer: Optimizer) -> None:
        """Note that the new entries of each change are born now."""
        for change in changes:
            known = self.births.pop(change.old, None)
            old = known.places if known else tuple(torch.zeros(size, dtype=torch.long) for size in change.old.shape)
            now = int(optimizer.state[change.new].get("step", 0))
            places = tuple(torch.full((size,), now) for size in change.new.shape)
            for born, keep, before in zip(places, change.keep, old, strict=True):
                born[keep] = before
            self.births[change.new] = Births.at(places, change.new.device)

    def _remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._before = {parameter: parameter.detach().clone() for parameter in self.births}

    @torch.no_grad()
    def _correct(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            beta1, beta2 = map(float, group["betas"])
            for parameter in group["params"]:
                if parameter not in self._before or parameter.grad is None:
                    continue
                step = int(optimizer.state[parameter]["step"])
                births, start = self.births[parameter], self._before[parameter]
                if group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
                    start = start * (1 - float(group["lr"]) * group["weight_decay"])  # decay has no moments to correct
                factors = start.new_tensor([_correction(step, step - date, beta1, beta2) for date in births.dates])
                parameter.copy_(torch.lerp(start, parameter, factors[births.which]))
                if 1 - beta2 ** (step - births.dates[-1]) > 0.999:  # grown up: the factor is 1 within 0.05 %
                    del self.births[parameter]
        self._before = {}


@dataclass(frozen=True, eq=False)
class Births:
    """When the entries of a parameter were born, in steps of its optimizer.

    Args:
        places: For each dimension, when each of its places came in [size]; an entry is as young as its youngest place.
        dates: The different dates, in order.
        which: Which of the dates is each entry's [shape of the parameter].
    """

    places: tuple[Tensor, ...]
    dates: list[int]
    which: Tensor

    @classmethod
    def at(cls, places: tuple[Tensor, ...], device: torch.device) -> "Births":
        """Build it from the dates of the places."""
        dates = torch.cat(places).unique()
        which = reduce(torch.maximum, grid([torch.searchsorted(dates, born) for born in places]))
        return cls(places, dates.tolist(), which.to(device))


def _correction(step: int, age: int, beta1: float, beta2: float) -> float:
    """The factor of an entry's update: exactly 1 for one that is as old as its parameter."""
    if age == step:
        return 1.0
    return (1 - beta1**step) / (1 - beta1**age) * ((1 - beta2**age) / (1 - beta2**step)) ** 0.5


@torch.no_grad()
def carry_average_(averaged: AveragedModel, edit: Edit) -> None:
    """Give averaged weights the shapes after an edit: old entries stay, new ones start at the live model's values.

    Args:
        averaged: Changed in place; an `edit.undo()` restores it.
        edit: The edit that was applied to the live model.
    """
    present = tensors_of(averaged.module)
    grown = {c.name: c.carry(present[c.name].detach(), c.new.detach().to(present[c.name])) for c in edit.changes}
    edit.on_undo(replace_(averaged.module, grown))


def adopt_shapes_(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors of a saved network into a model of the same layers and other widths, in place.

    Args:
        model: The seed that the saved network grew from.
        tensors: Its state dict.

    Raises:
        KeyError: The names don't agree, so that the network grew from another seed.
    """
    present = tensors_of(model)
    if missing := set(model.state_dict()) ^ set(tensors):
        raise KeyError(f"these tensors are in the seed or in the file only: {', '.join(sorted(missing)[:4])}")
    saved = {name: old for name, old in present.items() if name in tensors}  # buffers that are not saved stay
    replace_(model, {name: tensors[name].detach().to(old.device, copy=True) for name, old in saved.items()})
