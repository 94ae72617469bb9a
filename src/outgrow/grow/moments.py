"""K-FAC moments of layers, taken by hooks on a sample of examples and positions.

Convention (K-FAC expand): a layer reads patches a [examples, positions, features], with a constant 1 appended where it
has a bias, and the mean loss has gradient G [outputs, features] with respect to its weights. With u the gradient of one
example's loss at the layer's output, F is approximated by A (x) S with

    A = E_examples sum_positions a a^T        [features, features]
    S = E_examples mean_positions u u^T       [outputs, outputs]

The positions of a layer that is called several times are those of all its calls.

(Martens and Grosse, arXiv 1503.05671; Grosse and Martens, arXiv 1602.01407). u is drawn with the Hessian of the loss as
covariance, so F is the true Fisher; G is exact on the sample. All are float64 on the CPU or the model's own device.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from outgrow.grow.objective import Objective
from outgrow.grow.patches import is_mixer, position_count, read_rows, written_rows
from outgrow.grow.sample import Batch, examples_in

MAX_POSITIONS = 16


@dataclass
class Moments:
    """Moments of one layer.

    Args:
        A: Second moment of what it reads [features, features].
        S: Fisher factor of what it writes [outputs, outputs].
        G: Gradient of the mean loss with respect to its weights, the bias as the last column [outputs, features].
        kernel: Features of one input channel.
        bias: Whether the last feature is the constant 1.
        rows: How many rows, examples times positions, were summed.
    """

    A: Tensor
    S: Tensor
    G: Tensor
    kernel: int
    bias: bool
    rows: int = 0

    @property
    def flops(self) -> int:
        """FLOPs of the sums a a^T and u u^T, and of one Cholesky factor of each."""
        sizes = len(self.A), len(self.S)
        return sum(2 * self.rows * size**2 + size**3 // 3 for size in sizes)

    def features_of(self, channels: Tensor, bias: bool = False) -> Tensor:
        """Return the features that belong to input channels, and the constant if asked for and there."""
        features = (channels[:, None] * self.kernel + torch.arange(self.kernel)).flatten()
        return torch.cat([features, torch.tensor([len(self.A) - 1])]) if bias and self.bias else features


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Args:
        read: What it read.
        written: What it wrote.
        edge: Where the gradient of what it wrote arrives, before anything changes that in place.
    """

    read: Tensor
    written: Tensor
    edge: GradientEdge


@torch.enable_grad()
def take_moments(
    model: nn.Module, layers: Sequence[str], batches: Sequence[Batch], objective: Objective, generator: torch.Generator
) -> dict[str, Moments]:
    """Take the moments of layers in eval mode, in one forward and two backward passes over the batches.

    Args:
        model: Run as it is, in eval mode; its gradients are left alone.
        layers: Paths of linear layers or convolutions; others, frozen ones and those whose weights are used without
            calling them are left out.
        batches: The examples.
        objective: What the model is trained for.
        generator: Draws positions and Fisher noise.

    Returns:
        The moments of each layer.
    """
    named = {path: model.get_submodule(path) for path in layers}
    modules = {path: module for path, module in named.items() if is_mixer(module) and _weights(module)[0].requires_grad}
    total = examples_in(batches)
    sums: dict[str, Moments] = {}
    for batch in batches:
        with recorded_calls(modules) as calls:
            answer = objective.answer(model, batch)
        called = {path: module for path, module in modules.items() if calls[path]}
        if not called:
            continue
        weights = [w for module in called.values() for w in _weights(module) if w.requires_grad]
        seeds = [gradient / total for gradient in answer.gradient()]
        grads = torch.autograd.grad(answer.values, weights, seeds, retain_graph=True, allow_unused=True)
        edges = [one.edge for path in called for one in calls[path]]
        noise = iter(torch.autograd.grad(answer.values, edges, answer.draw(generator), allow_unused=True))
        of_weight = dict(zip(map(id, weights), grads, strict=True))
        for path, module in called.items():
            moments = sums.get(path) or _zeros(module)
            _add(moments, module, [(one, next(noise)) for one in calls[path]], total, generator)
            moments.G += _flat(module, [of_weight.get(id(w)) for w in _weights(module)])
            sums[path] = moments
    return sums


def factor_cost(model: nn.Module, layers: Iterable[str]) -> tuple[int, int]:
    """Return the FLOPs of the factors of layers, known before they are taken: for each example, and once.

    Args:
        model: The model.
        layers: Paths of linear layers or convolutions; others cost nothing.
    """
    each, once = 0, 0
    for path in dict.fromkeys(layers):
        module = model.get_submodule(path)
        if is_mixer(module):
            positions = 1 if isinstance(module, nn.Linear) else MAX_POSITIONS
            for size in (_weights(module)[0][0].numel() + 1, len(_weights(module)[0])):
                each, once = each + 2 * positions * size**2, once + size**3 // 3
    return each, once


@contextmanager
def recorded_calls(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record every call of the modules."""
    calls: dict[str, list[Call]] = {path: [] for path in modules}

    def recorder(path: str) -> torch.utils.hooks.RemovableHandle:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            read = inputs[0] if inputs else named["input"]
            calls[path].append(Call(read.detach(), output.detach(), get_gradient_edge(output)))

        return modules[path].register_forward_hook(record, with_kwargs=True)

    handles = [recorder(path) for path in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _weights(module: nn.Module) -> list[Tensor]:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    return [weight, bias] if isinstance(bias, Tensor) else [weight]


def _zeros(module: nn.Module) -> Moments:
    weights = _weights(module)
    outputs, features = len(weights[0]), weights[0][0].numel() + len(weights) - 1
    kernel = weights[0][0, 0].numel() if weights[0].ndim > 2 else 1

    def zeros(*size: int) -> Tensor:
        return torch.zeros(*size, dtype=torch.float64, device=weights[0].device)

    return Moments(
        zeros(features, features), zeros(outputs, outputs), zeros(outputs, features), kernel, len(weights) > 1
    )


def _flat(module: nn.Module, grads: Sequence[Tensor | None]) -> Tensor:
    """The gradients of weight and bias as one matrix [outputs, features]."""
    weights = _weights(module)
    parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1).double()


def _add(
    moments: Moments,
    module: nn.Module,
    calls: Sequence[tuple[Call, Tensor | None]],
    total: int,
    generator: torch.Generator,
) -> None:
    counts = [position_count(module, one.written) for one, _ in calls]
    for (one, u), count in zip(calls, counts, strict=True):
        chosen = None
        if count > MAX_POSITIONS:
            chosen = torch.randperm(count, generator=generator)[:MAX_POSITIONS]
        a = read_rows(module, one.read, chosen)
        if moments.bias:
            a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2)
        rows = a.reshape(-1, a.shape[2])
        moments.rows += len(rows)
        moments.A += (rows.mT @ rows).double() * (count / a.shape[1] / total)
        if u is not None:
            written = written_rows(module, u, chosen)
            written = written.reshape(-1, written.shape[2])
            moments.S += (written.mT @ written).double() * (count / a.shape[1] / total / sum(counts))
