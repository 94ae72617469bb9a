"""Conv1D: GPT-2's linear layers, whose weights are transposed, made into linear layers that are saved as before."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.pytorch_utils import Conv1D


def as_linear_(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Put a linear layer in the place of each Conv1D; what the model computes, saves and loads stays as it was.

    Args:
        model: Changed in place.
        optimizer: Gets the new weights in place of the old ones; it must not have made a step.
    """
    became: dict[int, Tensor] = {}
    for path, module in [*model.named_modules()]:
        if type(module) is Conv1D:
            layer = _linear(module)
            became[id(module.weight)] = layer.weight
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
    for group in optimizer.param_groups if optimizer else ():
        group["params"][:] = [became.get(id(parameter), parameter) for parameter in group["params"]]


def _linear(module: Conv1D) -> nn.Linear:
    """A linear layer on the transposed weight and the very bias of a Conv1D."""
    layer = nn.Linear(module.nx, module.nf, device="meta")
    layer.weight = nn.Parameter(module.weight.detach().mT.contiguous(), module.weight.requires_grad)
    layer.bias = module.get_parameter("bias")
    layer.train(module.training)
    layer.register_state_dict_post_hook(_transpose_saved)
    layer.register_load_state_dict_pre_hook(_transpose_loaded)
    return layer


def _transpose_saved(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    state[f"{prefix}weight"] = state[f"{prefix}weight"].mT.contiguous()


def _transpose_loaded(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = state[f"{prefix}weight"].mT.contiguous()
