"""The sums that K-FAC factors are made of, for one layer and one batch.

What they mean, and the two conventions, is written in `outgrow.grow.moments`. Sums are taken in place; a row is formed
only while it is summed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.patches import (
    groups_of,
    picked_reads,
    picked_writes,
    position_count,
    stratified,
    summed_reads,
    summed_writes,
)

BLOCK = 2**22  # entries of the rows that are formed at once
SUMMED = 512  # rows of one product on a CPU: some kernels add one after the other, in single precision

Pick = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class Expand:
    """Sums over sampled rows: A of a a^T, S of u u^T over the positions of an example.

    Args:
        module: The layer.
        A: Where sums of a a^T go [groups, features, features], or [features, features].
        S: Where sums of u u^T go, likewise, or those of its diagonal [groups, outputs], or [outputs].
        bias: Whether the constant 1 is appended to a.
        size: Examples of the batch.
        total: Examples of all batches, which the means are over.
        positions: Rows to sum for each example and call.
        generator: Draws the rows.
        rows: How many rows of what was read have been summed.
    """

    module: nn.Module
    A: Tensor
    S: Tensor
    bias: bool
    size: int
    total: int
    positions: int
    generator: torch.Generator
    rows: int = 0
    _written: int = 0

    def read(self, x: Tensor, y: Tensor) -> None:
        """Add what one call reads, x, to A; y is what it writes."""
        count = position_count(self.module, y)
        self.rows += self._sum(picked_reads, x, count, self.A, 1 / self.total, self.bias)
        self._written += len(y) * count

    def finish(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients u of all calls to S, once all have been read."""
        for u in gradients:
            if u is not None:
                share = self.size / self._written / self.total
                self._sum(picked_writes, u, position_count(self.module, u), self.S, share, False)

    def _sum(self, pick: Pick, x: Tensor, count: int, into: Tensor, weight: float, bias: bool) -> int:
        """Add weight times the sum over all rows of x, `count` an entry, estimated from some; return how many."""
        groups = groups_of(self.module)
        share = min(self.positions * self.size / (len(x) * count), 1.0)
        step = max(int(BLOCK / (share * count * groups * into.shape[-1])), 1)
        rows = 0
        for part in x.split(step):
            every = len(part) * count
            where = stratified(every, max(round(share * every), 1), self.generator).to(x.device)
            add_square_(into, pick(self.module, part, where), groups, bias, weight * every / len(where))
            rows += len(where)
        return rows


@dataclass
class Reduce:
    """Sums over examples: A of (mean a)(mean a)^T, S of (sum u)(sum u)^T, over all positions.

    Args:
        module: The layer.
        A: Where sums of a a^T go [groups, features, features], or [features, features].
        S: Where sums of u u^T go, likewise, or those of its diagonal [groups, outputs], or [outputs].
        bias: Whether the constant 1 is appended to a.
        size: Examples of the batch.
        total: Examples of all batches, which the means are over.
        rows: How many rows of what was read have been summed.
    """

    module: nn.Module
    A: Tensor
    S: Tensor
    bias: bool
    size: int
    total: int
    rows: int = 0
    _positions: float = 0.0
    _read: list[Tensor] = field(default_factory=list)

    def read(self, x: Tensor, y: Tensor) -> None:
        """Add what one call reads, x; y is what it writes.

        Raises:
            InputError: The rows can't be told apart by example.
        """
        if len(y) % self.size:
            raise InputError(
                f"'reduce' sums over the positions of an example: expected a {type(self.module).__name__} to read a "
                f"multiple of {self.size} examples, received {len(y)} rows: use convention='expand'"
            )
        self._positions += len(y) * position_count(self.module, y) / self.size
        self._read = [*self._read, self._by_example(summed_reads(self.module, x))]

    def finish(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients u of all calls to S, and to A what they read."""
        groups, weight = groups_of(self.module), 1 / self.total
        add_square_(self.A, _sum(self._read) / self._positions, groups, self.bias, weight)
        self.rows += self.size
        sums = [self._by_example(summed_writes(self.module, u)) for u in gradients if u is not None]
        if sums:
            add_square_(self.S, _sum(sums), groups, False, weight)

    def _by_example(self, sums: Tensor) -> Tensor:
        return sums.reshape(self.size, -1, sums.shape[-1]).sum(1)


def add_square_(total: Tensor, rows: Tensor, groups: int, bias: bool, weight: float) -> None:
    """Add weight * rows^T rows of each group to a sum, multiplied in float32 at least.

    Args:
        total: The sum [groups, size, size], or [size, size]; or its diagonal [groups, size], or [size].
        rows: What to add [rows, groups * size], without the constant.
        groups: How many groups the entries of a row are in.
        bias: Whether to append the constant 1 to each group.
        weight: What the product is multiplied with.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if groups > 1:
        rows = rows.unflatten(1, (groups, -1)).transpose(0, 1)
    if bias:
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)
    with torch.no_grad(), torch.autocast(total.device.type, enabled=False):
        if total.ndim < rows.ndim:
            total.add_(rows.square().sum(-2), alpha=weight)
            return
        for some in rows.split(SUMMED if rows.device.type == "cpu" else rows.shape[-2] or 1, -2):
            if total.dtype != some.dtype:
                total.add_(some.mT @ some, alpha=weight)
            elif total.ndim == 3:
                total.baddbmm_(some.mT, some, alpha=weight)
            else:
                total.addmm_(some.mT, some, alpha=weight)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)
