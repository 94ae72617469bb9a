"""A Trainer's optimizer, whose parameters must be those of the model."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from outgrow.errors import InputError
from outgrow.net.optimizers import owned_by


def demand_owned(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Check that optimizers have all parameters of a model that are trained, and no others.

    Raises:
        InputError: It has not; which, and what to do.
    """
    owned = owned_by(optimizers)
    lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
    foreign = len(owned - {id(parameter) for parameter in model.parameters()})
    if lost or foreign:
        shown = f"{', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''}" or "nothing"
        raise InputError(
            f"the optimizer lacks {shown} of the model's trained parameters, and has {foreign} that the model does not "
            "have: the model was changed after the optimizer was made. Change the model first and let the Trainer make "
            "the optimizer, or make it anew from model.parameters(); freeze what is not to be trained"
        )
