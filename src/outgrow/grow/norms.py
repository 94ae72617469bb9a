"""Running statistics of BatchNorm in a model with new channels or new norms."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch
from outgrow.net.edit import Change


@torch.no_grad()
def settle(model: nn.Module, new: Mapping[str, Tensor], batches: Sequence[Batch], objective: Objective) -> None:
    """Give channels of BatchNorms the mean and variance of what reaches them, in one pass in eval mode.

    A norm takes on what it has seen so far before it runs, so that what comes behind it is reached by what it would be
    reached by. Of several batches, later ones tell the first norm of a chain what earlier ones have passed: the others
    are exact but for that.

    Args:
        model: In eval mode; changed in place.
        new: The channels of each norm, by its path.
        batches: The examples.
        objective: Runs the model.
    """
    sums: dict[str, Tensor] = {}

    def update(path: str, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        channels = new[path].to(inputs[0].device)
        x = inputs[0].transpose(0, 1)[channels].flatten(1).double()
        seen = torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)])
        sums[path] = count, total, squares = sums.get(path, 0) + seen
        mean = total / count
        var = (squares - count * mean.square()).clamp_min(0) / (count - 1).clamp_min(1)
        for name, value in (("running_mean", mean), ("running_var", var)):
            buffer = norm.get_buffer(name)
            buffer[channels] = value.to(buffer)

    handles = [model.get_submodule(path).register_forward_pre_hook(partial(update, path)) for path in new]
    try:
        for batch in batches if new else ():
            objective.mean(model, batch, {})
    finally:
        for handle in handles:
            handle.remove()


def new_channels(model: nn.Module, changes: Mapping[str, Change]) -> dict[str, Tensor]:
    """Return the new channels of BatchNorms, by path, of a model whose tensors were widened as `changes` say."""
    found = {}
    for path in tracking(model):
        if change := changes.get(f"{path}.running_mean"):
            is_new = torch.ones(len(change.new), dtype=torch.bool)
            is_new[change.keep[0]] = False
            found[path] = is_new.nonzero().flatten()
    return found


def tracking(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorms of a model that have running statistics, by path."""
    norms = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    return {path: norm for path, norm in norms.items() if norm.running_mean is not None}
