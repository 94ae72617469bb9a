"""Carry an optimizer's state and averaged weights through an edit."""

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.net.edits import Change, Edit
from outgrow.net.surgery import replace_, settle_sizes_, tensors_of


def carry_optimizer_(optimizer: Optimizer, edit: Edit) -> None:
    """Give an optimizer the edited parameters in place of the old ones, with its state.

    Old slices of every moment are kept bit for bit and new slices are zero. For Adam and AdamW each newborn slice has
    its own bias correction from its birth: the zero moments and old step count alone would give it a first step of 3.2
    learning rates (method.md, section 10).

    Args:
        optimizer: Changed in place; an `edit.undo()` restores it.
        edit: The edit that was applied to the model.
    """
    changes = {id(change.old): change for change in edit.changes if isinstance(change.old, nn.Parameter)}
    groups = [list(group["params"]) for group in optimizer.param_groups]
    replaced: list[tuple[Change, dict[str, Any] | None]] = []
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            change = changes.get(id(parameter))
            if change is None:
                continue
            group["params"][i] = change.new
            state = optimizer.state.pop(parameter, None)
            replaced.append((change, state))
            if state is not None:
                optimizer.state[change.new] = {
                    key: change.carry(value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
                    for key, value in state.items()
                }
    newborns = Newborns.of(optimizer)
    births = dict(newborns.births) if newborns is not None else {}
    if newborns is not None:
        newborns.carry([change for change, state in replaced if state], optimizer)

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


class Newborns:
    """Bias correction of Adam's moments for each slice from its own birth.

    Adam divides its moments by `1 - beta^t` with one step count t for a whole parameter. A slice born s steps ago needs
    `1 - beta^s`, so after each step its update is scaled by

        (1 - beta1^t) / (1 - beta1^s) * sqrt((1 - beta2^s) / (1 - beta2^t)).

    Attributes:
        births: For each parameter with young slices, the step at which each entry was born [shape of the parameter].
    """

    _known: ClassVar["WeakKeyDictionary[Optimizer, Newborns]"] = WeakKeyDictionary()

    def __init__(self, optimizer: Optimizer) -> None:
        self.births: dict[Tensor, Tensor] = {}
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
            born = self.births.pop(change.old, torch.zeros((), dtype=torch.int32).expand(change.old.shape))
            now = int(optimizer.state[change.new].get("step", 0))
            self.births[change.new] = change.carry(born.to(torch.int32).to(change.new.device), now)

    def _remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._before = {parameter: parameter.detach().clone() for parameter in self.births}

    @torch.no_grad()
    def _correct(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter not in self._before or parameter.grad is None:
                    continue
                step = int(optimizer.state[parameter]["step"])
                births = self.births[parameter]
                scale = _correction(births, step, float(beta1), float(beta2)).to(parameter)
                parameter.copy_(torch.lerp(self._before[parameter], parameter, scale))
                if (1 - float(beta2) ** (step - int(births.max()))) > 0.999:  # grown up: the factor is 1 within 0.05 %
                    del self.births[parameter]
        self._before = {}


def _correction(births: Tensor, step: int, beta1: float, beta2: float) -> Tensor:
    """The factor of each entry's update: 1 for those born at step 0."""
    dates, which = births.unique(return_inverse=True)
    ages = (step - dates).double()
    factors = (1 - beta1**step) / (1 - beta1**ages) * ((1 - beta2**ages) / (1 - beta2**step)).sqrt()
    return torch.where(dates == 0, torch.ones_like(factors), factors)[which]


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
    if missing := set(present) ^ set(tensors):
        raise KeyError(f"these tensors are in the seed or in the file only: {', '.join(sorted(missing)[:4])}")
    replace_(model, {name: tensors[name].to(present[name].device) for name in present})
    for module in model.modules():
        settle_sizes_(module)
