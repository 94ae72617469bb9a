"""Derivatives at kinks: what a step does to an entry that sits exactly at zero before a ReLU.

A block that goes in behind a ReLU, or whose shortcut leads into another one, hands a ReLU what a ReLU has written. All
entries that are off are then exactly at its kink, where automatic differentiation says 0; but a step t > 0 along V
changes the outcome by t max(0, dz), dz the entry's derivative along V. That is part of the first order, for about half
of all entries: without it the gain of a block has little to do with the drop that comes.

Other entries are at a kink with probability zero, and along the present weights the derivative at the new kinks is zero
(what is off stays off): so the present step and a multiple of one block's are still judged together.
"""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RANGES: dict[str, tuple[float, float]] = {"relu": (0.0, float("inf")), "relu6": (0.0, 6.0)}


class _AtKinks(TorchFunctionMode):
    """Replace ReLU and its clipped kin by functions of the same values and other derivatives at their kinks."""

    @abstractmethod
    def clipped(self, x: Tensor, low: float, high: float) -> Tensor:
        """Clip to a range."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or what stands for it."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        bounds = _range(name.rstrip("_"), args, kwargs)
        if bounds is None:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        inplace = name.endswith("_") or kwargs.get("inplace", False)
        return x.copy_(self.clipped(x.clone(), *bounds)) if inplace else self.clipped(x, *bounds)


class OneSided(_AtKinks):
    """While it is on, a forward-mode product takes the derivative along its tangent, of t > 0.

    Examples:
        >>> x, relu = torch.zeros(2), torch.nn.ReLU()
        >>> with OneSided():
        ...     torch.func.jvp(relu, (x,), (torch.tensor([1.0, -1.0]),))[1]
        tensor([1., 0.])
    """

    def clipped(self, x: Tensor, low: float, high: float) -> Tensor:
        """Clip to a range."""
        found: Tensor = _OneSided.apply(x, low, high)
        return found


class Halfway(_AtKinks):
    """While it is on, the derivative at a kink is the mean of both sides, for steps that have to be chosen linearly.

    Examples:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> with Halfway():
        ...     x.relu().sum().backward()
        >>> x.grad
        tensor([0.5000])
    """

    def clipped(self, x: Tensor, low: float, high: float) -> Tensor:
        """Clip to a range; of the two means of doing so the first has a derivative of 1 at the ends, the other 0."""
        return (x.clamp(low, high) + F.hardtanh(x, low, high)) / 2


class _OneSided(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (x,) = ctx.saved_tensors
        up, down = (x == ctx.low) & (tangent > 0), (x == ctx.high) & (tangent < 0)
        return torch.where((x > ctx.low) & (x < ctx.high) | up | down, tangent, torch.zeros_like(tangent))


def _range(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """The range that an activation clips to; None for anything else."""
    if name != "hardtanh":
        return _RANGES.get(name)
    low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
    high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
    return float(low), float(high)
