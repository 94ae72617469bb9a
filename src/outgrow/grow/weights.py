"""The weights of a linear layer or convolution as a matrix [outputs, features], its bias as the last column."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.patches import groups_of

WIDE = 2048  # features or outputs: a layer of more is wide


def weights_of(module: nn.Module) -> list[Tensor]:
    """Return the weight of a layer, and its bias where it has one."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    return [weight, bias] if isinstance(bias, Tensor) else [weight]


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """Return the outputs and the features, with the constant, of one group of a layer.

    Examples:
        >>> sizes_of(nn.Linear(4, 3)), sizes_of(nn.Conv2d(4, 6, 3, groups=2, bias=False))
        ((3, 5), (3, 18))
    """
    weight, *biases = weights_of(module)
    return len(weight) // groups_of(module), weight[0].numel() + len(biases)


def is_wide(module: nn.Module) -> bool:
    """Whether a layer has more than `WIDE` features or outputs, so that its factors are large."""
    return max(sizes_of(module)) > WIDE


def has_many_outputs(module: nn.Module) -> bool:
    """Whether a layer has more than `WIDE` outputs."""
    return sizes_of(module)[0] > WIDE


def matrix_of(module: nn.Module, parts: Sequence[Tensor | None]) -> Tensor:
    """Return tensors like the weight and the bias of a layer as one matrix [outputs, features], zeros where absent."""
    pairs = zip(weights_of(module), parts, strict=True)
    return torch.cat([(torch.zeros_like(w) if part is None else part).reshape(len(w), -1) for w, part in pairs], 1)


def tangent_of(path: str, module: nn.Module, step: Tensor, bias: bool) -> dict[str, Tensor]:
    """Return a step of a layer [outputs, features] as one of its weight and, where wanted and there, of its bias."""
    weight, *biases = weights_of(module)
    inputs = weight[0].numel()
    found = {f"{path}.weight": step[:, :inputs].reshape(weight.shape).to(weight.dtype)}
    if bias and biases:
        found[f"{path}.bias"] = step[:, inputs].to(weight.dtype)
    return found
