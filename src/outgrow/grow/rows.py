"""Natural-gradient steps of parameters that belong to no linear map: gains and biases of norms, layer scales.

Let u_i be the gradient that one draw with the Hessian of the loss as covariance sends to what a module writes for
example i (as in `moments`), and g_i its pullback to a parameter of that module, through that module alone. Then

    F = E_examples g_i g_i^T    [entries, entries],    V = -(F + damping * mean diagonal)^-1 G

is the natural-gradient step of the parameter, with nothing approximated but F by one draw for each example. Of a
parameter with more than `MAX_DENSE` entries only the diagonal of F is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from outgrow.grow.objective import Objective, pulled_back
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.score import solve

MAX_DENSE = 512
CHUNK_ENTRIES = 2**24  # of gradients of single examples, at once


@dataclass(frozen=True)
class _Call:
    """One call of a module: what it was given, and where the gradient of its first tensor arrives."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    edge: GradientEdge


@dataclass
class _Sums:
    """Sums over examples for one parameter: its gradient, and F or the diagonal of F."""

    gradient: Tensor
    fisher: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = self.gradient.numel()
        shape = (size, size) if size <= MAX_DENSE else (size,)
        self.fisher = torch.zeros(shape, dtype=torch.float64, device=self.gradient.device)

    def add(self, rows: Tensor, total: int) -> None:
        """Add gradients of examples [examples, ...]."""
        flat = rows.detach().reshape(len(rows), -1).double()
        self.fisher += (flat.mT @ flat if self.fisher.ndim == 2 else flat.square().sum(0)) / total

    def step(self, damping: float) -> Tensor:
        """Return the step, in the parameter's shape."""
        return -solve(self.fisher, self.gradient.reshape(-1, 1), damping).view_as(self.gradient)


@sdpa_kernel(SDPBackend.MATH)  # fused attention has no rule for single examples
@torch.enable_grad()
def natural_steps(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
    damping: float,
) -> dict[str, Tensor]:
    """Return natural-gradient steps, each parameter by itself, in one forward and two backward passes.

    Args:
        model: Run as it is, in eval mode; its gradients are left alone.
        names: Parameters that require gradients.
        batches: The examples.
        objective: What the model is trained for.
        generator: Draws the Fisher noise.
        damping: Added to the diagonal, as a share of its mean.

    Returns:
        The steps by name [as the parameter], in float64. A parameter that no module uses which is called has a step of
        zeros.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    sums = {name: _Sums(torch.zeros_like(value, dtype=torch.float64)) for name, value in parameters.items()}
    total = examples_in(batches)
    for batch in batches if names else ():
        with _recorded(model, names) as calls:
            answer = objective.answer(model, batch)
        seeds = [gradient / total for gradient in answer.gradient()]
        grads = pulled_back(answer, [*parameters.values()], seeds, keep=True)
        for one, gradient in zip(sums.values(), grads, strict=True):
            one.gradient += 0.0 if gradient is None else gradient
        hosts = _hosts(names, calls)
        edges = [one.edge for path in hosts for one in calls[path]]
        noise = iter(pulled_back(answer, edges, answer.draw(generator)))
        for path, mine in hosts.items():
            pulled = [(one, next(noise)) for one in calls[path]]
            _add(model.get_submodule(path), {name: sums[f"{path}.{name}".lstrip(".")] for name in mine}, pulled, batch)
    return {name: one.step(damping) for name, one in sums.items()}


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[_Call]]]:
    """Record the calls of every module that has one of the parameters, and of those that hold it."""
    paths = {path for name in names for path in _holders(name)}
    calls: dict[str, list[_Call]] = {path: [] for path in paths}

    def recorder(path: str) -> torch.utils.hooks.RemovableHandle:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            written = _written(output)
            if written is not None and written.requires_grad:
                calls[path].append(_Call(_kept(args), _kept(kwargs), get_gradient_edge(written)))

        return model.get_submodule(path).register_forward_hook(record, with_kwargs=True)

    handles = [recorder(path) for path in paths]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _holders(name: str) -> list[str]:
    """The paths of the modules around a parameter, from the inside out, without the model itself."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _hosts(names: Sequence[str], calls: Mapping[str, Sequence[_Call]]) -> dict[str, list[str]]:
    """The innermost module around each parameter that was called, with the parameter's name in it."""
    hosts: dict[str, list[str]] = {}
    for name in names:
        path = next((path for path in _holders(name) if calls[path]), None)
        if path is not None:
            hosts.setdefault(path, []).append(name[len(path) + 1 :])
    return hosts


def _kept(given: Any) -> Any:
    """What a module was given, whatever changes it in place afterwards."""
    return pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, given)


def _written(output: Any) -> Tensor | None:
    """The first tensor of an output."""
    return next((x for x in pytree.tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()), None)


def _add(
    host: nn.Module, sums: Mapping[str, _Sums], calls: Sequence[tuple[_Call, Tensor | None]], batch: Batch
) -> None:
    """Add the gradients of single examples, over all calls, of the parameters of one module."""
    values = {name: host.get_parameter(name).detach() for name in sums}
    chunk = max(CHUNK_ENTRIES // max(sum(value.numel() for value in values.values()), 1), 1)
    pulled = [_pulled(host, values, one, u, batch.size, chunk) for one, u in calls if u is not None]
    for name, one in sums.items() if pulled else ():
        one.add(torch.stack([rows[name] for rows in pulled]).sum(0), batch.size)


def _pulled(
    host: nn.Module, values: dict[str, Tensor], call: _Call, u: Tensor, size: int, chunk: int
) -> dict[str, Tensor]:
    """What the gradient u of each example [examples, ...] is at the parameters of a module [examples, ...]."""
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    own = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size]

    def along(values: dict[str, Tensor], mine: list[Tensor], u: Tensor) -> Tensor:
        for i, x in zip(own, mine, strict=True):
            leaves[i] = x[None]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        written = _written(torch.func.functional_call(host, values, args, kwargs))
        assert written is not None  # as when it was called
        return (written[0] * u).sum()

    pull = torch.func.vmap(torch.func.grad(along), in_dims=(None, 0, 0), chunk_size=chunk)
    found: dict[str, Tensor] = pull(values, [leaves[i] for i in own], u)
    return found
