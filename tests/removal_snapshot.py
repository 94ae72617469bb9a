"""Outputs, tensors and axes of a network, so that before and after a removal can be compared."""

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import Case
from outgrow.net.axis import Axis
from outgrow.net.inputs import call


def run(model: nn.Module, case: Case, training: bool = False) -> list[Tensor]:
    """Outputs of a copy, so that running statistics stay."""
    with torch.no_grad():
        return pytree.tree_leaves(call(copy.deepcopy(model).train(training), case.example))


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def plain(found: list[Axis]) -> list[object]:
    return [
        (a.name, a.size, a.growable, [(m.tensor, m.dim, m.index.tolist(), m.roles) for m in a.members]) for a in found
    ]
