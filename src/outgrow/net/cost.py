"""What a network costs: parameters, and floating-point operations counted on the meta device."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from outgrow.net.axes import Axis
from outgrow.net.inputs import Example, call
from outgrow.net.surgery import replace_, tensors_of


def parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones counted once.

    Examples:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def shapes_after(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the shape that every tensor would have with `units` more on each of the named axes."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
    for axis in found:
        for member in axis.members:
            shapes[member.tensor][member.dim] += units.get(axis.name, 0) * member.index.shape[1]
    return shapes


def parameters_after(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> int:
    """Return the number of parameters that a model would have with `units` more on each of the named axes.

    Args:
        model: The model as it is.
        found: Its axes.
        units: How many units are added, by the axis's name.

    Returns:
        The exact count, by arithmetic on the shapes.
    """
    shapes = shapes_after(model, found, units)
    return sum(math.prod(shapes[name]) for name, _ in model.named_parameters())


def flops(model: nn.Module, example: Example, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """Return the floating-point operations of one forward pass on `example`: 2 for each multiply-add.

    Matrix products, convolutions and attention are counted, on a copy on the meta device, so nothing is computed.

    Args:
        model: Not changed.
        example: One input.
        shapes: Shapes that tensors would have, by name, if other than now.

    Returns:
        The count.

    Examples:
        >>> flops(nn.Linear(3, 2), torch.zeros(1, 3))
        12
    """
    memo: dict[int, object] = {}
    for tensor in tensors_of(model).values():
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    ghost = copy.deepcopy(model, memo).eval()
    present = tensors_of(ghost)
    replace_(ghost, {name: present[name].new_empty(shape) for name, shape in (shapes or {}).items()})
    inputs = pytree.tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, example)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(ghost, inputs)
    return int(counter.get_total_flops())
