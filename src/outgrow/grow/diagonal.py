"""The score of self-expanding convolutional networks (SECNN): natural gradients under a diagonal empirical Fisher.

With g_t the gradient of example t's loss and g their mean over examples (Appolinary, Deaconu, Yang, Li,
arXiv 2401.05686),

    F_ii = E_t[ g_ti^2 ],    eta = sum_i g_i^2 / F_ii,    discounted: eta * exp(-rate * added^2)

By Cauchy-Schwarz each term lies between 0 and 1: it is the share of a weight's gradient on which the examples agree.

What the diagonal loses is redundancy: each weight is scored as if it were alone. A copy of a good neuron scores what
the neuron does, so copies raise eta without limit although they can do nothing that one of them can't; under the full
Fisher matrix they would count once. Nor is the score judged on fresh data: with no signal at all, n examples give each
weight about 1/n.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.curvature import Outputs
from outgrow.grow.derivative import plain_attention
from outgrow.grow.objective import Objective, pulled_back
from outgrow.grow.precision import full_precision, upcast
from outgrow.grow.sample import Batch
from outgrow.net.inputs import call_arguments
from outgrow.net.preserve import frozen_state

EPS = 1e-16  # [loss^2 / weight^2] added to F_ii: gradients below Adam's eps, 1e-8, count as none, as rounding is there
CHUNK_ENTRIES = 2**22  # of gradients of single examples, at once: what fits caches
COUPLING = 0.03  # of the gradient's scale: how far those of single examples may miss it, by rounding in half precision
DIAGONAL_PASSES = 6  # over part A, in forward passes: gradients of the batches, and of single examples

_INSTEAD = "give step(model, batch) in place of the loss: batches then stand for examples"

Rows = Sequence[Tensor]  # for each parameter, gradients [terms, ...]


def discounted(score: float, added: int, rate: float = 1e-7) -> float:
    """Return SECNN's score of an expansion: discounted for its size, score * exp(-rate * added^2).

    Args:
        score: Score of the expanded network.
        added: Parameters that the expansion adds.
        rate: SECNN's lambda_n; 1e-7 as published (arXiv 2401.05686): 1,000 parameters cost 10 %, 10,000 nearly all.

    Returns:
        The discounted score.

    Examples:
        >>> [round(discounted(1.0, added), 3) for added in (0, 1000, 10_000)]
        [1.0, 0.905, 0.0]
    """
    return score * math.exp(-rate * added**2)


@full_precision()
@torch.enable_grad()
def diagonal_score(
    model: nn.Module, names: Iterable[str], batches: Sequence[Batch], objective: Objective
) -> dict[str, Tensor]:
    """Return the terms g_i^2 / F_ii of parameters: their sum over new columns, or over all, is SECNN's eta of those.

    Where an objective does not tell examples apart (`outgrow.grow.step.StepLoss`), batches stand for them: a batch of m
    examples has the mean of m gradients, and so an m-th of their variance. With T batches of m_t examples, N in all,

        F = g^2 + sum_t m_t (g_t - g)^2 / T,    g = sum_t m_t g_t / N

    which is the mean of squares where every m_t is 1; rough with few batches, and too low by the factor 1 - 1/T in its
    variance.

    Args:
        model: Run in eval mode, so that norms don't couple examples, and left as it was.
        names: Parameters; a tied one has the same terms under each of its names.
        batches: The examples.
        objective: What the model is trained for.

    Returns:
        The terms by name [as the parameter], in float64, each in [0, 1]; of frozen parameters there are none.

    Raises:
        InputError: There are fewer than two examples (batches, of a step), or examples of the model can't be separated.

    Examples:
        >>> from outgrow.grow.objective import OutputLoss
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> x, y = torch.ones(4, 1), torch.tensor([[1.0], [1.0], [0.0], [0.0]])  # gradients -2, -2, 0, 0
        >>> diagonal_score(model, ["weight"], [Batch(x, y, 4)], OutputLoss(nn.functional.mse_loss))
        {'weight': tensor([[0.5000]], dtype=torch.float64)}
    """
    asked = {name: model.get_parameter(name) for name in names}
    asked = {name: parameter for name, parameter in asked.items() if parameter.requires_grad}
    if not asked:
        return {}
    names_by_id = {id(parameter): name for name, parameter in asked.items()}
    weights = {name: asked[name] for name in names_by_id.values()}
    with frozen_state(model), plain_attention():
        model.eval()
        sums = [_sums_of(model, weights, batch, objective) for batch in batches]
    count = sum(one.count for one in sums)
    if count < 2:
        raise InputError(
            f"expected two examples at least, or two batches of a step, received {count}: a diagonal Fisher matrix "
            "compares their gradients"
        )
    scores = dict(zip(weights, reduce(add, sums).terms(), strict=True))
    return {name: scores[names_by_id[id(parameter)]] for name, parameter in asked.items()}


@dataclass(frozen=True)
class _Sums:
    """Sums over terms, for each parameter, in float64; a term is the mean gradient of some examples.

    Args:
        gradient: Of gradients, by examples.
        square: Of their squares, by examples.
        count: Terms.
        examples: Examples in them.
    """

    gradient: list[Tensor]
    square: list[Tensor]
    count: int
    examples: int

    @classmethod
    def of(cls, rows: Rows, examples: int) -> "_Sums":
        """Return the sums of terms of so many examples each."""
        rows = upcast(list(rows))
        gradient = [examples * row.sum(0).double() for row in rows]
        square = [examples * row.square().sum(0).double() for row in rows]
        return cls(gradient, square, len(rows[0]), examples * len(rows[0]))

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            [a + b for a, b in zip(self.gradient, other.gradient, strict=True)],
            [a + b for a, b in zip(self.square, other.square, strict=True)],
            self.count + other.count,
            self.examples + other.examples,
        )

    def terms(self) -> list[Tensor]:
        """Return g^2 / F."""
        return [self._term(gradient, square) for gradient, square in zip(self.gradient, self.square, strict=True)]

    def _term(self, gradient: Tensor, square: Tensor) -> Tensor:
        aligned = (gradient / self.examples).square()
        fisher = square / self.count + aligned * (1 - self.examples / self.count)
        return aligned / (torch.maximum(fisher, aligned) + EPS)  # rounding aside, F is the larger one


def _sums_of(model: nn.Module, weights: Mapping[str, Tensor], batch: Batch, objective: Objective) -> _Sums:
    """Sum over the examples of a batch, or take it as one term where the objective does not tell them apart."""
    answer = objective.answer(model, batch)
    found = pulled_back(answer, [*weights.values()], answer.gradient())
    whole = [torch.zeros_like(w) if grad is None else grad for w, grad in zip(weights.values(), found, strict=True)]
    if not isinstance(answer, Outputs):
        return _Sums.of([grad[None] / batch.size for grad in whole], batch.size)
    sums = reduce(add, (_Sums.of(rows, 1) for rows in _Singles(model, batch, answer).gradients(weights)))
    gap = _norm([a - b for a, b in zip(sums.gradient, whole, strict=True)])
    if gap > COUPLING * (_norm(whole) + math.sqrt(sum(float(square.sum()) for square in sums.square))):
        raise InputError(
            f"{type(model).__name__}: expected examples that don't depend on each other in eval mode, received others, "
            f"as from a batch norm without running statistics; {_INSTEAD}"
        )
    return sums


class _Singles:
    """A model on single examples of a batch.

    Args:
        model: Run as it is.
        batch: The examples.
        answer: What the model answered, and the loss makes of it.
    """

    def __init__(self, model: nn.Module, batch: Batch, answer: Outputs) -> None:
        self._model, self._size, self._read = model, batch.size, answer.read
        self._leaves, self._spec = pytree.tree_flatten(batch.inputs)
        leaves = enumerate(self._leaves)
        self._own = [i for i, x in leaves if isinstance(x, Tensor) and x.ndim and len(x) == batch.size]
        self._seeds = [u.reshape(batch.size, len(u) // batch.size, *u.shape[1:]) for u in answer.gradient()]

    def gradients(self, weights: Mapping[str, Tensor]) -> Iterator[Rows]:
        """Yield gradients of examples, some at a time: together by vmap, one by one where the model does not allow."""
        chunk = max(CHUNK_ENTRIES // sum(w.numel() for w in weights.values()), 1)
        for start in range(0, self._size, chunk):
            inputs = [self._leaves[i][start : start + chunk] for i in self._own]
            seeds = [u[start : start + chunk] for u in self._seeds]
            try:
                rows = self._together(weights, inputs, seeds)
            except Exception:  # whatever it is that torch lacks; an error of the model's own comes again below
                rows = self._singly(weights, inputs, seeds)
            yield rows

    def _together(self, weights: Mapping[str, Tensor], inputs: list[Tensor], seeds: list[Tensor]) -> Rows:
        values = {name: w.detach() for name, w in weights.items()}
        with torch.no_grad():  # about the weights that are not asked for; within grad they count as constants
            found = torch.func.vmap(torch.func.grad(self._along), in_dims=(None, 0, 0))(values, inputs, seeds)
        return [found[name] for name in weights]

    def _singly(self, weights: Mapping[str, Tensor], inputs: list[Tensor], seeds: list[Tensor]) -> Rows:
        found = []
        for e in range(len(seeds[0])):
            try:
                value = self._along(weights, [x[e] for x in inputs], [u[e] for u in seeds])
            except Exception as error:
                raise InputError(
                    f"{type(self._model).__name__} does not run on a single example: {error}; {_INSTEAD}"
                ) from error
            found.append(torch.autograd.grad(value, [*weights.values()], allow_unused=True, materialize_grads=True))
        return [torch.stack(rows) for rows in zip(*found, strict=True)]

    def _along(self, weights: Mapping[str, Tensor], inputs: Sequence[Tensor], seeds: Sequence[Tensor]) -> Tensor:
        """The outputs of one example times the loss's gradient there: its derivative is that of the example's loss."""
        leaves = list(self._leaves)
        for i, x in zip(self._own, inputs, strict=True):
            leaves[i] = x[None]
        args, kwargs = call_arguments(pytree.tree_unflatten(leaves, self._spec))
        result = pytree.tree_leaves(upcast(torch.func.functional_call(self._model, dict(weights), args, kwargs)))
        return torch.stack([(result[i] * u).sum() for i, u in zip(self._read, seeds, strict=True)]).sum()


def _norm(tensors: Iterable[Tensor]) -> float:
    """The length of all the tensors' entries together."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
