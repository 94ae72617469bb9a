"""The loss on some examples, as a whole and in groups, for differences with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from outgrow.grow.objective import Objective, OutputLoss
from outgrow.grow.precision import full_precision, upcast
from outgrow.grow.sample import Batch, examples_in
from outgrow.net.inputs import call

TERMS = 256  # groups of examples whose differences make a standard error, which is then right to 4 %


@dataclass(frozen=True)
class Losses:
    """The loss on some examples.

    Args:
        mean: Over all of them [nats].
        terms: Over each of some groups of nearly the same size [terms].
    """

    mean: float
    terms: Tensor

    def drop_to(self, after: "Losses") -> tuple[float, float]:
        """Return how much less another loss on the same examples is, and its standard error from paired differences."""
        pairs = self.terms - after.terms
        pairs = pairs[pairs.isfinite()]  # a group may have no target that counts
        error = float(pairs.std()) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
        return self.mean - after.mean, error


def losses(model: nn.Module, batches: Sequence[Batch], objective: Objective) -> Losses:
    """Return the loss on batches, as a whole and in groups of examples; of a user's own step each batch is a group.

    Args:
        model: Run as it is.
        batches: The examples.
        objective: What the model is trained for.
    """
    total, mean, terms = examples_in(batches), 0.0, list[float]()
    for batch in batches:
        groups = max(min(round(TERMS * batch.size / total), batch.size), 1)
        one, parts = _measured(model, batch, objective, groups)
        mean, terms = mean + one * batch.size / total, terms + parts
    return Losses(mean, torch.tensor(terms, dtype=torch.float64))


@torch.no_grad()
@full_precision()
def _measured(model: nn.Module, batch: Batch, objective: Objective, groups: int) -> tuple[float, list[float]]:
    """The mean loss of a batch, and of groups of its examples."""
    if not isinstance(objective, OutputLoss):
        mean = objective.mean(model, batch, {})
        return mean, [mean]
    whole = upcast((call(model, batch.inputs), batch.target))
    stops = [batch.size * i // groups for i in range(groups + 1)]
    parts = [_examples(whole, batch.size, i, j) for i, j in pairwise(stops)]
    return float(objective.of(batch)(*whole)), [float(objective.loss(*part)) for part in parts]


def _examples(tree: Any, size: int, start: int, stop: int) -> Any:
    """Some examples of a nest of tensors, which may have several rows for each."""

    def taken(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.ndim) or len(leaf) % size:
            return leaf
        rows = len(leaf) // size
        return leaf[start * rows : stop * rows]

    return pytree.tree_map(taken, tree)
