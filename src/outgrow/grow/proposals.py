"""Proposals: the weights with which new units come in.

`random` draws them as a fresh layer's. `closed` takes the directions in which the residual gradient of the consumers
asks for a feature, the leading left singular vectors of

    A_x^-1/2 E[x u_perp^T] S^-1/2,

x what the producer reads, u_perp the gradient at a consumer's output less what its present inputs explain, each
direction with both signs (TINY, Verbockhaven et al., arXiv 2405.19816; GradMax, Evci et al., arXiv 2201.05125). Between
producer and consumer it takes the path for linear, and resizes maps by averaging; the trial judges what comes of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.moments import Moments, recorded_calls, take_moments
from outgrow.grow.objective import Objective
from outgrow.grow.patches import is_mixer, read_rows
from outgrow.grow.sample import Batch
from outgrow.grow.score import solve
from outgrow.net.axis import Axis, Member
from outgrow.net.preserve import frozen_state
from outgrow.net.widening import Widening

NAMES = ("random", "closed")

INPUT_DAMPING = 1.0  # of the mean eigenvalue: near the best of method.md, section 4, for samples of this size


def propose(
    kind: str,
    model: nn.Module,
    axis: Axis,
    units: int,
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> Widening:
    """Propose units on an axis.

    Args:
        kind: `random`, or `closed` for the closed form; an axis that several layers hand out, or where a layer is
            frozen or not called, always gets random units.
        model: The model as it is; not changed.
        axis: The axis.
        units: How many.
        batches: Part A of the sample.
        objective: What the model is trained for.
        generator: The source of everything random.

    Returns:
        The units, with the rows of their producer if it is the closed form.

    Raises:
        InputError: The kind is unknown.
    """
    if kind not in NAMES:
        raise InputError(f"unknown proposal '{kind}': choose one of {', '.join(NAMES)}")
    makers = [m for m in axis.producers if is_mixer(model.get_submodule(m.module))]
    if kind == "random" or len(axis.producers) != 1 or not makers:
        return Widening(axis, units)
    maker = makers[0]
    producer = model.get_submodule(maker.module)
    readers = [model.get_submodule(m.module) for m in axis.consumers]
    if not all(isinstance(reader, (nn.Linear, type(producer))) for reader in readers):
        return Widening(axis, units)
    layers = [maker.module, *(m.module for m in axis.consumers)]
    with frozen_state(model):
        model.eval()
        moments = take_moments(model, layers, batches, objective, generator)
        if not all(layer in moments for layer in layers):
            return Widening(axis, units)
        cross = torch.cat([_cross(model, maker, reader, moments, batches, objective) for reader in axis.consumers], 1)
    if not cross.isfinite().all():
        return Widening(axis, units)
    inputs = cross.shape[0]
    count = min((units + 1) // 2, inputs)
    directions = closed_form(moments[maker.module].A[:inputs, :inputs], cross, count, INPUT_DAMPING)
    further = torch.randn(inputs, max(units - 2 * count, 0), generator=generator, dtype=torch.float64)
    weight = producer.weight
    assert isinstance(weight, Tensor)
    scale = weight.detach().flatten(1).norm(dim=1).mean()
    rows = torch.cat([directions, -directions, further.to(directions)], 1).mT[:units]
    rows = F.normalize(rows, dim=1).to(weight) * scale
    return Widening(axis, units, {maker.tensor: rows.reshape(units, *weight.shape[1:])})


def closed_form(A: Tensor, cross: Tensor, count: int, damping: float) -> Tensor:
    """Return the best linear features for a residual: A^-1/2 U of the SVD U s V^T of A^-1/2 cross.

    Args:
        A: Second moment of the inputs [inputs, inputs].
        cross: Cross moment of inputs and whitened residuals [inputs, outputs].
        count: How many, at most the inputs; beyond the rank of the residuals they are any others.
        damping: Added to A's diagonal, as a share of its mean.

    Returns:
        Directions [inputs, count], with unit second moment under the damped A.
    """
    mean = A.diagonal().mean()
    factor = torch.linalg.cholesky(A + damping * mean * torch.eye(len(A), dtype=A.dtype, device=A.device))
    left = torch.linalg.svd(torch.linalg.solve_triangular(factor, cross, upper=False), full_matrices=True)[0]
    return torch.linalg.solve_triangular(factor.mT, left[:, :count], upper=True)


@torch.enable_grad()
def _cross(
    model: nn.Module,
    maker: Member,
    reader: Member,
    moments: dict[str, Moments],
    batches: Sequence[Batch],
    objective: Objective,
) -> Tensor:
    """Return E[x (S^-1/2 u_perp)^T] [inputs of the producer, outputs * kernel of the consumer]."""
    modules = {"maker": model.get_submodule(maker.module), "reader": model.get_submodule(reader.module)}
    found = moments[reader.module]
    explained = solve(found.A, found.G.mT, 0.01).mT  # regression of u on what the consumer reads
    total = torch.zeros((), dtype=torch.float64, device=found.A.device)
    for batch in batches:
        with recorded_calls(modules) as calls:
            answer = objective.answer(model, batch)
        made, read = calls["maker"][0], calls["reader"][0]
        (u,) = torch.autograd.grad(answer.values, [read.edge], answer.gradient())
        u = u - _explained(modules["reader"], read.read, explained, found.bias)
        features = _feature_map(modules["maker"], made.read, made.written)
        total = total + _weight_gradient(modules["reader"], read.read, features, u, reader.index.shape[1]).double()
    damped = found.S + 0.01 * found.S.diagonal().mean() * torch.eye(len(found.S), dtype=torch.float64).to(found.S)
    values, vectors = torch.linalg.eigh(damped)
    whiten = vectors @ (vectors / values.clamp_min(1e-30).sqrt()).mT
    return torch.einsum("oik,op->ipk", total, whiten).flatten(1)


def _explained(module: nn.Module, x: Tensor, regression: Tensor, bias: bool) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    features = weight[0].numel()
    matrix = regression[:, :features].reshape(weight.shape).to(weight)
    shift = regression[:, features].to(weight) if bias else None
    return torch.func.functional_call(module, {"weight": matrix, **({"bias": shift} if shift is not None else {})}, x)


def _feature_map(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Every input feature of a producer as if it were a unit: [examples, features, *grid]."""
    rows = read_rows(module, x)
    grid = () if isinstance(module, nn.Linear) else y.shape[2:]
    return rows.mT.reshape(len(rows), rows.shape[2], *(grid or rows.shape[1:2]))


def _weight_gradient(module: nn.Module, read: Tensor, features: Tensor, u: Tensor, entries: int) -> Tensor:
    """Sum over examples and positions of u times the features that are read [outputs, features, kernel]."""
    if isinstance(module, nn.Linear):
        tokens = read[0].numel() // read.shape[-1]
        places = tokens * entries
        side = math.isqrt(places)
        if features.ndim == 4 and side**2 == places:
            features = F.adaptive_avg_pool2d(features, side)
        pooled = F.adaptive_avg_pool1d(features.flatten(2), places).unflatten(2, (tokens, entries))
        return torch.einsum("nto,nite->oie", u.reshape(len(u), tokens, -1), pooled)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    resize: Any = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}[read.ndim]
    if features.shape[2:] != read.shape[2:]:
        features = resize(features, read.shape[2:])
    weight = module.weight.new_zeros(len(module.weight), features.shape[1], *module.kernel_size, requires_grad=True)
    (grad,) = torch.autograd.grad(torch.func.functional_call(module, {"weight": weight}, features), weight, u)
    return grad.flatten(2)
