"""Edits: what a change of a network did, so that optimizer state and averages can follow, and it can be undone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.net.axis import Axis
from outgrow.net.setting import Setting


@dataclass(frozen=True, eq=False)
class Division:
    """Which entries of a tensor are copies of old ones, and how outgoing weights were divided among copies.

        new[i, j, ..] = shares[0][i] shares[1][j] .. old[origins[0][i], origins[1][j], ..]    where all origins >= 0

    Args:
        origins: For each dimension, which old place each new one has its entries of [size]; -1 for those of no old one.
        shares: For each dimension, what its places take of these entries [size]; 1 but for divided ones.
    """

    origins: tuple[Tensor, ...]
    shares: tuple[Tensor, ...]

    def into_(self, new: Tensor, old: Tensor) -> Tensor:
        """Write the copies, and what is left of divided entries, into a tensor of the new shape; return it."""
        where = [(origin >= 0).nonzero().flatten() for origin in self.origins]
        part = old[grid([origin[at] for origin, at in zip(self.origins, where, strict=True)])]
        exact = torch.promote_types(part.dtype, torch.float32)
        for factor in grid([share[at] for share, at in zip(self.shares, where, strict=True)]):
            if bool((factor != 1.0).any()):
                part = part * factor.to(part.device, exact)
        new[grid(where)] = part.to(new)
        return new


@dataclass(frozen=True, eq=False)
class Change:
    """How one tensor became another.

    Args:
        name: Its name in the state dict.
        old: The tensor before.
        new: The tensor after.
        keep: For each dimension, where the old entries that stayed are now [kept].
        kept: For each dimension, where they were before [kept]; empty where all of them stayed.
        scale: What the entries that stayed were multiplied with: 1 but for the gains of RMS norms.
        division: Which new entries are copies, and how those that stayed were divided among them; None without copies.
    """

    name: str
    old: Tensor
    new: Tensor
    keep: tuple[Tensor, ...]
    kept: tuple[Tensor, ...] = ()
    scale: float = 1.0
    division: Division | None = None

    def carry(self, tensor: Tensor, fill: Tensor | float = 0.0) -> Tensor:
        """Bring a tensor of the old shape, such as a moment, to the new one; new entries are `fill`."""
        if tensor.is_sparse:
            return self.carry(tensor.to_dense(), fill).to_sparse(tensor.sparse_dim())
        carried = torch.empty(self.new.shape, dtype=tensor.dtype, device=tensor.device)
        carried.copy_(fill if isinstance(fill, Tensor) else torch.full_like(carried, fill))
        carried[grid(self.keep)] = tensor[grid(self.kept)] if self.kept else tensor
        return carried

    def repeat(self, tensor: Tensor, fill: Tensor | float = 0.0) -> Tensor:
        """Do to other values of the tensor, such as an average, what was done to it: scale, divide and copy them."""
        scaled = tensor * self.scale if self.scale != 1.0 else tensor
        carried = self.carry(scaled, fill)
        return self.division.into_(carried, scaled) if self.division else carried


@dataclass(frozen=True, eq=False)
class Insertion:
    """New modules behind a child of a container, or in place of a child that has become a chain.

    Args:
        parent: Path of the module that holds them.
        child: Name of the child that they come behind. Where the parent is an `nn.Sequential` or `nn.ModuleList` the
            later children move up; elsewhere the child becomes `nn.Sequential(child, *modules)`.
        modules: What is new, in order.
        like: For each new parameter, by its path within `modules` ("0.weight"), the name in the model before the edit
            of the parameter whose options of the optimizer (its group) it shares.
    """

    parent: str
    child: str
    modules: tuple[nn.Module, ...]
    like: dict[str, str] = field(default_factory=dict)


@dataclass
class Edit:
    """An applied edit; `undo()` takes it back.

    Args:
        what: What was asked for, in words.
        changes: Every tensor that became another one.
        axes: All axes of the model as it is now; empty where the edit changed the graph, so that they have to be found
            anew.
        insertions: Every place where modules came in.
        settings: Every attribute that was set beside the tensors, with its new value.
        moved: Largest change of an output, relative to the output's scale, in train and in eval mode; None where it
            was not checked.
        model: The model whose tensors changed.
    """

    what: str
    changes: tuple[Change, ...] = ()
    axes: list[Axis] = field(default_factory=list)
    insertions: tuple[Insertion, ...] = ()
    settings: tuple[Setting, ...] = ()
    moved: float | None = None
    model: nn.Module | None = field(default=None, repr=False)
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _intact: list[Callable[[], bool]] = field(default_factory=list, repr=False)

    @property
    def moved_by(self) -> float:
        """What `moved` says; 0 where it was not checked."""
        return self.moved or 0.0

    def on_undo(self, action: Callable[[], None]) -> None:
        """Add what has to be put back too, such as an optimizer's state."""
        self._undo.append(action)

    def undo_while(self, intact: Callable[[], bool]) -> None:
        """Add what has to be so still for the edit to be taken back: whether no later one has touched the same."""
        self._intact.append(intact)

    def undo(self) -> None:
        """Put what was edited back as it was before, the very same tensors, with their state of the optimizer.

        What else has been trained since stays as it is, so undo an edit before the next step, or train on.

        Raises:
            GrowthError: A later edit has changed the same tensors or modules; nothing is undone.
        """
        if self._undo and self.model is not None:
            present = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
            if any(present.get(change.name) is not change.new for change in self.changes):
                raise GrowthError(f"{self.what}: a later edit has changed the same tensors; undo that one first")
        if self._undo and not all(intact() for intact in self._intact):
            raise GrowthError(f"{self.what}: a later edit has changed the same modules; undo that one first")
        while self._undo:
            self._undo.pop()()


def grid(indices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Indices that pick the outer product of one list of positions for each dimension."""
    return tuple(index.view([-1 if i == dim else 1 for i in range(len(indices))]) for dim, index in enumerate(indices))
