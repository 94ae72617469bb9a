"""Running statistics of BatchNorm in a model with new channels."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch
from outgrow.net.edit import Change


@torch.no_grad()
def settle_new(model: nn.Module, changes: Mapping[str, Change], batches: Sequence[Batch], objective: Objective) -> None:
    """Give the new channels of every BatchNorm the mean and variance of what reaches it, in eval mode.

    What new channels hand on is read through zero columns, so one pass does for all norms.

    Args:
        model: Already widened; changed in place.
        changes: How its tensors were widened, by name.
        batches: The examples.
        objective: Runs the model.
    """
    norms = {path: norm for path, norm in _norms(model).items() if f"{path}.running_mean" in changes}
    if not norms:
        return
    sums = {path: torch.zeros(3, norm.num_features, dtype=torch.float64) for path, norm in norms.items()}

    def add(path: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1).double()
        count = torch.full((len(x),), float(x.shape[1]), device=x.device)
        sums[path] = sums[path].to(x.device) + torch.stack([count, x.sum(1), x.square().sum(1)])

    handles = [norm.register_forward_pre_hook(partial(add, path)) for path, norm in norms.items()]
    try:
        for batch in batches:
            objective.mean(model, batch, {})
    finally:
        for handle in handles:
            handle.remove()
    for path, (count, total, squares) in sums.items():
        mean = total / count
        var = (squares - count * mean.square()).clamp_min(0) / (count - 1).clamp_min(1)
        for key, value in (("running_mean", mean), ("running_var", var)):
            change = changes[f"{path}.{key}"]
            change.new.copy_(value)
            change.new[change.keep[0]] = change.old


@torch.no_grad()
def settle_all(model: nn.Module, paths: Sequence[str], batches: Sequence[Batch], objective: Objective) -> None:
    """Compute the running statistics of BatchNorms anew, of present and new channels.

    One pass in which these norms use the statistics of each batch, as in training, and keep their plain average over
    batches (precise BatchNorm, Wu and Johnson, arXiv 2105.07576). Everything else stays in its mode.

    Args:
        model: In eval mode; changed in place.
        paths: The norms.
        batches: The examples, more than one in each batch.
        objective: Runs the model.
    """
    norms = [norm for path, norm in _norms(model).items() if path in set(paths)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches
        norm.train()
    for batch in batches if norms else ():
        objective.mean(model, batch, {})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def training_norms(model: nn.Module) -> list[str]:
    """Return the paths of the BatchNorms whose running statistics follow training: not those kept in eval mode."""
    return [path for path, norm in _norms(model).items() if norm.training or not model.training]


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
