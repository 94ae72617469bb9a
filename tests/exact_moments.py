"""K-FAC moments whose S is the expectation over draws: each column of a root of the Hessian is drawn in turn."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.grow.moments import take_moments


@dataclass
class Column:
    """An answer that draws one column of each example's H^1/2; H is that of the example's own loss."""

    values: list[Tensor]
    loss_of: Callable
    column: int

    def gradient(self):
        (z,) = self.values
        return [len(z) * torch.func.grad(self.loss_of)(z.detach())]

    def draw(self, _):
        (z,) = self.values
        n, outputs = len(z), z[0].numel()
        H = n * torch.func.hessian(self.loss_of)(z.detach()).reshape(n, outputs, n, outputs)
        values, vectors = torch.linalg.eigh(H[torch.arange(n), :, torch.arange(n)])
        return [(vectors[..., self.column] * values[:, self.column, None].clamp_min(0).sqrt()).view_as(z)]


@dataclass
class OneColumn:
    """An objective whose draws are one of those columns."""

    loss: Callable
    column: int

    def answer(self, model, batch):
        return Column([model(batch.inputs)], lambda z: self.loss(z, batch.target), self.column)


def exact_moments(model, layers, batches, loss, outputs, **options):
    """Take moments once for each of a model's outputs, and sum S."""
    sums = {}
    for column in range(outputs):
        found = take_moments(model, layers, batches, OneColumn(loss, column), torch.Generator(), **options)
        for path, moments in found.items():
            if path in sums:
                sums[path].S += moments.S
            else:
                sums[path] = moments
    return sums
