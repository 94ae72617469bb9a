"""A rational activation that can start as the identity (Self-Expanding Neural Networks, arXiv 2307.04526)."""

import torch
from torch import Tensor, nn


class Rational(nn.Module):
    """`sigma(x) = a x + (b + c x) / (1 + x^2)`, with a, b and c learned, one of each for the layer.

    At (a, b, c) = (1, 0, 0) it is the identity, exactly, so that a plain network takes a new layer without a change of
    what it computes; training then bends it. Mitchell, Menzenbach, Kersting and Mundt, *Self-Expanding Neural
    Networks*, arXiv 2307.04526.

    Args:
        a: Slope far from zero.
        b: Height of the even bump around zero.
        c: Height of the odd bump around zero.

    Examples:
        >>> x = torch.tensor([-2.0, 0.0, 1.0])
        >>> Rational()(x)
        tensor([-2.,  0.,  1.], grad_fn=<AddBackward0>)
        >>> Rational(0.0, 1.0, 2.0)(x)
        tensor([-0.6000,  1.0000,  1.5000], grad_fn=<AddBackward0>)
    """

    def __init__(self, a: float = 1.0, b: float = 0.0, c: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(float(a)))
        self.b = nn.Parameter(torch.tensor(float(b)))
        self.c = nn.Parameter(torch.tensor(float(c)))

    def forward(self, x: Tensor) -> Tensor:
        """Map every entry of `x` [...] by itself."""
        return self.a * x + (self.b + self.c * x) / (1 + x * x)

    def extra_repr(self) -> str:
        """Show the three coefficients."""
        return f"a={self.a.item():.3g}, b={self.b.item():.3g}, c={self.c.item():.3g}"
