"""Channel numbers: integers that stand for channels, so that a graph can be run on them instead of on values."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """The numbers of a parameter or buffer: one run of integers for each of its dimensions.

    Args:
        name: Name of the tensor in the model's state dict.
        runs: For each dimension, its numbers [size].
    """

    name: str
    runs: tuple[Tensor, ...]

    @property
    def channel_dim(self) -> int:
        """The dimension that holds channels when the tensor is used as a plain operand: the last one longer than 1."""
        longer = [dim for dim, run in enumerate(self.runs) if len(run) > 1]
        return longer[-1] if longer else 0

    def spread(self) -> Tensor:
        """The numbers of `channel_dim` in the tensor's own shape."""
        shape = [len(run) for run in self.runs]
        dim = self.channel_dim
        return self.runs[dim].view([-1 if i == dim else 1 for i in range(len(shape))]).expand(shape)


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
        self._pinned: dict[int, str] = {}

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
        pairs = torch.stack([left.reshape(-1), right.reshape(-1)], 1).unique(dim=0)
        for a, b in pairs.tolist():
            if a and b:
                self._parent[self.root(a)] = self.root(b)
            elif a or b:
                self._pinned.setdefault(a or b, reason)

    def pin(self, numbers: Tensor, reason: str) -> None:
        """Keep every one of these numbers from changing, for `reason`."""
        for number in compact(numbers)[0].unique().tolist():
            if number:
                self._pinned.setdefault(number, reason)

    def reasons(self) -> dict[int, str]:
        """Return why each pinned representative can't change."""
        found: dict[int, str] = {}
        for number, reason in self._pinned.items():
            found.setdefault(self.root(number), reason)
        return found


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


def along(numbers: Tensor, dim: int) -> Tensor | None:
    """Return the numbers along one dimension [size], or None where they also change along another."""
    dim %= numbers.ndim
    for other in range(numbers.ndim):
        if other != dim:
            if not steady(numbers, other):
                return None
            numbers = numbers.narrow(other, 0, 1)
    return numbers.reshape(-1)
