"""Derivatives of a loss with respect to a network's outputs, exact for any twice-differentiable loss.

Where torch can't differentiate it twice, curvature comes from central differences of its gradient.

Notation: z [examples, ...] are the outputs, L their mean loss, n the number of examples. Everything here is per
example, that is, of n * L. Outputs may be a tensor or any nest of tensors; the leaves are those that the loss reads.
Those in half precision count as float32.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.custom import has_custom_operation
from outgrow.grow.derivative import difference_step
from outgrow.grow.draws import draw_root
from outgrow.grow.precision import full_precision, upcast
from outgrow.grow.robust import residuals, robust_weight

Loss = Callable[[Any, Any], Tensor]


class Outputs:
    """What a model answered on one batch, and what the loss makes of it.

    The Hessian is that of the loss, with robust Gauss-Newton weights where the loss is a straight line in an output and
    the target has the output's shape (`outgrow.grow.robust`).

    Args:
        loss: Mean loss of an output and a target, convex in the output; no example's part depends on another's output.
        result: The model's answer: a tensor, a tuple, a dict, a Hugging Face ModelOutput.
        target: What the loss takes beside it.
        size: Number of examples, n.

    Attributes:
        read: Which leaves of the answer the loss reads.
        values: Those tensors [examples, ...], with their graph.

    Raises:
        InputError: The loss reads no tensor of the answer, or one without examples, or is not one number.
    """

    def __init__(self, loss: Loss, result: Any, target: Any, size: int) -> None:
        leaves, self._spec = pytree.tree_flatten(upcast(result))
        self._loss, self._target, self._size = loss, upcast(target), size
        self._leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._zs, self._grads = self._differentiate(
            {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
        )
        if not self._zs:
            raise InputError(
                f"the loss reads no floating-point tensor of the model's output, a {type(result).__name__}"
            )
        self.read = list(self._zs)
        self.values = [leaves[i] for i in self.read]
        for z in self.values:
            if not z.ndim or len(z) % size:
                raise InputError(
                    f"expected the loss to read outputs with the {size} examples along dimension 0, received shape "
                    f"{list(z.shape)}; a loss that the model computes itself can be given as step(model, batch)"
                )

    def gradient(self) -> list[Tensor]:
        """Return n * dL/dz of each leaf [examples, ...]."""
        return [grad.detach() * self._size for grad in self._grads]

    @full_precision()
    def product(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Return n * (d2L/dz2) direction, of each leaf [examples, ...]; examples don't mix, since L is their mean."""
        products = self._hessian_product(directions)
        return [
            product if weight is None else product + weight * direction
            for product, weight, direction in zip(products, self._robust, directions, strict=True)
        ]

    @full_precision()
    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Draw v with covariance n * d2L/dz2 for each example, of each leaf [examples, ...].

        Back-propagated to a layer it gives that layer's true Fisher (generalised Gauss-Newton) factor without sampled
        labels: E[v v^T] = H. Leaves that the loss ties together are drawn together.

        Args:
            generator: Random source, on the CPU.

        Returns:
            The draws, in the shapes of the values.
        """
        zs = [z.detach() for z in self.values]
        if self._tied:
            flat = torch.cat([z.reshape(self._size, -1) for z in zs], 1)
            return self._split(draw_root(lambda v: self._joined(self.product(self._split(v))), flat, generator))
        return [
            # the checker can't infer a lambda with a default argument
            draw_root(lambda v, i=i: self.product(self._alone(i, v))[i], z, generator)  # type: ignore[misc]
            for i, z in enumerate(zs)
        ]

    @property
    def _tied(self) -> bool:
        """Whether the curvature of one leaf reaches another."""
        count = len(self.values)
        if count == 1:
            return False
        probes = [torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z) for z in self.values]
        found = [self.product(self._alone(i, probes[i])) for i in range(count)]
        return any(bool(found[i][j].any()) for i in range(count) for j in range(count) if i != j)

    def _alone(self, leaf: int, direction: Tensor) -> list[Tensor]:
        return [direction if i == leaf else torch.zeros_like(z) for i, z in enumerate(self.values)]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.reshape(self._size, -1) for part in parts], 1)

    def _split(self, flat: Tensor) -> list[Tensor]:
        sizes = [z.numel() // self._size for z in self.values]
        return [part.reshape(z.shape).to(z) for part, z in zip(flat.split(sizes, 1), self.values, strict=True)]

    @cached_property
    def _robust(self) -> list[Tensor | None]:
        """Weights that stand for the curvature of straight lines."""
        values = [z.detach() for z in self.values]
        found = residuals(values, self._target)
        if found is None:
            return [None for _ in values]
        probes = [torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z) for z in values]
        return [
            robust_weight(residual, gradient, product)
            for residual, gradient, product in zip(found, self.gradient(), self._hessian_product(probes), strict=True)
        ]

    def _hessian_product(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Without the weights of straight lines; by differences of the gradient where it can't be differentiated."""
        if not self._custom:
            try:
                return self._twice(directions)
            except RuntimeError:  # an operation without a second derivative; another error comes again
                pass
        zs = {str(i): z.detach() for i, z in self._zs.items()}
        moves = dict(zip(zs, directions, strict=True))
        h = difference_step(zs, moves)
        high, low = (
            self._differentiate({int(i): z + t * moves[i] for i, z in zs.items()}, create_graph=False)[1]
            for t in (h, -h)
        )
        return [(a - b) * (self._size / (2 * h)) for a, b in zip(high, low, strict=True)]

    def _twice(self, directions: Sequence[Tensor]) -> list[Tensor]:
        zs = list(self._zs.values())
        pairs = [(g, v) for g, v in zip(self._grads, directions, strict=True) if g.requires_grad]
        if not pairs:  # linear in z
            return [torch.zeros_like(z) for z in zs]
        grads, seeds = [g for g, _ in pairs], [v for _, v in pairs]
        products = torch.autograd.grad(grads, zs, seeds, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(z) if p is None else p * self._size for p, z in zip(products, zs, strict=True)]

    @full_precision()
    def _differentiate(
        self, values: dict[int, Tensor], create_graph: bool = True
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Return those leaves, by number, that the loss reads, cut off from the model, and dL/dz."""
        zs = {i: value.detach().requires_grad_() for i, value in values.items()}
        with torch.enable_grad():
            leaves = [zs.get(i, leaf) for i, leaf in enumerate(self._leaves)]
            value = self._loss(pytree.tree_unflatten(leaves, self._spec), self._target)
            demand_mean(value)
            if not value.requires_grad or not zs:
                return {}, []
            self._custom = has_custom_operation(value)
            grads = torch.autograd.grad(
                value.squeeze(), list(zs.values()), create_graph=create_graph, allow_unused=True
            )
        found = {i: (z, g) for (i, z), g in zip(zs.items(), grads, strict=True) if g is not None}
        return {i: z for i, (z, _) in found.items()}, [g for _, g in found.values()]


def demand_mean(value: Any) -> None:
    """Check that a loss is one number.

    Args:
        value: What the loss returned.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"expected the loss to be a mean, one number, received shape {shape}")
