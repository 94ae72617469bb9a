"""Gain: what a step is worth on examples that did not choose it (method.md, section 4).

Along one direction V of the weights, on fresh examples,

    slope     = -E[ dL/dz . dz ],   dz = d(output)/dV by one forward-mode product
    curvature =  E[ dz^T H dz ],    H the Hessian of the loss at the output
    gain      = slope^2 / (2 curvature) if slope > 0 else 0,   step = slope / curvature.

By Cauchy-Schwarz the gain is at most half the natural expansion score on those examples: a lower bound without
selection bias and without any approximation of the curvature but Gauss-Newton's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from outgrow.grow.curvature import Loss, gradient, hessian_product, output_of
from outgrow.grow.sample import Batch, examples_in
from outgrow.net.inputs import call_arguments

Tangent = Mapping[str, Tensor]


@dataclass(frozen=True)
class Gain:
    """What a direction is worth.

    Args:
        gain: Nats of mean loss that the best multiple of the direction saves.
        se: Standard error of the gain over examples [nats].
        step: That best multiple; 0 where the direction does not descend.
    """

    gain: float
    se: float
    step: float


def judge(model: nn.Module, tangent: Tangent, batches: Sequence[Batch], loss: Loss) -> Gain:
    """Judge a direction of a model's weights on batches, in eval mode.

    Args:
        model: Run as it is.
        tangent: The direction, by parameter name; parameters that are not named stay. Without any it gains nothing.
        batches: Examples that had no part in choosing the direction.
        loss: Mean loss of an output and a target.

    Returns:
        Gain, its standard error and the step.
    """
    if not tangent:
        return Gain(0.0, 0.0, 0.0)
    weights = {name: model.get_parameter(name).detach() for name in tangent}
    directions = {name: value.to(weights[name]) for name, value in tangent.items()}
    slopes, curvatures = [], []
    for batch in batches:
        z, dz = _forward_product(model, weights, directions, batch)
        slopes.append(-_by_example(gradient(loss, z, batch.target) * dz))
        curvatures.append(_by_example(hessian_product(loss, z, batch.target, dz) * dz))
    return best_step(torch.cat(slopes), torch.cat(curvatures))


def best_step(slopes: Tensor, curvatures: Tensor) -> Gain:
    """Return the gain from the terms of each example [examples]; 0 where there is no curvature.

    The standard error is that of the ratio s^2 / 2c to first order: of the terms (s/c) s_i - (s^2/2c^2) c_i.

    Examples:
        >>> best_step(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]))
        Gain(gain=0.25, se=0.0, step=0.5)
    """
    slope, curvature = float(slopes.mean()), float(curvatures.mean())
    if not (curvature > 0 and math.isfinite(slope)):
        return Gain(0.0, 0.0, 0.0)
    step = slope / curvature
    if step <= 0:
        return Gain(0.0, _error(slopes) * abs(step), 0.0)
    return Gain(slope * step / 2, _error(step * slopes - step**2 / 2 * curvatures), step)


def realised(
    model: nn.Module, tangent: Tangent, step: float, batches: Sequence[Batch], loss: Loss, before: float
) -> float:
    """Return the drop of the mean loss [nats] on batches when a step is really taken; the model stays as it is."""
    weights = {
        name: model.get_parameter(name).detach() + step * value.to(model.get_parameter(name))
        for name, value in tangent.items()
    }
    return before - mean_loss(model, batches, loss, weights)


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], loss: Loss, weights: Tangent | None = None) -> float:
    """Return the mean loss [nats] over batches, with some parameters replaced if given."""
    total = 0.0
    for batch in batches:
        args, kwargs = call_arguments(batch.inputs)
        z = torch.func.functional_call(model, dict(weights or {}), args, kwargs)
        total += float(loss(z, batch.target)) * batch.size
    return total / examples_in(batches)


def _forward_product(model: nn.Module, weights: Tangent, directions: Tangent, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the outputs and their derivative along the direction [examples, ...]."""
    args, kwargs = call_arguments(batch.inputs)

    def run(values: dict[str, Tensor]) -> Tensor:
        return output_of(torch.func.functional_call(model, values, args, kwargs))

    with torch.no_grad(), _plain_attention():
        z, dz = torch.func.jvp(run, (dict(weights),), (dict(directions),))[:2]
    return z.detach(), dz.detach()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention from its definition: the fused kernels have no forward-mode product."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _by_example(terms: Tensor) -> Tensor:
    return terms.reshape(len(terms), -1).sum(1).double()


def _error(terms: Tensor) -> float:
    return float(terms.std()) / math.sqrt(len(terms)) if len(terms) > 1 else 0.0
