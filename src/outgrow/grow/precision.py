"""Full precision: checks add up small numbers, whatever precision the training runs in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

DEVICES = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast off, on every kind of device.

    A model whose weights are in half precision still computes in it, and its inputs must be in that type.
    """
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def upcast(tree: Any) -> Any:
    """Return a nest of tensors with those in half precision as float32, with their graph.

    Examples:
        >>> upcast((torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64), "name"))
        (tensor([0.]), tensor([0.], dtype=torch.float64), 'name')
    """
    return pytree.tree_map(lambda leaf: leaf.float() if _is_half(leaf) else leaf, tree)


def _is_half(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.itemsize < 4
