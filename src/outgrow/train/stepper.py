"""Training steps: in full or mixed precision, compiled or not, by one process or by several that share each batch."""

import time
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from outgrow.errors import InputError
from outgrow.grow.curvature import Loss
from outgrow.grow.precision import upcast
from outgrow.train.ranks import Ranks

Precision = Literal["fp32", "bf16", "fp16"]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Takes the training steps of a network that may be edited between them.

    Weights, gradients and the loss are float32 in every precision; what layers compute under autocast is not. Several
    processes take equal shares of each batch, and a step follows the mean of their gradients.

    Args:
        model: The network, on its device.
        optimizer: Its optimizer.
        precision: `fp32`, or `bf16` or `fp16` for mixed precision; fp16 scales the loss, and leaves out steps whose
            gradients overflow.
        compiled: Whether torch.compile makes kernels for it, anew after each edit.

    Attributes:
        precision: In which it takes them.
        compile_seconds: Time of the steps that compiled.

    Raises:
        InputError: The precision is unknown.

    Examples:
        >>> torch.manual_seed(0) and None
        >>> net = nn.Linear(2, 1)
        >>> stepper = Stepper(net, torch.optim.SGD(net.parameters(), lr=0.1), precision="bf16")
        >>> x = torch.randn(8, 2)
        >>> losses = [float(stepper.step_(nn.functional.mse_loss, x, x.sum(1, keepdim=True))) for _ in range(20)]
        >>> losses[-1] < 0.1 * losses[0], net.weight.dtype
        (True, torch.float32)
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, precision: str = "fp32", compiled: bool = False) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"precision {precision}: expected one of {', '.join(get_args(Precision))}")
        self._model, self._optimizer, self.precision = model, optimizer, precision
        self._half, self._compiled = _HALF.get(precision), compiled
        self._type = next(model.parameters()).device.type
        self._scaler = torch.amp.GradScaler(self._type, enabled=precision == "fp16")
        self.compile_seconds = 0.0
        self.renew()

    def renew(self) -> None:
        """Wrap and compile the network anew; call it after every edit."""
        self._ranks = Ranks()
        net = DistributedDataParallel(self._model) if self._ranks.count > 1 else self._model
        if self._compiled:
            torch._dynamo.reset()  # else it falls back to eager after eight shapes
            # it is a module again, though typed as any callable
            net = torch.compile(net)  # type: ignore[assignment]
        self._net, self._compiles = net, self._compiled

    def step_(self, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
        """Take one step on a batch.

        Args:
            loss: Mean loss of outputs and targets.
            x: Inputs of the whole batch [examples, ...].
            y: Targets [examples, ...].

        Returns:
            The loss before the step, of this process's share [].
        """
        began = time.perf_counter()
        with torch.autocast(self._type, self._half, enabled=self._half is not None):
            z = self._net(self._ranks.share(x))
        value = loss(z if self._half is None else upcast(z), self._ranks.share(y))
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(value).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._compiles:
            self.compile_seconds += time.perf_counter() - began
            self._compiles = False
        return value.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what a continuation depends on, as JSON: time spent, and the scale of the loss."""
        return {"compile_seconds": self.compile_seconds, "scale": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with a network that was edited since this was made."""
        self.compile_seconds = state["compile_seconds"]
        if state["scale"]:
            self._scaler.load_state_dict(state["scale"])
        self.renew()
