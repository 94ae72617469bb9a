"""What a model is trained for, as a check needs it: run, differentiated, and expanded along directions.

An objective says how one batch becomes a mean loss. `OutputLoss` is `loss(output, target)`, whose curvature is the
generalised Gauss-Newton matrix, example by example.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from outgrow.grow.curvature import Loss, Outputs
from outgrow.grow.sample import Batch
from outgrow.net.inputs import call, call_arguments

Tangent = Mapping[str, Tensor]


class Answer(Protocol):
    """What back-propagation starts from: the values of a batch that the loss reads."""

    values: list[Tensor]

    def gradient(self) -> list[Tensor]:
        """Return the gradient of the summed loss with respect to each value."""

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Draw directions of each value whose covariance is the Hessian of the summed loss."""


@dataclass(frozen=True)
class Expansion:
    """The mean loss of one batch to second order along directions; a term is an example, or what stands for one.

    Args:
        slopes: Of each direction [terms, directions]: -dL/dV.
        own: Curvature along each direction [terms, directions].
        first: Curvature between each direction and the first one [terms, directions].
        matrix: Mean curvature between all directions [directions, directions].
    """

    slopes: Tensor
    own: Tensor
    first: Tensor
    matrix: Tensor


class Objective(Protocol):
    """How a batch becomes a mean loss, and its derivatives; a model is run as it is, in the mode that it is in."""

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        """Run the model, with its graph."""

    def expand(self, model: nn.Module, directions: Sequence[Tangent], batch: Batch) -> Expansion:
        """Expand the loss along directions of the weights, by parameter name."""

    def mean(self, model: nn.Module, batch: Batch, weights: Tangent) -> float:
        """Return the mean loss [nats] with some weights replaced."""


@dataclass(frozen=True)
class OutputLoss:
    """A mean loss of an output and a target, twice differentiable and convex in the output.

    Args:
        loss: Takes what the model returns, and the target.
    """

    loss: Loss

    def answer(self, model: nn.Module, batch: Batch) -> Outputs:
        """Run the model, with its graph."""
        return Outputs(self.loss, call(model, batch.inputs), batch.target, batch.size)

    def expand(self, model: nn.Module, directions: Sequence[Tangent], batch: Batch) -> Expansion:
        """Expand the loss to second order with Gauss-Newton curvature: one forward-mode product a direction.

        Args:
            model: Run as it is.
            directions: At least one, by parameter name; parameters that are not named stay.
            batch: The examples.

        Returns:
            The terms of every example.
        """
        result, products = _forward_products(model, directions, batch)
        outputs = Outputs(self.loss, result, batch.target, batch.size)
        moved = [products[i] for i in outputs.read]  # each [directions, examples, ...]
        count = len(directions)
        curved = [outputs.product([dz[d] for dz in moved]) for d in range(count)]
        n = batch.size
        flat = torch.cat([dz.reshape(count, n, -1) for dz in moved], 2)
        bent = torch.stack([torch.cat([part.reshape(n, -1) for part in parts], 1) for parts in curved])
        gradient = torch.cat([g.reshape(n, -1) for g in outputs.gradient()], 1)
        return Expansion(
            slopes=-torch.einsum("no,dno->nd", gradient, flat).double(),
            own=torch.einsum("dno,dno->nd", flat, bent).double(),
            first=torch.einsum("no,dno->nd", flat[0], bent).double(),
            matrix=(flat.flatten(1) @ bent.flatten(1).mT).double() / n,
        )

    def mean(self, model: nn.Module, batch: Batch, weights: Tangent) -> float:
        """Return the mean loss [nats] with some weights replaced."""
        args, kwargs = call_arguments(batch.inputs)
        with torch.no_grad():
            return float(self.loss(torch.func.functional_call(model, dict(weights), args, kwargs), batch.target))


def _forward_products(model: nn.Module, directions: Sequence[Tangent], batch: Batch) -> tuple[Any, dict[int, Tensor]]:
    """Return the outputs, and the derivative of each floating leaf along each direction [directions, examples, ...]."""
    args, kwargs = call_arguments(batch.inputs)
    names = list(dict.fromkeys(name for direction in directions for name in direction))
    weights = {name: model.get_parameter(name).detach() for name in names}
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    tangents = {name: torch.stack([d.get(name, zeros[name]).to(zeros[name]) for d in directions]) for name in names}
    seen: dict[str, Any] = {}

    def run(values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        leaves, seen["spec"] = pytree.tree_flatten(torch.func.functional_call(model, values, args, kwargs))
        where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        seen["where"], seen["leaves"] = where, [None if i in where else leaf for i, leaf in enumerate(leaves)]
        return tuple(leaves[i] for i in where)

    def along(direction: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return torch.func.jvp(run, (weights,), (direction,))[:2]

    with torch.no_grad(), _plain_attention():
        z, dz = torch.func.vmap(along, out_dims=(None, 0))(tangents)  # type: ignore[arg-type]
    for i, value in zip(seen["where"], z, strict=True):
        seen["leaves"][i] = value
    return pytree.tree_unflatten(seen["leaves"], seen["spec"]), dict(zip(seen["where"], dz, strict=True))


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
