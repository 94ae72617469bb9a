"""What a network costs: parameters, and floating-point operations counted on the meta device."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from outgrow.net.axis import Axis
from outgrow.net.inputs import Example, call
from outgrow.net.kernels import unfused
from outgrow.net.surgery import tensors_of
from outgrow.net.twin import duplicate


def parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones counted once.

    Examples:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


class Shapes:
    """The shapes of a model's tensors, taken once, so that sizes it might have are quick to count.

    Args:
        model: The model as it is.

    Examples:
        >>> from outgrow.net.axes import axes
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5))
        >>> shapes, found = Shapes(net), axes(net, torch.zeros(1, 3))
        >>> shapes.parameters_after(found, {}), shapes.parameters_after(found, {"0": 1})
        (23, 32)
    """

    def __init__(self, model: nn.Module) -> None:
        self._present = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
        self._parameters = [name for name, _ in model.named_parameters()]

    def after(self, found: Sequence[Axis], units: Mapping[str, int]) -> dict[str, list[int]]:
        """Return the shape that every tensor would have with `units` more on each of the named axes."""
        shapes = {name: [*shape] for name, shape in self._present.items()}
        for axis in found:
            if more := units.get(axis.name, 0):
                for member in axis.members:
                    shapes[member.tensor][member.dim] += more * member.index.shape[1]
        return shapes

    def parameters_after(self, found: Sequence[Axis], units: Mapping[str, int]) -> int:
        """Return the number of parameters; see the function of that name."""
        shapes = self.after(found, units)
        return sum(math.prod(shapes[name]) for name in self._parameters)

    def flops_after(self, found: Sequence[Axis], units: Mapping[str, int], counts: Mapping[str, int]) -> int:
        """Return the floating-point operations; see the function of that name."""
        shapes, present = self.after(found, units), self._present
        return sum(
            count * math.prod(shapes[name]) // math.prod(present[name]) if name in present else count
            for name, count in counts.items()
        )


def parameters_after(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> int:
    """Return the number of parameters that a model would have with `units` more on each of the named axes.

    Args:
        model: The model as it is.
        found: Its axes.
        units: How many units are added, by the axis's name.

    Returns:
        The exact count, by arithmetic on the shapes.
    """
    return Shapes(model).parameters_after(found, units)


def flops(model: nn.Module, example: Example) -> int:
    """Return the floating-point operations of one forward pass on `example`: 2 for each multiply-add.

    Matrix products, convolutions and attention are counted, on a copy on the meta device, so nothing is computed
    unless the forward pass asks for values.

    Examples:
        >>> flops(nn.Linear(3, 2), torch.zeros(1, 3))
        12
    """
    return sum(flops_by_weight(model, example).values())


def flops_by_weight(model: nn.Module, example: Example) -> dict[str, int]:
    """Return the floating-point operations of one forward pass, by the weight of the layer that spends them.

    Args:
        model: Not changed.
        example: One input.

    Returns:
        FLOPs by the name of a linear layer's or convolution's weight; what is spent elsewhere under an empty name.

    Examples:
        >>> flops_by_weight(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5)), torch.zeros(1, 3))
        {'0.weight': 12, '2.weight': 20, '': 0}
    """
    ghost = _ghost(model)
    inputs = pytree.tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, example)
    try:
        with torch.device("meta"):
            counter = _counted(ghost, inputs)
    except Exception:  # it asks for values, as the masks of transformers do
        ghost = duplicate(model).eval()
        with unfused():
            counter = _counted(ghost, example)
    by_module = {name.partition(".")[2]: int(sum(ops.values())) for name, ops in counter.get_flop_counts().items()}
    names = {id(parameter): name for name, parameter in ghost.named_parameters()}
    layers: dict[str, int] = {}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    found = {path: m for path, m in ghost.named_modules(remove_duplicate=False) if isinstance(m, kinds)}
    for path, module in found.items():  # a shared layer is counted at one of its paths
        name = names.get(id(module.weight), f"{path}.weight")
        layers[name] = layers.get(name, 0) + by_module.get(path, 0) - _within(path, found, by_module)
    return {**layers, "": int(counter.get_total_flops()) - sum(layers.values())}


def _within(path: str, layers: Iterable[str], counts: Mapping[str, int]) -> int:
    """What the layers that a layer is made of spend, each without those around it (an adapter on a linear layer)."""
    around = f"{path}." if path else ""
    inner = [each for each in layers if each.startswith(around) and each != path]
    return sum(counts.get(each, 0) for each in inner if not any(each.startswith(f"{other}.") for other in inner))


def _ghost(model: nn.Module) -> nn.Module:
    """A copy on the meta device, in eval mode."""
    memo: dict[int, object] = {}
    for tensor in tensors_of(model).values():
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    return duplicate(model, memo).eval()


def _counted(model: nn.Module, inputs: Example) -> FlopCounterMode:
    """Count the FLOPs of a copy, which no longer requires gradients: the counter trips over views of what does."""
    counter = FlopCounterMode(display=False)
    model.requires_grad_(False)
    with torch.no_grad(), counter:
        call(model, inputs)
    return counter


def flops_after(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int], counts: Mapping[str, int]) -> int:
    """Return the FLOPs that a forward pass would take with `units` more on each of the named axes.

    Args:
        model: The model as it is.
        found: Its axes.
        units: How many units are added, by the axis's name.
        counts: What `flops_by_weight` says of the model as it is.

    Returns:
        The count: exact for linear layers and convolutions, whose work is in proportion to their weights; the rest is
        taken as unchanged.
    """
    return Shapes(model).flops_after(found, units, counts)
