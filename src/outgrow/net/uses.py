"""The uses of parameters: which of them a call needs, in order."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from outgrow.net.calls import Call


class _Uses(TorchFunctionMode):
    """Note the order in which parameters are used."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self.order: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function and note which parameters go in; asking for a size is no use."""
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            for leaf in pytree.tree_leaves((args, kwargs)):
                if id(leaf) in self._names:
                    self.order.setdefault(self._names[id(leaf)])
        return result


@torch.no_grad()
def used(module: nn.Module, call: Call, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Find the parameters that a call of a module uses.

    Args:
        module: What is called.
        call: How.
        parameters: Those to look for.

    Returns:
        Their names, in the order of their first use.

    Examples:
        >>> layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
        >>> used(layer, Call((torch.ones(1, 2),), {}, None), dict(layer.named_parameters()))
        ['0.weight', '0.bias', '1.weight']
    """
    with _Uses(parameters) as uses:
        call.run(module)
    return [*uses.order]
