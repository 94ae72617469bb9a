"""What a network hands out and what is in it, so that before and after a block can be compared."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.net.inputs import call


def run(model: nn.Module, inputs: Any, training: bool) -> list[Tensor]:
    """Outputs of a copy, so that running statistics stay."""
    torch.manual_seed(0)
    with torch.no_grad():
        leaves = pytree.tree_leaves(call(copy.deepcopy(model).train(training), inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def everything_in(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> object:
    """Modules and tensors by identity and by value, hooks, attributes, configurations, the optimizer."""
    modules = [
        (path, id(module), module.training, len(module._forward_hooks) + len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ]
    tensors = {name: (id(t), t.tolist(), t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()}
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, (int, tuple, list))} for m in model.modules()]
    configs = [str(getattr(m, "config", "")) for m in model.modules()]
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups] if optimizer else []
    state = {
        id(p): {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in entries.items()}
        for p, entries in (optimizer.state if optimizer else {}).items()
    }
    return modules, tensors, plain, configs, groups, state
