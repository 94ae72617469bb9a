"""The batches of one part, epoch after epoch, and a way back to a place within one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from outgrow.data.augment import augment as augmented
from outgrow.data.dataset import Split
from outgrow.errors import InputError

PIXELS_A_SHIFT = 8  # crops shift by up to 1/8 of the image: 4 pixels of 32


class Batches:
    """Batches of a part, as often as one likes: each `iter` is one epoch.

    The part stays in memory (on `device`) as it is, images as uint8; a batch is one gather, an optional augmentation
    and a conversion to float32, images scaled to 0..1.

    Where examples have weights, an epoch has as many examples as the part, each one as often as its weight asks for: n
    w / sum(w) times, rounded up or down by chance (systematic sampling), or as one half says where nothing is shuffled.

    Args:
        split: The part.
        batch_size: Examples in a batch; the whole part if that is smaller.
        shuffle: Whether each epoch has a new order.
        augment: Whether images are randomly shifted and mirrored.
        drop_last: Whether to leave out a last batch that is smaller; batch norm can't take a batch of 1.
        generator: Source of the order and the augmentation, torch's global one if None; equal states, equal epochs
            bit for bit.
        device: Where batches are wanted.

    Example:
        >>> split = Split(torch.arange(10.0)[:, None], torch.arange(10))
        >>> batches = Batches(split, 4)
        >>> len(batches), [y.tolist() for x, y in batches]
        (3, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: expected at least 1")
        if augment and split.x.ndim != 4:
            raise InputError(f"augmentation is for images; this is a table of {split.x.shape[-1]} features")
        self.x, self.y, self.weight = split.x.to(device), split.y.to(device), split.weight
        self.batch_size = max(1, min(batch_size, len(split)))
        self.shuffle = shuffle
        self.augment = augment
        self.drop_last = drop_last
        self.generator = generator

    def __len__(self) -> int:
        return len(self.x) // self.batch_size if self.drop_last else -(-len(self.x) // self.batch_size)

    def __iter__(self) -> "Epoch":
        return Epoch(self)

    def resumed(self, bookmark: "Bookmark") -> "Epoch":
        """Return the rest of an epoch behind a bookmark; the source of chance is set to what it was there."""
        return Epoch(self, bookmark)

    @property
    def chance(self) -> torch.Tensor:
        """State of the source of the order and the augmentation, uint8."""
        return torch.get_rng_state() if self.generator is None else self.generator.get_state()

    @chance.setter
    def chance(self, state: torch.Tensor) -> None:
        if self.generator is None:
            torch.set_rng_state(state)
        else:
            self.generator.set_state(state)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs, float32 `[b, ...]`, and targets of some examples, int64 `[b]`."""
        return self._inputs(self.x[index]), self.y[index]

    def order(self) -> torch.Tensor:
        """Draw the examples of one epoch, int64 `[n]`."""
        if not self.shuffle:
            return torch.arange(len(self.x)) if self.weight is None else drawn(self.weight, 0.5)
        device = self.generator.device if self.generator is not None else "cpu"
        if self.weight is None:
            return torch.randperm(len(self.x), generator=self.generator, device=device)
        chosen = drawn(self.weight, float(torch.rand((), generator=self.generator, dtype=torch.float64, device=device)))
        return chosen[torch.randperm(len(self.x), generator=self.generator, device=device).to(chosen.device)]

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        """What the network sees of stored examples, float32 `[b, ...]`."""
        if self.augment:
            x = augmented(x, min(x.shape[-2:]) // PIXELS_A_SHIFT, self.generator)
        return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def drawn(weight: torch.Tensor, start: float) -> torch.Tensor:
    """Draw as many examples as there are, each one n w / sum(w) times, rounded up or down (systematic sampling).

    Args:
        weight: Weights above zero, `[n]`.
        start: From 0 to below 1; if it is uniform, the expected counts are exact.

    Returns:
        Examples, int64 `[n]`, ascending.

    Example:
        >>> drawn(torch.tensor([1.0, 1.0, 2.0, 4.0]), 0.5).tolist()
        [0, 2, 3, 3]
    """
    count = len(weight)
    ends = weight.double().cumsum(0)
    ends = (ends * (count / ends[-1]) + start + 1e-9).floor().long().clamp_(max=count)
    ends[-1] = count
    times = ends.diff(prepend=ends.new_zeros(1))
    return torch.arange(count).to(times.device).repeat_interleave(times)


@dataclass(frozen=True, eq=False)
class Bookmark:
    """A place within an epoch, behind which the same batches follow.

    Attributes:
        used: Batches before it.
        began: State of the source of chance before the epoch's order was drawn, uint8.
        now: Its state at the place, uint8.
    """

    used: int
    began: torch.Tensor
    now: torch.Tensor


class Epoch(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """One pass over a part.

    Args:
        batches: Of which part, and how.
        bookmark: Where to begin; at the first batch of a new order if None.

    Example:
        >>> split = Split(torch.arange(10.0)[:, None], torch.arange(10))
        >>> batches = Batches(split, 4, shuffle=True, generator=torch.Generator().manual_seed(0))
        >>> epoch = iter(batches)
        >>> _, place = next(epoch), epoch.bookmark()
        >>> rest = [y.tolist() for x, y in epoch]
        >>> rest == [y.tolist() for x, y in batches.resumed(place)]
        True
    """

    def __init__(self, batches: Batches, bookmark: Bookmark | None = None) -> None:
        if bookmark is not None:
            batches.chance = bookmark.began
        self._batches, self._began = batches, batches.chance
        self._order = batches.order().to(batches.x.device)
        self._used = 0
        if bookmark is not None:
            batches.chance, self._used = bookmark.now, bookmark.used

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._used == len(self._batches):
            raise StopIteration
        start = self._used * self._batches.batch_size
        self._used += 1
        return self._batches.batch(self._order[start : start + self._batches.batch_size])

    def bookmark(self) -> Bookmark:
        """Return the place behind the last batch that was taken."""
        return Bookmark(self._used, self._began, self._batches.chance)
