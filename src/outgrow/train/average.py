"""Averaged weights that restart at each edit and lengthen with the stage."""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from outgrow.data import Batches

DECAY = 8
SETTLE_BATCHES = 32  # of the loader, for the statistics of BatchNorm


def restart_(average: AveragedModel) -> None:
    """Let the next update copy the live weights."""
    average.n_averaged.zero_()


@torch.no_grad()
def update_(average: AveragedModel, model: nn.Module) -> None:
    """Take a step of a model into its polynomial-decay averages (Shamir and Zhang, arXiv 1212.1824).

    The t-th update since the last restart moves the average by `(DECAY + 1) / (t + DECAY + 1)` of the way, which weighs
    about the last ninth of the steps: short while a stage is young, long at its end. Buffers are copied. It is what
    `AveragedModel.update_parameters` does with such a rule, in half of its time, which small networks feel.

    Args:
        average: Changed in place.
        model: The live weights, of the same shapes.
    """
    kept: list[Tensor] = [*average.module.parameters()]
    live: list[Tensor] = [*model.parameters()]
    if count := int(average.n_averaged):
        torch._foreach_lerp_(kept, live, (DECAY + 1) / (count + DECAY + 1))
    else:
        torch._foreach_copy_(kept, live)
    if buffers := [*average.module.buffers()]:
        torch._foreach_copy_(buffers, [*model.buffers()])
    average.n_averaged += 1


def settling_examples(model: nn.Module, loader: Batches) -> int:
    """Return how many examples `settle_statistics_` reads: none where the model has no BatchNorm."""
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return 0
    return min(len(loader), SETTLE_BATCHES) * loader.batch_size


def settle_statistics_(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Recompute the BatchNorm statistics of a model, in place, from the first batches of a loader."""
    update_bn(islice(iter(loader), SETTLE_BATCHES), model, device=next(model.parameters()).device)
