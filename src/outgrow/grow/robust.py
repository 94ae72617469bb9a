"""Curvature for losses that are straight lines in an output: L1, the flanks of Huber's loss, the hinge.

Their second derivative is zero and says nothing of how far a step may go. Robust Gauss-Newton (iteratively reweighted
least squares) takes, for a residual r = z - target,

    weight = |dL/dz| / |r|:    rho(r) <= rho(r0) + rho'(r0) (r - r0) + (r - r0)^2 weight / 2

for every r where rho is symmetric and concave in r^2, so that a step never gains less than its parabola says (Huber and
Ronchetti, Robust Statistics, on regression M-estimates; the first-order part of what Triggs et al., Bundle Adjustment -
A Modern Synthesis, and Ceres do). |r| counts as at least `FLOOR` of its mean over the batch, so that the weight stays
finite.
"""

from typing import Any

import torch
from torch import Tensor

from outgrow.grow.sample import as_tensors

FLOOR = 0.05  # of the typical residual: below it the parabola is up to twice this share of one too low


def residuals(values: list[Tensor], target: Any) -> list[Tensor] | None:
    """Return outputs less targets; None where the target's tensors don't have the outputs' shapes.

    Sizes of one beyond the examples don't count.

    Args:
        values: The outputs [examples, ...].
        target: What the loss takes beside them: a tensor or a nest of tensors.

    Returns:
        Residuals in the shapes of the outputs.
    """
    targets = as_tensors(target)
    if len(targets) != len(values) or any(_shape(t) != _shape(z) for t, z in zip(targets, values, strict=True)):
        return None
    return [z - t.reshape(z.shape).to(z) for t, z in zip(targets, values, strict=True)]


def robust_weight(residual: Tensor, gradient: Tensor, product: Tensor) -> Tensor | None:
    """Return |gradient| / |residual| where the loss is a straight line in an output, 0 elsewhere.

    Args:
        residual: Output less target.
        gradient: n * dL/dz.
        product: n * (d2L/dz2) v for a v in general position: exactly zero in straight lines.

    Returns:
        The weights; None where there is no such entry, or one does not climb away from its target, so that the loss is
        no robust loss of this residual.

    Examples:
        >>> robust_weight(torch.tensor([2.0, -0.5]), torch.tensor([1.0, -1.0]), torch.zeros(2))
        tensor([0.5000, 2.0000])
    """
    straight = (product == 0) & (gradient != 0)
    if not straight.any() or bool((gradient * residual)[straight].le(0).any()):
        return None
    size = residual.abs()
    return torch.where(straight, gradient.abs() / size.clamp_min(FLOOR * float(size[straight].mean())), 0.0)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape[:1], *(size for size in tensor.shape[1:] if size != 1))
