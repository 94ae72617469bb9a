"""Fresh entries of a tensor: what a new layer of torch's starts with, for units that nothing else is said about."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def fresh_entries(
    owner: nn.Module,
    name: str,
    old: Tensor,
    shape: Sequence[int],
    role: str,
    dim: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Return starting values [shape] of new entries of a tensor, as a fresh layer of its kind would have them.

    Args:
        owner: The module that has the tensor.
        name: The tensor's name; its last part says what it is.
        old: The tensor before.
        shape: Shape of the new entries.
        role: `out` for rows of weights, `in` for columns, `channel` for one entry a channel.
        dim: The dimension of the tensor along which they are new.
        generator: Random source; torch's global one by default.

    Returns:
        Uniform in +-1/sqrt(fan-in) for rows and filters of weights and for biases of layers; gain 1, shift 0, mean 0
        and variance 1 for norms; the mean of the present entries along the dimension for anything else.
    """
    kind = name.rpartition(".")[2]
    if isinstance(owner, nn.modules.batchnorm._NormBase):
        return torch.full(list(shape), 1.0 if kind in ("weight", "running_var") else 0.0)
    if role == "out" and isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        rows = torch.randn(list(shape), generator=generator) * old.float().std().cpu()
        if owner.padding_idx is not None:
            rows[owner.padding_idx] = 0.0
        return rows
    weight = getattr(owner, "weight", None) if kind == "bias" else old
    if isinstance(weight, Tensor) and weight.ndim > 1 and (role != "channel" or isinstance(owner, _LAYERS)):
        fan_in = weight.numel() // weight.shape[dim if role == "out" else 0]
        return (torch.rand(list(shape), generator=generator) * 2 - 1) / math.sqrt(max(fan_in, 1))
    mean = old.float().mean(dim, keepdim=True).cpu()
    rest = [size for at, size in enumerate(shape) if at != dim]
    alike = mean.ndim == len(shape) and rest == [size for at, size in enumerate(mean.shape) if at != dim]
    return (mean if alike else mean.mean()).expand(list(shape))
