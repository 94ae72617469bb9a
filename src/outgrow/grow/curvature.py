"""Derivatives of a loss with respect to a network's outputs, exact for any twice-differentiable loss.

Notation: z [examples, ...] are the outputs, L their mean loss, n the number of examples. Everything here is per
example, that is, of n * L.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from outgrow.errors import InputError

Loss = Callable[[Any, Any], Tensor]

MAX_DENSE_OUTPUTS = 128


def gradient(loss: Loss, z: Tensor, target: Any) -> Tensor:
    """Return n * dL/dz [examples, ...]."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (grad,) = torch.autograd.grad(_mean(loss, z, target), z)
    return grad * len(z)


def hessian_product(loss: Loss, z: Tensor, target: Any, direction: Tensor) -> Tensor:
    """Return n * (d2L/dz2) direction [examples, ...]; the examples don't mix, since L is a mean over them."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (grad,) = torch.autograd.grad(_mean(loss, z, target), z, create_graph=True)
        if not grad.requires_grad:  # linear in z
            return torch.zeros_like(z)
        (product,) = torch.autograd.grad(grad, z, direction, allow_unused=True)
    return torch.zeros_like(z) if product is None else product * len(z)


def fisher_noise(loss: Loss, z: Tensor, target: Any, generator: torch.Generator) -> Tensor:
    """Draw v [examples, ...] with covariance n * d2L/dz2 for each example.

    Back-propagated to a layer it gives that layer's true Fisher (generalised Gauss-Newton) factor without sampled
    labels: E[v v^T] = H. Where an example has more than `MAX_DENSE_OUTPUTS` outputs, the gradient itself stands in (the
    empirical Fisher).

    Args:
        loss: Mean loss of an output and a target, convex in the output.
        z: Outputs [examples, ...].
        target: What the loss takes beside them.
        generator: Random source, on the CPU.

    Returns:
        The draw, in the shape of z.
    """
    flat = z[0].numel()
    if flat > MAX_DENSE_OUTPUTS:
        return gradient(loss, z, target)
    basis = torch.eye(flat, dtype=z.dtype, device=z.device)
    columns = [hessian_product(loss, z, target, e.view(1, *z.shape[1:]).expand_as(z)) for e in basis]
    hessian = torch.stack([column.reshape(len(z), flat) for column in columns], 2).double()
    hessian = hessian.nan_to_num(0.0, 0.0, 0.0)  # of a model that has diverged
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    noise = torch.randn(len(z), flat, generator=generator, dtype=torch.float64).to(values.device)
    drawn = (vectors @ (values.clamp_min(0).sqrt() * noise).unsqueeze(2)).squeeze(2)
    return drawn.to(z.dtype).view_as(z)


def output_of(result: Any) -> Tensor:
    """Return what a model answered, if it is one tensor.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(result, Tensor):
        raise InputError(
            f"expected the model to return one tensor, received {type(result).__name__}: wrap it in a module that "
            "returns the tensor which the loss reads"
        )
    return result


def _mean(loss: Loss, z: Tensor, target: Any) -> Tensor:
    """The loss, if it is one number."""
    value = loss(z, target)
    if value.numel() != 1:
        raise InputError(f"expected the loss to be a mean, one number, received shape {list(value.shape)}")
    return value.squeeze()
