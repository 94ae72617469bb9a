"""What a model is trained for, as a check needs it: run, differentiated, and expanded along directions.

An objective says how one batch becomes a mean loss. `OutputLoss` is `loss(output, target)`, whose curvature is the
generalised Gauss-Newton matrix, example by example; `outgrow.grow.step.StepLoss` is anything else. Both compute in
float32 or float64, whatever autocast says.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.curvature import Loss, Outputs, demand_mean
from outgrow.grow.derivative import derivatives_along
from outgrow.grow.precision import full_precision, upcast
from outgrow.grow.sample import Batch
from outgrow.net.inputs import call, call_arguments, gpus_of, seed_

Tangent = Mapping[str, Tensor]


class Answer(Protocol):
    """What back-propagation starts from: the values of a batch that the loss reads."""

    values: list[Tensor]

    def gradient(self) -> list[Tensor]:
        """Return the gradient of the summed loss with respect to each value."""

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Draw directions of each value whose covariance is the Hessian of the summed loss."""


def pulled_back(
    answer: Answer, inputs: Sequence[Any], gradients: Sequence[Tensor], keep: bool = False
) -> tuple[Tensor | None, ...]:
    """Send gradients at the values of an answer back to tensors, or to edges of the graph.

    Args:
        answer: The values; those without a graph, as of a frozen part of the model, reach nothing.
        inputs: Tensors or edges.
        gradients: One for each value, of its shape.
        keep: Whether the graph is needed again.

    Returns:
        What arrives at each input; None where nothing does.
    """
    reaching = [(z, u) for z, u in zip(answer.values, gradients, strict=True) if z.requires_grad]
    if not reaching:
        return (None,) * len(inputs)
    values, seeds = zip(*reaching, strict=True)
    return torch.autograd.grad(values, inputs, seeds, retain_graph=keep, allow_unused=True)


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


@contextmanager
def same_chance(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Let what a model draws from torch be the same whenever it runs on a batch, and leave torch's state as it was."""
    with torch.random.fork_rng(devices=gpus_of(model)):
        seed_(model, batch.chance)
        yield


@dataclass(frozen=True)
class OutputLoss:
    """A mean loss of an output and a target, twice differentiable and convex in the output, or L1's like.

    Args:
        loss: Takes what the model returns, and the target. Both come as float32 where they
            are in half precision.
    """

    loss: Loss

    def of(self, batch: Batch) -> Loss:
        """Return the loss, so that its sum over batches, each times its size, is the sum over all of them."""
        return self.loss if batch.share == 1 else lambda output, target: batch.share * self.loss(output, target)

    @full_precision()
    def answer(self, model: nn.Module, batch: Batch) -> Outputs:
        """Run the model, with its graph.

        Args:
            model: Run as it is.
            batch: The examples.

        Returns:
            The outputs.

        Raises:
            InputError: The model has weights that are trained, but no output that the loss reads depends on them.
        """
        with same_chance(model, batch):
            outputs = Outputs(self.of(batch), call(model, batch.inputs), batch.target, batch.size)
        trained = any(parameter.requires_grad for parameter in model.parameters())
        if trained and not any(value.requires_grad for value in outputs.values):
            raise InputError(
                f"expected outputs of {type(model).__name__} that depend on its weights, received some without a "
                "graph: leave out detach() and no_grad() on the way from the weights to the loss"
            )
        return outputs

    @full_precision()
    def expand(self, model: nn.Module, directions: Sequence[Tangent], batch: Batch) -> Expansion:
        """Expand the loss to second order with Gauss-Newton curvature: one forward-mode product a direction.

        Args:
            model: Run as it is.
            directions: At least one, by parameter name; parameters that are not named stay.
            batch: The examples.

        Returns:
            The terms of every example.
        """
        with same_chance(model, batch):
            result, found = derivatives_along(model, directions, batch.inputs)
        outputs = Outputs(self.of(batch), result, batch.target, batch.size)
        moved = [upcast(found[i]) for i in outputs.read]  # each [directions, examples, ...]
        n, count = batch.size, len(directions)
        flat = torch.cat([dz.reshape(count, n, -1) for dz in moved], 2)
        gradient = torch.cat([g.reshape(n, -1) for g in outputs.gradient()], 1)
        own, first, matrix = [], [], []
        for d in range(count):
            bent = torch.cat([part.reshape(n, -1) for part in outputs.product([dz[d] for dz in moved])], 1)
            own.append((flat[d] * bent).sum(1))
            first.append((flat[0] * bent).sum(1))
            matrix.append(torch.einsum("eno,no->e", flat, bent) / n)
        return Expansion(
            slopes=-torch.einsum("no,dno->nd", gradient, flat).double(),
            own=torch.stack(own, 1).double(),
            first=torch.stack(first, 1).double(),
            matrix=torch.stack(matrix).double(),
        )

    @full_precision()
    def mean(self, model: nn.Module, batch: Batch, weights: Tangent) -> float:
        """Return the mean loss [nats] with some weights replaced."""
        args, kwargs = call_arguments(batch.inputs)
        with torch.no_grad(), same_chance(model, batch):
            result = upcast(torch.func.functional_call(model, dict(weights), args, kwargs))
            value = self.of(batch)(result, upcast(batch.target))
        demand_mean(value)
        return float(value)
