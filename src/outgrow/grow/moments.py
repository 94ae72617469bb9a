"""K-FAC moments of layers, taken by hooks on a sample of examples and positions.

A layer reads patches a [examples, positions, features], with a constant 1 appended where it has a bias; u [examples,
positions, outputs] is the gradient of one example's loss at what it writes. Positions are those of all its calls, T for
an example. The mean loss has gradient G [outputs, features] with respect to the weights, and F is approximated by
A (x) S (Martens and Grosse, arXiv 1503.05671; Grosse and Martens, arXiv 1602.01407) in one of two conventions
(Eschenhagen et al., arXiv 2311.00636):

    expand   A = E_examples sum_positions a a^T              S = E_examples mean_positions u u^T
    reduce   A = E_examples (mean a) (mean a)^T              S = E_examples (sum u) (sum u)^T

with A [features, features] and S [outputs, outputs]; they are one for T = 1. Expand is right where each position has a
loss of its own, as tokens do, reduce where positions are averaged and alike. A convolution of several groups has
factors for each: A [groups, features, features], S [groups, outputs, outputs], G [groups, outputs, features], of the
features and outputs of one group.

u is drawn with the Hessian of the loss as covariance, so F is the true Fisher; G is exact on the sample. Expand samples
rows, uniformly, so that A and S stay unbiased; reduce takes all positions, which costs one row an example. Products of
rows are taken in float32 at least, whatever autocast says, and summed in float64, or in float32 for layers of more than
`weights.WIDE` features or outputs.

Of a layer with more than that many outputs, as a head of very many classes, S is the diagonal of the above alone,
[outputs] or [groups, outputs]: a dense one would take more memory and time than all else, and has more entries than
there are examples to tell of them. At a softmax, whose S is diag(p) - p p^T, that leaves out shares p_i p_j.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from outgrow.errors import InputError
from outgrow.grow.factors import Expand, Reduce
from outgrow.grow.objective import Answer, Objective, pulled_back
from outgrow.grow.patches import groups_of, has_rows
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.weights import has_many_outputs, is_wide, matrix_of, sizes_of, weights_of

Convention = Literal["expand", "reduce"]
Fisher = Literal["true", "empirical"]

ROWS_PER_FEATURE = 32  # residuals fitted on n rows with k features lose k/n of pure noise: 3 %


@dataclass
class Moments:
    """Moments of one layer.

    Args:
        A: Second moment of what it reads [features, features].
        S: Fisher factor of what it writes [outputs, outputs], or its diagonal [outputs].
        G: Gradient of the mean loss with respect to its weights, the bias as the last column [outputs, features].
        kernel: Features of one input channel.
        bias: Whether the last feature is the constant 1.
        bias_moves: Whether there is a bias that is not frozen.
        rows: How many rows, examples times positions, were summed.
        examples: How many examples the means are over.
    """

    A: Tensor
    S: Tensor
    G: Tensor
    kernel: int
    bias: bool
    bias_moves: bool
    rows: int = 0
    examples: int = 0

    @property
    def flops(self) -> int:
        """FLOPs of the sums a a^T and u u^T, and of one Cholesky factor of each."""
        return 2 * self.rows * (self.A.numel() + self.S.numel()) + self.cholesky_flops

    @property
    def cholesky_flops(self) -> int:
        """FLOPs of one Cholesky factor of A, and of S where that is no diagonal."""
        dense = [self.A] if self.S.ndim < self.A.ndim else [self.A, self.S]
        return sum(matrix.numel() * matrix.shape[-1] // 3 for matrix in dense)

    def among(self, outputs: Tensor) -> Tensor:
        """Return S, or its diagonal, among some outputs of an ungrouped layer."""
        return self.S[outputs] if self.S.ndim == 1 else self.S[outputs][:, outputs]

    def features_of(self, channels: Tensor, bias: bool = False) -> Tensor:
        """Return the features that belong to input channels of a group, and the constant if asked for and there."""
        features = (channels[:, None] * self.kernel + torch.arange(self.kernel)).flatten()
        return torch.cat([features, torch.tensor([self.A.shape[-1] - 1])]) if bias and self.bias else features


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
    model: nn.Module,
    layers: Sequence[str],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
    *,
    convention: Convention = "expand",
    fisher: Fisher = "true",
    positions: Mapping[str, int] | None = None,
) -> dict[str, Moments]:
    """Take the moments of layers in eval mode, in one forward and two backward passes over the batches.

    Rows are summed as the layers are called, and freed. Beside the factors this takes the memory of a training step on
    one batch.

    Args:
        model: Run as it is, in eval mode; its gradients are left alone.
        layers: Paths of linear layers or convolutions; others, frozen ones and those whose weights are used without
            calling them are left out.
        batches: The examples.
        objective: What the model is trained for.
        generator: Draws positions and Fisher noise.
        convention: How positions enter the factors.
        fisher: `true`, or `empirical` for u the gradient of the loss as it is, which saves a backward pass.
        positions: Rows of each example to sum from each call of a layer; where absent, so many that the whole sample
            has `ROWS_PER_FEATURE` for each feature or output. Of no meaning for `reduce`.

    Returns:
        The moments of each layer.

    Raises:
        InputError: The convention or the Fisher matrix is unknown, or it is `reduce` where the rows that a layer reads
            are not a whole number an example.
    """
    demand_known("convention", convention, get_args(Convention))
    demand_known("fisher", fisher, get_args(Fisher))
    named = {path: model.get_submodule(path) for path in layers}
    modules = {
        path: module for path, module in named.items() if has_rows(module) and weights_of(module)[0].requires_grad
    }
    total = examples_in(batches)
    found = {path: _zeros(module, total) for path, module in modules.items()}
    wanted = {
        path: (positions or {}).get(path) or positions_for(max(one.G.shape[-2:]), total) for path, one in found.items()
    }
    called = set[str]()
    for batch in batches:
        factors: dict[str, Expand | Reduce] = {}
        for path, module in modules.items():
            sums = found[path].A, found[path].S, found[path].bias
            factors[path] = (
                Reduce(module, *sums, batch.size, total)
                if convention == "reduce"
                else Expand(module, *sums, batch.size, total, wanted[path], generator)
            )
        with _reading(modules, factors) as edges:
            answer = objective.answer(model, batch)
        called.update(path for path in edges if edges[path])
        _back_propagate(answer, {p: modules[p] for p in edges if edges[p]}, edges, factors, found, fisher, generator)
    return {path: found[path] for path in modules if path in called}


def positions_for(size: int, examples: int, rows_per_feature: float = ROWS_PER_FEATURE) -> int:
    """Return how many positions of each example give a factor of a size so many rows for each of its own."""
    return max(int(-(-rows_per_feature * size // max(examples, 1))), 1)


def merged(parts: Sequence[Mapping[str, Moments]]) -> dict[str, Moments]:
    """Return the moments of several samples as those of one: means weighted by examples.

    Args:
        parts: Moments of the same layers of one model; a layer that a part lacks was not called there.
    """
    sizes = [max((one.examples for one in part.values()), default=0) for part in parts]
    total = max(sum(sizes), 1)
    together: dict[str, Moments] = {}
    for part, size in zip(parts, sizes, strict=True):
        for path, one in part.items():
            sums = together.get(path) or replace(
                one, A=torch.zeros_like(one.A), S=torch.zeros_like(one.S), G=torch.zeros_like(one.G), rows=0
            )
            for name in ("A", "S", "G"):
                getattr(sums, name).add_(getattr(one, name), alpha=size / total)
            together[path] = replace(sums, rows=sums.rows + one.rows, examples=sum(sizes))
    return together


@contextmanager
def hooked(modules: Mapping[str, nn.Module], keep: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Hand the path, what is read and what is written at every call of the modules to `keep`."""

    def hook(path: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            keep(path, inputs[0] if inputs else named["input"], output)

        return record

    handles = [module.register_forward_hook(hook(path), with_kwargs=True) for path, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_calls(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record every call of the modules, but for those without a graph."""
    calls: dict[str, list[Call]] = {path: [] for path in modules}

    def keep(path: str, read: Tensor, written: Tensor) -> None:
        if written.requires_grad:
            calls[path].append(Call(read.detach(), written.detach(), get_gradient_edge(written)))

    with hooked(modules, keep):
        yield calls


@contextmanager
def _reading(
    modules: Mapping[str, nn.Module], factors: Mapping[str, Expand | Reduce]
) -> Iterator[dict[str, list[GradientEdge]]]:
    """Sum what the modules read as they are called; only where the gradient of what they wrote arrives is kept."""
    edges: dict[str, list[GradientEdge]] = {path: [] for path in modules}

    def keep(path: str, read: Tensor, written: Tensor) -> None:
        if written.requires_grad and written.numel():
            factors[path].read(read.detach(), written.detach())
            edges[path].append(get_gradient_edge(written))

    with hooked(modules, keep):
        yield edges


def _back_propagate(
    answer: Answer,
    called: Mapping[str, nn.Module],
    edges: Mapping[str, list[GradientEdge]],
    factors: Mapping[str, Expand | Reduce],
    found: Mapping[str, Moments],
    fisher: Fisher,
    generator: torch.Generator,
) -> None:
    """Add the gradients of the weights to G, and finish the factors with those of what the layers wrote."""
    if not called:
        return
    weights = {id(w): w for module in called.values() for w in weights_of(module) if w.requires_grad}
    arrivals = [edge for path in called for edge in edges[path]]
    inputs = [*weights.values(), *(arrivals if fisher == "empirical" else ())]
    more = fisher == "true"
    grads = pulled_back(answer, inputs, answer.gradient(), keep=more)
    of_weight = dict(zip(weights, grads, strict=False))
    for path, module in called.items():
        gradient = matrix_of(module, [of_weight.get(id(w)) for w in weights_of(module)])
        found[path].G.add_(gradient.view_as(found[path].G), alpha=1 / found[path].examples)
    if more:
        grads = pulled_back(answer, arrivals, answer.draw(generator))
    us = iter(grads[-len(arrivals) :])
    for path in called:
        factors[path].finish([next(us) for _ in edges[path]])
        found[path].rows += factors[path].rows


def _zeros(module: nn.Module, examples: int) -> Moments:
    weights, groups = weights_of(module), groups_of(module)
    outputs, features = sizes_of(module)
    kernel = weights[0][0, 0].numel() if weights[0].ndim > 2 else 1
    dtype = torch.float32 if is_wide(module) else torch.float64
    lead = [groups] if groups > 1 else []

    def zeros(*size: int) -> Tensor:
        return torch.zeros(*lead, *size, dtype=dtype, device=weights[0].device)

    A, G = zeros(features, features), zeros(outputs, features)
    S = zeros(outputs) if has_many_outputs(module) else zeros(outputs, outputs)
    moves = any(bias.requires_grad for bias in weights[1:])
    return Moments(A, S, G, kernel, len(weights) > 1, moves, examples=examples)


def demand_known(name: str, value: str, known: tuple[str, ...]) -> None:
    """Check that an option has one of its values.

    Args:
        name: Of the option, in words.
        value: What was given.
        known: Its values.

    Raises:
        InputError: It is another one.
    """
    if value not in known:
        raise InputError(f"unknown {name} '{value}': choose one of {', '.join(known)}")
