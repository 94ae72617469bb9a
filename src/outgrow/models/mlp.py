"""A multilayer perceptron with ReLU."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: Number of input features; the input is flattened to that.
        widths: Hidden units of each layer.
        outputs: Number of outputs.

    Examples:
        >>> import torch
        >>> MLP(64, (8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((inputs, *widths)))
        self.head = nn.Linear((inputs, *widths)[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, ...] to [examples, outputs]."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        return self.head(x)
