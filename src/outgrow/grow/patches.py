"""What a linear or convolution layer reads and writes, as rows [examples, positions, features]."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Mixer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_mixer(module: nn.Module) -> bool:
    """Whether moments can be taken of a module: linear layers and ungrouped convolutions."""
    return isinstance(module, nn.Linear) or (
        isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1
    )


def read_rows(module: nn.Module, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the patches that a layer reads [examples, positions, inputs * kernel], in the order of its weight.

    Args:
        module: A linear layer or convolution.
        x: Its input, [examples, ..., inputs] or [examples, inputs, ...].
        positions: Which output positions (flattened) to take; all where absent.
    """
    if isinstance(module, nn.Linear):
        rows = x.reshape(len(x), -1, x.shape[-1])
        return rows if positions is None else rows[:, positions]
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    dims = len(module.kernel_size)
    for dim, (size, stride, gap) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True), 2):
        x = x.unfold(dim, gap * (size - 1) + 1, stride)[..., ::gap]
    grid = x.shape[2 : 2 + dims]
    if positions is None:
        positions = torch.arange(math.prod(grid))
    where = torch.unravel_index(positions, grid)
    index: tuple[Any, ...] = (slice(None), slice(None), *where)
    taken = x[index]  # [examples, inputs, positions, *kernel]
    return taken.movedim(2, 1).flatten(2)


def written_rows(module: nn.Module, y: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return what a layer writes, or a gradient of that shape, as [examples, positions, outputs]."""
    rows = y.reshape(len(y), -1, y.shape[-1]) if isinstance(module, nn.Linear) else y.flatten(2).mT
    return rows if positions is None else rows[:, positions]


def position_count(module: nn.Module, y: Tensor) -> int:
    """Return how many positions an output [examples, ...] has."""
    channels = y.shape[-1] if isinstance(module, nn.Linear) else y.shape[1]
    return y[0].numel() // channels
