"""Averaged weights that restart at each edit and lengthen with the stage."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

DECAY = 8
SETTLE_BATCHES = 32  # of the loader, for the statistics of BatchNorm


def averaged(model: nn.Module) -> AveragedModel:
    """Return polynomial-decay averages of a model's weights (Shamir and Zhang, arXiv 1212.1824).

    The t-th update since the last restart moves the average by `(DECAY + 1) / (t + DECAY + 1)` of the way, which weighs
    about the last ninth of the steps: short while a stage is young, long at its end.
    """
    return AveragedModel(model, multi_avg_fn=_update)


def restart_(average: AveragedModel) -> None:
    """Let the next update copy the live weights."""
    average.n_averaged.zero_()


@torch.no_grad()
def _update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
    weight = (DECAY + 1) / (float(count) + DECAY + 1)
    torch._foreach_lerp_(list(averages), list(current), weight)


def settle_statistics_(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Recompute the BatchNorm statistics of a model, in place, from the first batches of a loader."""
    update_bn(islice(iter(loader), SETTLE_BATCHES), model, device=next(model.parameters()).device)
