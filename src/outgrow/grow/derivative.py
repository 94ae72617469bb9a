"""Derivatives of a model's outputs along directions of its weights, in forward mode.

Several directions share one pass (vmap over forward-mode products), which saves the cost of starting every module
again. They are many tensors at once, though: where these would be large, those directions that move the same weights
go together, so that no zeros are pushed through the layers before, and at most as many as `GROUP_NUMBERS` allows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from outgrow.net.inputs import Example, call_arguments
from outgrow.net.kernels import fast_path

GROUP_NUMBERS = 2**22  # of the largest tensor of a pass, times the directions: what fits caches, and keeps a GPU busy

Direction = Mapping[str, Tensor]
Derivatives = tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]  # outputs, and for each direction their derivatives


def derivatives_along(
    model: nn.Module, directions: Sequence[Direction], inputs: Example
) -> tuple[Any, dict[int, Tensor]]:
    """Differentiate what a model returns along directions of its weights.

    Where vmap does not work for the model, directions go one at a time; where an operation has no forward-mode formula,
    by central differences of the outputs, whose relative error is about the two-thirds power of rounding.

    Args:
        model: Run as it is.
        directions: At least one, by parameter name; parameters that are not named stay.
        inputs: What it is called with.

    Returns:
        What the model returns, without graph, and the derivative of each floating leaf of it, by its number, along
        each direction [directions, examples, ...].
    """
    run = _Run(model, inputs)
    z: tuple[Tensor, ...] = ()
    found: dict[int, tuple[Tensor, ...]] = {}
    with torch.no_grad(), plain_attention():
        for group in _groups(run, directions):
            z, dz = _derivatives(run, [directions[i] for i in group])
            found.update(zip(group, dz, strict=True))
    stacked = [torch.stack([found[d][i] for d in range(len(directions))]) for i in range(len(z))]
    return run.result(z), dict(zip(run.floating, stacked, strict=True))


def difference_step(weights: Direction, direction: Direction) -> float:
    """Return the step of central differences: a change of weights by the cube root of rounding, in norm.

    There the error of rounding and that of the third derivative are of the same order.

    Examples:
        >>> w = {"w": torch.ones(4, dtype=torch.float64)}
        >>> difference_step(w, {"w": 10 * w["w"]}) == torch.finfo(torch.float64).eps ** (1 / 3) / 10
        True
    """
    size = sum(float(weights[name].detach().double().square().sum()) for name in direction) ** 0.5
    length = sum(float(value.double().square().sum()) for value in direction.values()) ** 0.5
    eps = max(torch.finfo(weights[name].dtype).eps for name in direction)
    return eps ** (1 / 3) * (size or 1.0) / (length or 1.0)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention from its definition: the fused kernels have neither forward mode nor second derivatives."""
    with fast_path(False), sdpa_kernel(SDPBackend.MATH):
        yield


class _Run:
    """A model as a function from some of its weights to the floating leaves of what it returns."""

    def __init__(self, model: nn.Module, inputs: Example) -> None:
        self._model, self._arguments = model, call_arguments(inputs)
        self.floating: list[int] = []

    def __call__(self, weights: Direction) -> tuple[Tensor, ...]:
        leaves, self._spec = pytree.tree_flatten(
            torch.func.functional_call(self._model, dict(weights), *self._arguments)
        )
        self.floating = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        self._others = [None if i in self.floating else leaf for i, leaf in enumerate(leaves)]
        return tuple(leaves[i] for i in self.floating)

    def weights(self, directions: Sequence[Direction]) -> dict[str, Tensor]:
        """Return the weights that directions move."""
        names = dict.fromkeys(name for direction in directions for name in direction)
        return {name: self._model.get_parameter(name).detach() for name in names}

    def result(self, floating: Sequence[Tensor]) -> Any:
        """Return what the model returned last, with its floating leaves given."""
        given = dict(zip(self.floating, floating, strict=True))
        leaves = [given.get(i, other) for i, other in enumerate(self._others)]
        return pytree.tree_unflatten(leaves, self._spec)


class _Largest(TorchDispatchMode):
    """Finds the numbers of the largest tensor that depends on given weights."""

    def __init__(self, weights: Direction) -> None:
        super().__init__()
        self.numbers, self._moved = 1, WeakTensorKeyDictionary(dict.fromkeys(weights.values(), True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(leaf in self._moved for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._moved[leaf], self.numbers = True, max(self.numbers, leaf.numel())
        return result


def _groups(run: _Run, directions: Sequence[Direction]) -> list[list[int]]:
    """Split directions, by number: all in one group where that is small enough, else by the weights that they move."""
    if len(directions) == 1:
        return [[0]]
    weights = run.weights(directions)
    with _Largest(weights) as largest:
        run(weights)
    room = max(GROUP_NUMBERS // largest.numbers, 1)
    if len(directions) <= room:
        return [list(range(len(directions)))]
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, direction in enumerate(directions):
        alike.setdefault(tuple(sorted(direction)), []).append(i)
    return [same[i : i + room] for same in alike.values() for i in range(0, len(same), room)]


def _derivatives(run: _Run, directions: Sequence[Direction]) -> Derivatives:
    ways: list[Callable[[_Run, Sequence[Direction]], Derivatives]] = [_singly, _by_differences]
    if len(directions) > 1:
        ways.insert(0, _together)
    for way in ways[:-1]:
        try:
            return way(run, directions)
        except Exception:  # whatever it is that torch lacks; an error of the model's own comes again below
            continue
    return ways[-1](run, directions)


def _together(run: _Run, directions: Sequence[Direction]) -> Derivatives:
    weights = run.weights(directions)
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    moved = {name: torch.stack([d.get(name, zeros[name]).to(zeros[name]) for d in directions]) for name in weights}

    def along(direction: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return torch.func.jvp(run, (weights,), (direction,))[:2]

    # vmap takes None for an output that all directions share, which its annotation leaves out
    z, dz = torch.func.vmap(along, out_dims=(None, 0))(moved)  # type: ignore[arg-type]
    return z, list(zip(*dz, strict=True)) if dz else [() for _ in directions]


def _singly(run: _Run, directions: Sequence[Direction]) -> Derivatives:
    z: tuple[Tensor, ...] = ()
    found = []
    for direction in directions:
        weights = run.weights([direction])
        with forward_ad.dual_level():
            moved = {name: forward_ad.make_dual(w, direction[name].to(w)) for name, w in weights.items()}
            both = [forward_ad.unpack_dual(leaf) for leaf in run(moved)]
        z = tuple(one.primal for one in both)
        found.append(tuple(torch.zeros_like(one.primal) if one.tangent is None else one.tangent for one in both))
    return z, found


def _by_differences(run: _Run, directions: Sequence[Direction]) -> Derivatives:
    found = []
    for direction in directions:
        weights = run.weights([direction])
        h = difference_step(weights, direction)
        high, low = (run({name: w + t * direction[name].to(w) for name, w in weights.items()}) for t in (h, -h))
        found.append(tuple((a - b) / (2 * h) for a, b in zip(high, low, strict=True)))
    return run({}), found
