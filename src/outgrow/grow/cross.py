"""Cross moments of what a producer reads and the gradient at its consumers, E[x u^T].

Between a producer and a consumer the path is taken for linear, and maps are resized by averaging: each input feature of
the producer stands for a unit that hands it on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.grow.moments import Call, Moments, recorded_calls
from outgrow.grow.objective import Objective, pulled_back
from outgrow.grow.patches import is_mixer, read_rows
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.score import solve
from outgrow.grow.weights import weights_of
from outgrow.net.axis import Axis, Member

RESIDUAL_DAMPING = 0.01  # of the regression of u on what the consumer reads


@dataclass(frozen=True)
class Route:
    """How a direction of what a producer reads gets to the consumers of an axis.

    Args:
        axis: The axis.
        maker: The one weight that hands it out.
        readers: The weights that read it.
    """

    axis: Axis
    maker: Member
    readers: tuple[Member, ...]

    @property
    def modules(self) -> list[str]:
        """Paths of all its layers, the producer first."""
        return [self.maker.module, *(member.module for member in self.readers)]


def route(model: nn.Module, axis: Axis) -> Route | None:
    """Return the route of an axis; None where several layers hand it out, or one is frozen or of another kind."""
    modules = [model.get_submodule(member.module) for member in (*axis.producers, *axis.consumers)]
    if len(axis.producers) != 1 or not all(
        is_mixer(module) and weights_of(module)[0].requires_grad for module in modules
    ):
        return None
    if not all(isinstance(reader, (nn.Linear, type(modules[0]))) for reader in modules[1:]):
        return None
    return Route(axis, axis.producers[0], tuple(axis.consumers))


@torch.enable_grad()
def cross_moments(
    model: nn.Module,
    routes: Sequence[Route],
    batches: Sequence[Batch],
    objective: Objective,
    explained: Mapping[str, Moments] | None = None,
) -> list[list[Tensor]]:
    """Take the cross moments of routes, all in one forward and one backward pass over the batches.

    Args:
        model: Run as it is, in eval mode.
        routes: At least one.
        batches: The examples.
        objective: What the model is trained for.
        explained: Moments of the consumers: of u is taken off what they explain by what the consumers read.

    Returns:
        For each route, and each of its readers, E[u x^T] [outputs, inputs of the producer, kernel of the reader]; no
        readers where a layer was not called.
    """
    paths = dict.fromkeys(path for one in routes for path in one.modules)
    modules = {path: model.get_submodule(path) for path in paths}
    readers = list(dict.fromkeys(member.module for one in routes for member in one.readers))
    found = {path: explained[path] for path in readers} if explained else {}
    known = {path: solve(one.A, one.G.mT, RESIDUAL_DAMPING).mT for path, one in found.items()}
    total = examples_in(batches)
    sums = [[torch.zeros(()) for _ in one.readers] for one in routes]
    for batch in batches:
        calls, gradients = _gradients(model, modules, readers, batch, objective)
        for path, regression in known.items():
            gradients[path] = [
                u if u is None else u - _regressed(modules[path], one.read, regression)
                for one, u in zip(calls[path], gradients[path], strict=True)
            ]
        for one, mine in zip(routes, sums, strict=True):
            made = calls[one.maker.module]
            for j, member in enumerate(one.readers):
                for writes, reads, u in zip(made, calls[member.module], gradients[member.module], strict=False):
                    if u is not None:
                        mine[j] = mine[j] + _moment(modules, one, member, writes, reads, u) / total
    return [mine if all(one.ndim for one in mine) else [] for mine in sums]


def _gradients(
    model: nn.Module, modules: Mapping[str, nn.Module], readers: Sequence[str], batch: Batch, objective: Objective
) -> tuple[dict[str, list[Call]], dict[str, list[Tensor | None]]]:
    """Run a batch: every call of the modules, and the gradient of the summed loss at what each reader wrote."""
    with recorded_calls(modules) as calls:
        answer = objective.answer(model, batch)
    edges = [one.edge for path in readers for one in calls[path]]
    if not edges:
        return calls, {path: [] for path in readers}
    found = iter(pulled_back(answer, edges, answer.gradient()))
    return calls, {path: [next(found) for _ in calls[path]] for path in readers}


def _moment(modules: Mapping[str, nn.Module], one: Route, member: Member, made: Call, call: Call, u: Tensor) -> Tensor:
    """The cross moment of one call of a producer and one of a reader, summed over examples."""
    features = _feature_map(modules[one.maker.module], made.read, made.written)
    return _weight_gradient(modules[member.module], call.read, features, u, member.index.shape[1]).double()


def _regressed(module: nn.Module, x: Tensor, regression: Tensor) -> Tensor:
    """What a regression [outputs, features] makes of what a layer reads."""
    weight, *biases = weights_of(module)
    features = weight[0].numel()
    values = {"weight": regression[:, :features].reshape(weight.shape).to(weight)}
    if biases:
        values["bias"] = regression[:, features].to(weight)
    return torch.func.functional_call(module, values, x)


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
        pooled_between = math.prod(features.shape[2:]) != places
        if features.ndim == 4 and pooled_between and side**2 == places:  # to a square map, most likely
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
