"""What a linear or convolution layer reads and writes, as rows.

A row of what is read holds one patch [features], in the order of the layer's weight: channels, then the kernel. A row
of what is written holds [outputs]. A linear layer's positions are its tokens, a convolution's the places of its output
map; `where` numbers rows over examples, then positions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Mixer = nn.Linear | Convolution


def is_mixer(module: nn.Module) -> bool:
    """Whether every output of a module reads every input: linear layers and ungrouped convolutions."""
    return has_rows(module) and groups_of(module) == 1


def has_rows(module: nn.Module) -> bool:
    """Whether a module is linear in patches of what it reads: linear layers and convolutions, grouped ones too."""
    return isinstance(module, Mixer)


def groups_of(module: nn.Module) -> int:
    """Return the number of groups of a convolution; 1 for a linear layer."""
    return module.groups if isinstance(module, Convolution) else 1


def read_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return the patches that a layer reads [examples, positions, inputs * kernel].

    Args:
        module: A linear layer or convolution.
        x: Its input, [examples, ..., inputs] or [examples, inputs, ...].
    """
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])
    windows = _windows(module, x)
    dims = x.ndim - 2
    return windows.movedim(1, 1 + dims).flatten(1 + dims).flatten(1, dims)


def written_rows(module: nn.Module, y: Tensor) -> Tensor:
    """Return what a layer writes, or a gradient of that shape, as [examples, positions, outputs]."""
    return y.reshape(len(y), -1, y.shape[-1]) if isinstance(module, nn.Linear) else y.flatten(2).mT


def picked_reads(module: nn.Module, x: Tensor, where: Tensor) -> Tensor:
    """Return some of the rows that a layer reads [rows, inputs * kernel]; no other patch is ever formed.

    Args:
        module: A linear layer or convolution.
        x: Its input, [examples, ..., inputs] or [examples, inputs, ...].
        where: Which rows [rows].
    """
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])[where]
    assert isinstance(module, Convolution)
    x = _padded(module, x)
    sizes, steps = x.shape[2:], [math.prod(x.shape[3 + d :]) for d in range(x.ndim - 2)]
    grid = [
        (size - gap * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, gap in zip(sizes, module.kernel_size, module.stride, module.dilation, strict=True)
    ]
    example, *place = torch.unravel_index(where, [len(x), *grid])
    start = example * x[0].numel()
    for at, stride, step in zip(place, module.stride, steps, strict=True):
        start = start + at * stride * step
    offset = torch.arange(x.shape[1], device=x.device) * math.prod(sizes)
    for kernel, gap, step in zip(module.kernel_size, module.dilation, steps, strict=True):
        offset = offset[..., None] + torch.arange(kernel, device=x.device) * gap * step
    return torch.take(x, start[:, None] + offset.flatten())


def picked_writes(module: nn.Module, y: Tensor, where: Tensor) -> Tensor:
    """Return some of the rows that a layer writes, or of a gradient of that shape [rows, outputs]."""
    if isinstance(module, nn.Linear):
        return y.reshape(-1, y.shape[-1])[where]
    positions = y[0, 0].numel()
    start = where // positions * y[0].numel() + where % positions
    return torch.take(y, start[:, None] + torch.arange(y.shape[1], device=y.device) * positions)


def summed_reads(module: nn.Module, x: Tensor) -> Tensor:
    """Return the sum over positions of what a layer reads [examples, inputs * kernel]; no patch is formed."""
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).sum(1)
    return _windows(module, x).sum(tuple(range(2, x.ndim))).flatten(1)


def summed_writes(module: nn.Module, y: Tensor) -> Tensor:
    """Return the sum over positions of what a layer writes, or of a gradient of that shape [examples, outputs]."""
    return written_rows(module, y).sum(1)


def position_count(module: nn.Module, y: Tensor) -> int:
    """Return how many positions an output [examples, ...] has."""
    shape = y.shape[1:-1] if isinstance(module, nn.Linear) else y.shape[2:]
    return math.prod(shape)


def stratified(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Draw `wanted` of `count` rows, one uniformly from each of as many equal parts; all of them where that is less.

    Every row is expected wanted / count times, so sums over the draw, times count / wanted, are unbiased; rows in the
    order of their examples give each example its share.

    Args:
        count: How many rows there are.
        wanted: How many to draw.
        generator: Random source, on the CPU.

    Returns:
        Their numbers, in order.

    Examples:
        >>> stratified(6, 3, torch.Generator().manual_seed(0)).tolist()
        [1, 3, 4]
        >>> stratified(2, 3, torch.Generator()).tolist()
        [0, 1]
    """
    if wanted >= count:
        return torch.arange(count)
    within = torch.rand(wanted, generator=generator, dtype=torch.float64)
    return ((torch.arange(wanted) + within) * (count / wanted)).long().clamp_max(count - 1)


def _padded(module: Convolution, x: Tensor) -> Tensor:
    padding: Sequence[int] = module._reversed_padding_repeated_twice
    if not any(padding):
        return x
    return F.pad(x, padding, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)


def _windows(module: nn.Module, x: Tensor) -> Tensor:
    """Every patch as a view [examples, inputs, *grid, *kernel]."""
    assert isinstance(module, Convolution)
    x = _padded(module, x)
    for dim, (size, stride, gap) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True), 2):
        x = x.unfold(dim, gap * (size - 1) + 1, stride)[..., ::gap]
    return x
