"""The most general objective: a user's own `step(model, batch) -> mean loss`, of which nothing else is known.

What can't be judged there, since the outputs are not seen:

- K-FAC factors come from the gradients of the loss itself, the empirical Fisher; it is far from the curvature where the
  model fits badly, so that steps are less well scaled, and more of the gain is left to be found in training.
- Curvature is that of the loss with respect to the weights, not Gauss-Newton's: it may be negative, which counts as no
  gain, and it has no floor for a loss that is a straight line in the outputs.
- Examples are not told apart: the standard error is that over batches, and rough with few of them.
- Whatever the step changes besides its loss (counters, moving averages, a mode that it sets) stays changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.curvature import Loss
from outgrow.grow.custom import has_custom_operation, nodes_of
from outgrow.grow.derivative import difference_step, plain_attention
from outgrow.grow.objective import Expansion, Objective, OutputLoss, Tangent, same_chance
from outgrow.grow.precision import full_precision
from outgrow.grow.sample import Batch

Step = Callable[[nn.Module, Any], Tensor]
Weights = Mapping[str, Tensor]


class StepAnswer:
    """The loss of one batch, as the only thing known of what a model answered.

    Args:
        loss: Mean loss, with its graph.
        size: Number of examples.

    Attributes:
        values: The loss.
    """

    def __init__(self, loss: Tensor, size: int) -> None:
        self.values, self._size = [loss], size

    def gradient(self) -> list[Tensor]:
        """Return the gradient of the summed loss with respect to the mean loss: the number of examples."""
        return [torch.full_like(self.values[0], float(self._size))]

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Return the gradient itself: back-propagated it gives the empirical Fisher, the only one that is known.

        Args:
            generator: Not used.

        Returns:
            The number of examples, of the shape of the loss.
        """
        return self.gradient()


@dataclass(frozen=True)
class StepLoss:
    """A step of a user's own that returns the mean loss of a batch of any type.

    Args:
        step: Called with the model and a batch; returns the mean loss over its examples with its graph, and neither
            calls `backward` nor moves an optimizer.
    """

    step: Step

    @full_precision()
    def answer(self, model: nn.Module, batch: Batch) -> StepAnswer:
        """Run the step, with its graph.

        Args:
            model: Run as it is.
            batch: The examples.

        Returns:
            The loss.

        Raises:
            InputError: The step returns no single number, one without a graph, or one that another model has made.
        """
        with _noting_calls(model) as called:
            loss = self._loss(model, batch, {})
        if not loss.requires_grad:
            raise InputError(
                "expected step(model, batch) to return the mean loss with its graph, received one that depends on no "
                "weight: return it before backward(), item() or detach()"
            )
        own = set(map(id, model.parameters()))
        if not called and not any(id(getattr(node, "variable", None)) in own for node in nodes_of(loss)):
            raise InputError(
                "expected step(model, batch) to use the model that it is given, a copy of the one that is trained, "
                "received a loss that it has no part in"
            )
        return StepAnswer(loss, batch.size)

    @full_precision()
    def expand(self, model: nn.Module, directions: Sequence[Tangent], batch: Batch) -> Expansion:
        """Expand the loss to second order: one Hessian-vector product a direction, by differentiating twice.

        Where the step can't be differentiated twice, or runs operations of the user's own, whose second derivatives
        torch does not vouch for, by central differences of the gradient.

        Args:
            model: Run as it is.
            directions: At least one, by parameter name; parameters that are not named stay.
            batch: The examples; one term stands for all of them.

        Returns:
            The term of the batch.
        """
        names = dict.fromkeys(name for direction in directions for name in direction)
        weights = {name: model.get_parameter(name).detach().clone().requires_grad_() for name in names}
        with torch.enable_grad(), plain_attention():
            try:
                twice = self._twice(model, directions, batch, weights)
            except RuntimeError:  # an operation without a second derivative; another error comes again
                twice = None
            gradient, products = twice or self._by_differences(model, directions, batch, weights)
        slopes = torch.stack([-_dot(gradient, direction) for direction in directions])
        matrix = torch.stack([torch.stack([_dot(product, d) for d in directions]) for product in products])
        matrix = (matrix + matrix.mT) / 2
        return Expansion(slopes[None], matrix.diagonal()[None], matrix[:1], matrix)

    @full_precision()
    def mean(self, model: nn.Module, batch: Batch, weights: Tangent) -> float:
        """Return the mean loss [nats] with some weights replaced."""
        with torch.no_grad():
            return float(self._loss(model, batch, weights))

    def _loss(self, model: nn.Module, batch: Batch, weights: Weights) -> Tensor:
        held = _Held(model, self.step)
        replaced = {f"model.{name}": w for name, w in weights.items()}
        with same_chance(model, batch):
            value = torch.func.functional_call(held, replaced, (batch.inputs,))
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"expected step(model, batch) to return the mean loss, one number, received {what}")
        return value.squeeze()

    def _twice(
        self, model: nn.Module, directions: Sequence[Tangent], batch: Batch, weights: Weights
    ) -> tuple[Weights, list[Weights]] | None:
        loss = self._loss(model, batch, weights)
        if has_custom_operation(loss):
            return None
        gradient = _gradients(loss, weights, create_graph=True)
        products = [_gradients(_dot(gradient, direction), weights) for direction in directions]
        return {name: g.detach() for name, g in gradient.items()}, products

    def _by_differences(
        self, model: nn.Module, directions: Sequence[Tangent], batch: Batch, weights: Weights
    ) -> tuple[Weights, list[Weights]]:
        products: list[Weights] = []
        for direction in directions:
            h = difference_step(weights, direction)
            ends = [_moved(weights, direction, t) for t in (h, -h)]
            high, low = (_gradients(self._loss(model, batch, end), end) for end in ends)
            products.append({name: (high[name] - low[name]) / (2 * h) for name in weights})
        return _gradients(self._loss(model, batch, weights), weights), products


def objective_of(loss: Loss | None, step: Step | None) -> Objective:
    """Return the objective that a loss or a step stands for.

    Args:
        loss: `loss(output, target)`, or None.
        step: `step(model, batch)`, or None.

    Returns:
        The objective.

    Raises:
        InputError: Both or neither are given, or what is given can't be called.
    """
    if loss is not None and step is not None:
        raise InputError("expected loss(output, target) or step(model, batch), received both: pass None as the loss")
    given = loss if step is None else step
    if not callable(given):
        raise InputError(
            "expected loss(output, target), or None and step=step(model, batch), each returning the mean loss, "
            f"received {'neither' if given is None else type(given).__name__}"
        )
    return OutputLoss(given) if step is None else StepLoss(given)


@contextmanager
def _noting_calls(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Note which modules of a model are called."""
    called = list[nn.Module]()

    def note(module: nn.Module, _: Any) -> None:
        called.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled parts would trace the hooks
            yield called
    finally:
        for hook in hooks:
            hook.remove()


class _Held(nn.Module):
    """A module that runs a step on a model, so that the model's weights can be replaced while it does."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model, self._step = model, step
        self.training = model.training

    def forward(self, batch: Any) -> Any:
        return self._step(self.model, batch)


def _gradients(value: Tensor, weights: Weights, create_graph: bool = False) -> Weights:
    """The gradient with respect to each weight; zeros where there is none."""
    found: Sequence[Tensor | None] = [None] * len(weights)
    if value.requires_grad:
        tensors = list(weights.values())
        found = torch.autograd.grad(value, tensors, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(weights.items(), found, strict=True)}


def _moved(weights: Weights, direction: Tangent, step: float) -> Weights:
    return {
        name: (w + step * direction[name].to(w) if name in direction else w).detach().requires_grad_()
        for name, w in weights.items()
    }


def _dot(gradient: Weights, direction: Tangent) -> Tensor:
    """The inner product of a gradient and a direction, float64."""
    parts = [(gradient[name].double() * value.to(gradient[name]).double()).sum() for name, value in direction.items()]
    return torch.stack(parts).sum()
