"""A Trainer's optimizer: the one inside, whose parameters it must be, and in which order."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from outgrow.errors import InputError


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer inside of accelerate's."""
    while not isinstance(getattr(optimizer, "optimizer", None), (type(None), property)):
        optimizer = optimizer.optimizer
    return optimizer


def demand_owned(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that an optimizer has all parameters of a model that are trained, and no others.

    Raises:
        InputError: It has not; which, and what to do.
    """
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
    foreign = len(owned - {id(parameter) for parameter in model.parameters()})
    if lost or foreign:
        shown = f"{', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''}" or "nothing"
        raise InputError(
            f"the optimizer lacks {shown} of the model's trained parameters, and has {foreign} that the model does not "
            "have: the model was changed after the optimizer was made. Change the model first and let the Trainer make "
            "the optimizer, or make it anew from model.parameters(); freeze what is not to be trained"
        )


def _ranks(model: nn.Module) -> dict[int, int]:
    return {id(parameter): rank for rank, parameter in enumerate(model.parameters())}


def is_in_order(model: nn.Module, optimizer: Optimizer) -> bool:
    """Return whether an optimizer has the parameters of each group in the model's order, as the Trainer makes it."""
    ranks = _ranks(model)
    orders = [[ranks[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    return all(order == sorted(order) for order in orders)


def order_(model: nn.Module, optimizer: Optimizer) -> None:
    """Bring each group into the model's order, in which an optimizer made for the grown model has it, too."""
    ranks = _ranks(model)
    for group in optimizer.param_groups:
        group["params"].sort(key=lambda parameter: ranks[id(parameter)])
