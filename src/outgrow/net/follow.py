"""Let everything beside the model follow an edit: its optimizer, averaged weights, and what `torch.compile` knows."""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import GrowthError
from outgrow.net.carry import carry_average_, carry_optimizer_
from outgrow.net.edit import Edit
from outgrow.net.optimizers import Optimizers, each_of


def followed(
    model: nn.Module, edited: Callable[[], Edit], optimizer: Optimizers | None, averages: Sequence[AveragedModel]
) -> Edit:
    """Make an edit and let an optimizer and averages follow it.

    Args:
        model: Changed in place.
        edited: Edits the model and returns the edit.
        optimizer: One or several, changed in place: new parameters, carried state.
        averages: Averaged models, changed in place.

    Returns:
        The edit; where anything of this fails, everything is as before.

    Raises:
        GrowthError: An optimizer or an average is none, or of another model.
    """
    optimizers = each_of(optimizer)
    if not isinstance(averages, Sequence) or not all(isinstance(one, AveragedModel) for one in averages):
        raise GrowthError(f"averages: expected a list of torch.optim.swa_utils.AveragedModel, got {averages!r}")
    before = dict(model.named_parameters(remove_duplicate=False))
    with torch.inference_mode(False):
        edit = edited()
    try:
        for change in edit.changes:
            if isinstance(change.old, nn.Parameter) and change.old.grad is not None:
                change.new.grad = change.carry(change.old.grad)  # what is accumulated counts at the next step
        if optimizers:
            carry_optimizer_(optimizers, edit, model, before)
        for averaged in averages:
            carry_average_(averaged, edit, before)
    except Exception:
        edit.undo()
        raise
    if "torch._dynamo" in sys.modules:  # it gives up after 8 shapes without saying so
        torch._dynamo.reset()
    return edit
