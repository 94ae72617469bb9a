"""Derivatives of a loss with respect to a network's outputs, exact for any twice-differentiable loss.

Notation: z [examples, ...] are the outputs, L their mean loss, n the number of examples. Everything here is per
example, that is, of n * L. Outputs may be a tensor or any nest of tensors; the leaves are those that the loss reads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from outgrow.errors import InputError

Loss = Callable[[Any, Any], Tensor]

MAX_DENSE_OUTPUTS = 128


class Outputs:
    """What a model answered on one batch, and what the loss makes of it.

    Args:
        loss: Mean loss of an output and a target, convex in the output.
        result: The model's answer: a tensor, a tuple, a dict, a Hugging Face ModelOutput.
        target: What the loss takes beside it.
        size: Number of examples, n.

    Attributes:
        read: Which leaves of the answer the loss reads.
        values: Those tensors [examples, ...], with their graph.

    Raises:
        InputError: The loss reads no tensor of the answer, or is not one number.
    """

    def __init__(self, loss: Loss, result: Any, target: Any, size: int) -> None:
        leaves, self._spec = pytree.tree_flatten(result)
        self._loss, self._target, self._size = loss, target, size
        self._leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        floating = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        self.read = floating
        grads = self._gradients(self._zs())
        self.read = [i for i, grad in zip(floating, grads, strict=True) if grad is not None]
        if not self.read:
            raise InputError(
                f"the loss reads no floating-point tensor of the model's output, a {type(result).__name__}"
            )
        self._gradient = [grad * size for grad in grads if grad is not None]
        self.values = [leaves[i] for i in self.read]

    def gradient(self) -> list[Tensor]:
        """Return n * dL/dz of each leaf [examples, ...]."""
        return self._gradient

    def product(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Return n * (d2L/dz2) direction, of each leaf [examples, ...]; examples don't mix, since L is their mean."""
        with torch.enable_grad():
            zs = self._zs()
            grads = self._gradients(zs, create_graph=True)
            pairs = [(g, v) for g, v in zip(grads, directions, strict=True) if g is not None and g.requires_grad]
            if not pairs:  # linear in z
                return [torch.zeros_like(z) for z in zs]
            products = torch.autograd.grad([g for g, _ in pairs], zs, [v for _, v in pairs], allow_unused=True)
        return [torch.zeros_like(z) if p is None else p * self._size for p, z in zip(products, zs, strict=True)]

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Draw v with covariance n * d2L/dz2 for each example, of each leaf [examples, ...].

        Back-propagated to a layer it gives that layer's true Fisher (generalised Gauss-Newton) factor without sampled
        labels: E[v v^T] = H.

        Args:
            generator: Random source, on the CPU.

        Returns:
            The draws, in the shapes of the values.
        """
        drawn = []
        for i, z in enumerate(self.values):
            flat = z[0].numel()
            if flat > MAX_DENSE_OUTPUTS:
                drawn.append(self._gradient[i])
                continue
            basis = torch.eye(flat, dtype=z.dtype, device=z.device)
            zeros = [torch.zeros_like(other) for other in self.values]
            columns = [
                self.product([*zeros[:i], e.view(1, *z.shape[1:]).expand_as(z), *zeros[i + 1 :]])[i] for e in basis
            ]
            hessian = torch.stack([column.reshape(len(z), flat) for column in columns], 2).double()
            hessian = hessian.nan_to_num(0.0, 0.0, 0.0)  # of a model that has diverged
            values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
            noise = torch.randn(len(z), flat, generator=generator, dtype=torch.float64).to(values.device)
            v = (vectors @ (values.clamp_min(0).sqrt() * noise).unsqueeze(2)).squeeze(2)
            drawn.append(v.to(z.dtype).view_as(z))
        return drawn

    def _zs(self) -> list[Tensor]:
        return [self._leaves[i].detach().requires_grad_() for i in self.read]

    def _gradients(self, zs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor | None]:
        """dL/dz of each leaf that is given; None where the loss doesn't read it."""
        with torch.enable_grad():
            leaves = list(self._leaves)
            for i, z in zip(self.read, zs, strict=True):
                leaves[i] = z
            value = self._loss(pytree.tree_unflatten(leaves, self._spec), self._target)
            if value.numel() != 1:
                raise InputError(f"expected the loss to be a mean, one number, received shape {list(value.shape)}")
            if not value.requires_grad:
                return [None] * len(zs)
            return list(torch.autograd.grad(value.squeeze(), zs, create_graph=create_graph, allow_unused=True))
