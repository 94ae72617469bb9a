"""What is in an optimizer, so that before and after an edit can be compared."""

import copy

from torch import Tensor
from torch.optim import Optimizer


def everything_in(optimizer: Optimizer) -> object:
    """Groups with their lists, and the state in its order: what is the same object, and its values."""
    groups = [(id(g["params"]), [id(p) for p in g["params"]], g.get("param_names")) for g in optimizer.param_groups]
    state = [
        (id(p), id(s), {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in s.items()})
        for p, s in optimizer.state.items()
    ]
    return copy.deepcopy(groups), state
