"""Channel numbers: integers that stand for channels, so that a graph can be run on them instead of on values."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """The numbers of a parameter or buffer, or of a view of one: one run of integers for each dimension.

    Args:
        name: Name of the tensor in the model's state dict.
        runs: For each dimension of the view, its numbers [size].
        dims: For each dimension of the view, which dimension of the tensor it is; None for one that came in.
    """

    name: str
    runs: tuple[Tensor, ...]
    dims: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the view."""
        return tuple(len(run) for run in self.runs)

    @property
    def channel_dim(self) -> int:
        """The dimension that holds channels when the tensor is used as a plain operand: the last one longer than 1."""
        longer = [dim for dim, size in enumerate(self.shape) if size > 1]
        return longer[-1] if longer else 0

    def spread(self, dim: int) -> Tensor:
        """The numbers of one dimension in the view's own shape."""
        return spread(self.runs[dim], dim, self.shape)


def spread(run: Tensor, dim: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Return numbers [size] laid along one dimension of a shape, the same everywhere else."""
    return run.view([-1 if i == dim % len(shape) else 1 for i in range(len(shape))]).expand(shape)


class Numbers:
    """Union-find over channel numbers; 0 means "no channel" (inputs, constants).

    Joined numbers must change together; pinned ones can't change, for a reason.

    Examples:
        >>> numbers = Numbers()
        >>> a, b = numbers.new(2), numbers.new(2)
        >>> numbers.join(a, b, "added")
        >>> numbers.root(1) == numbers.root(3), numbers.root(1) == numbers.root(2)
        (True, False)
    """

    def __init__(self) -> None:
        self._parent = [0]
        self._pinned: dict[int, tuple[int, str]] = {}  # by representative: when it was pinned, and why

    def new(self, count: int) -> Tensor:
        """Return `count` fresh numbers [count]."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, number: int) -> int:
        """Return the representative of all numbers joined with this one."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def roots(self, numbers: Tensor) -> Tensor:
        """Return the representative of each number, in the same shape."""
        (small,) = compact(numbers)
        present, which = small.unique(return_inverse=True)
        return torch.tensor([self.root(number) for number in present.tolist()])[which].expand(numbers.shape)

    def join(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Join two tensors of equal shape, place by place; a number that meets none is pinned for `reason`."""
        left, right = compact(left, right)
        many = len(self._parent)
        for pair in (left * many + right).unique().tolist():
            a, b = divmod(pair, many)
            if a and b:
                self._unite(self.root(a), self.root(b))
            elif a or b:
                self._pin(self.root(a or b), reason)

    def tie(self, numbers: Tensor, dim: int) -> Tensor:
        """Join the numbers all along a dimension; return the representatives."""
        self.join(numbers, numbers.narrow(dim, 0, 1).expand(numbers.shape), "it meets an input or a constant")
        return self.roots(numbers)

    def pin(self, numbers: Tensor, reason: str) -> None:
        """Keep every one of these numbers from changing, for `reason`."""
        for number in compact(numbers)[0].unique().tolist():
            if number:
                self._pin(self.root(number), reason)

    def free(self, numbers: Tensor) -> Tensor:
        """Return the representatives of the numbers that can change, 0 for those that can't."""
        roots = self.roots(numbers)
        (small,) = compact(roots)
        fixed = torch.tensor([root for root in small.unique().tolist() if root in self._pinned], dtype=torch.long)
        return small.masked_fill(torch.isin(small, fixed), 0).expand(numbers.shape)

    def reasons(self) -> dict[int, str]:
        """Return why each pinned representative can't change."""
        return {root: reason for root, (_, reason) in self._pinned.items()}

    def _pin(self, root: int, reason: str) -> None:
        self._pinned.setdefault(root, (len(self._pinned), reason))

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        self._parent[a] = b
        if a in self._pinned:
            why = self._pinned.pop(a)
            self._pinned[b] = min(why, self._pinned.get(b, why))


def compact(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Narrow tensors of equal shape to one entry along every dimension where none of them changes (stride 0)."""
    for dim in range(tensors[0].ndim):
        if tensors[0].shape[dim] > 1 and all(t.stride(dim) == 0 for t in tensors):
            tensors = tuple(t.narrow(dim, 0, 1) for t in tensors)
    return tensors


def steady(numbers: Tensor, dim: int) -> bool:
    """Whether the numbers are the same all along a dimension."""
    if numbers.shape[dim] <= 1 or numbers.stride(dim) == 0:
        return True
    (small,) = compact(numbers)
    return bool((small == small.narrow(dim, 0, 1)).all())


def packed(numbers: Tensor) -> Tensor:
    """Return the same numbers with stride 0 along every dimension where they don't change, so that they stay small."""
    shape = numbers.shape
    for dim in range(numbers.ndim):
        if numbers.shape[dim] > 1 and steady(numbers, dim):
            numbers = numbers.narrow(dim, 0, 1)
    return numbers.expand(shape)


def along(numbers: Tensor, dim: int) -> Tensor | None:
    """Return the numbers along one dimension [size], or None where they also change along another."""
    dim %= numbers.ndim
    for other in range(numbers.ndim):
        if other != dim:
            if not steady(numbers, other):
                return None
            numbers = numbers.narrow(other, 0, min(numbers.shape[other], 1))
    return numbers.reshape(-1)
