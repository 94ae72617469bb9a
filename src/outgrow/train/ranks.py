"""Ranks: the processes that train one model together, and how a check is the same on all of them.

The first rank decides. Every rank reads its own share of the examples of a check; they are put together, so that all
compute the same check, that of one process which reads them all. Before a check the ranks must have the same weights,
and after a growth they have those of the first rank, to the last bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.event import Candidate
from outgrow.grow.policy import Decision, Plan, Policy, Present, Situation

Value = TypeVar("Value")

_ENDED = "a rank has no more batches"


class Ranks:
    """The processes of torch.distributed's default group, or this one alone where there is no group."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.count, self.own = (dist.get_world_size(), dist.get_rank()) if together else (1, 0)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that decides, and writes."""
        return self.own == 0

    def agreed(self, value: Value) -> Value:
        """Return what the first rank has, on all of them."""
        if self.count == 1:
            return value
        found: list[Any] = [value]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def gathered(self, value: Value) -> list[Value]:
        """Return what every rank has, in order, on all of them."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def share(self, batch: Tensor) -> Tensor:
        """Return this rank's examples of a batch that all ranks have [examples, ...]: every `count`-th."""
        return batch if self.count == 1 else batch[self.own :: self.count]

    def mean(self, value: float) -> float:
        """Return the mean over the ranks."""
        return sum(self.gathered(value)) / self.count

    def together(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return a loader of the batches of all ranks, for as long as each of them has one.

        Batches of tensors become one, whose examples come from the ranks in turn: the order of a
        `DistributedSampler`'s data set. Others follow one another.
        """
        return loader if self.count == 1 else self._together(loader)

    def shares(self, loader: Iterable[tuple[Tensor, Tensor]]) -> Iterable[tuple[Tensor, Tensor]]:
        """Return a loader of this rank's examples of batches that all ranks have; `together` puts them together."""
        return loader if self.count == 1 else ((self.share(x), self.share(y)) for x, y in loader)

    def level_(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have on the first rank, in place.

        Raises:
            InputError: A rank has others than the first one, or of other shapes: an edit has not been made on both.
        """
        if self.count == 1:
            return
        tensors = [*tensors]
        shapes = self.gathered([tuple(tensor.shape) for tensor in tensors])
        for rank, other in enumerate(shapes):
            if other != shapes[0]:
                raise InputError(
                    f"rank {rank} has other shapes than rank 0: an edit was made on one of them and not on the other, "
                    "as where it could not be verified on one device; go on from the last checkpoint, on equal devices"
                )
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def demand_same(self, model: nn.Module) -> None:
        """Check that all ranks have the same model before a check.

        Args:
            model: Its parameters are compared: names, shapes and every bit.

        Raises:
            InputError: They have not.
        """
        if self.count == 1:
            return
        found = self.gathered({name: (tuple(p.shape), _digest(p)) for name, p in model.named_parameters()})
        for rank, other in enumerate(found):
            names = [name for name in {**found[0], **other} if found[0].get(name) != other.get(name)]
            if names:
                raise InputError(
                    f"before a check, rank {rank} has other weights than rank 0 ({', '.join(names[:3])}"
                    f"{' and others' if len(names) > 3 else ''}): wrap the model anew after each growth, "
                    "`ddp = DistributedDataParallel(model)`, and train through that on every rank"
                )

    def _together(self, loader: Iterable[Any]) -> Iterator[Any]:
        items = iter(loader)
        while True:
            found = self.gathered(_on_cpu(next(items, _ENDED)))
            if any(isinstance(one, str) and one == _ENDED for one in found):
                return
            yield from _in_turn(found)


class Agreed:
    """A policy whose decisions are those of the first rank.

    Args:
        policy: What decides there.
        ranks: The processes.
    """

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self._policy, self._ranks = policy, ranks

    def propose(self, now: Situation) -> Plan | None:
        """Return the plan of the first rank."""
        return self._ranks.agreed(self._policy.propose(now))

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the decision of the first rank."""
        return self._ranks.agreed(self._policy.decide(now, candidates, present))


def _digest(tensor: Tensor) -> bytes:
    return blake2b(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()).digest()


def _on_cpu(item: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.to("cpu") if hasattr(leaf, "to") else leaf, item)


def _in_turn(items: Sequence[Any]) -> list[Any]:
    """One batch whose examples come from each in turn where all are alike nests of tensors, else all batches."""
    leaves, specs = zip(*(pytree.tree_flatten(item) for item in items), strict=True)
    if any(spec != specs[0] for spec in specs) or not all(map(_alike, zip(*leaves, strict=True))):
        return list(items)
    return [pytree.tree_unflatten([_mixed(others) for others in zip(*leaves, strict=True)], specs[0])]


def _alike(leaves: Sequence[Any]) -> bool:
    """Whether all are tensors of examples of one form."""
    kinds = {(leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) and leaf.ndim else id(leaves) for leaf in leaves}
    return kinds.isdisjoint({id(leaves)}) and len(kinds) == 1


def _mixed(tensors: Sequence[Tensor]) -> Tensor:
    """The examples of each in turn, and what is left of those that have more."""
    least = min(map(len, tensors))
    return torch.cat([torch.stack([t[:least] for t in tensors], 1).flatten(0, 1), *(t[least:] for t in tensors)])
