"""Operations of a user's own in a graph, whose second derivatives can't be trusted.

A `torch.autograd.Function` may compute its backward pass outside of autograd, as fused losses do. Its gradient then
counts as a constant when it is differentiated again: the second derivative is wrong, and nothing says so.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction


def has_custom_operation(value: Tensor) -> bool:
    """Whether a value was computed with an operation that is not torch's own.

    Args:
        value: With its graph; without one it has none.

    Returns:
        Whether there is one anywhere in the graph.

    Examples:
        >>> import torch
        >>> has_custom_operation(torch.ones(2, requires_grad=True).square().sum())
        False
    """
    return any(isinstance(node, BackwardCFunction) or "CppNode" in node.name() for node in nodes_of(value))


def nodes_of(value: Tensor) -> Iterator[Any]:
    """Yield the nodes of the graph of a value, each once; a path ends at the node of a parameter, its `variable`."""
    ahead: list[Any] = [value.grad_fn]
    seen = set[Any]()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            yield node
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
