"""The loaders of a run: the training part as it is trained on, checked on and settled on, each with its own chance."""

from functools import partial

import torch

from outgrow.data import Batches, Dataset, Split
from outgrow.train.recipe import Recipe

CHUNK = 256  # examples at once where nothing is trained


class Loaders:
    """The loaders of a run.

    Args:
        dataset: What to learn.
        recipe: Says how large batches are.
        seed: Seed of every order and of the augmentation.
        device: Where batches are wanted.

    Attributes:
        train: What is trained on: shuffled, augmented where the data ask for it, full batches only.
        plain: What checks read: shuffled, without augmentation.
        full: What settles the statistics of BatchNorm: the same, full batches only.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: str) -> None:
        self._batches = partial(Batches, device=device)
        shuffled = partial(self._batches, dataset.train, shuffle=True)
        generators = [torch.Generator().manual_seed(seed + n) for n in range(3)]
        self.train = shuffled(recipe.batch_size, augment=dataset.augment, drop_last=True, generator=generators[0])
        self.plain = shuffled(CHUNK, generator=generators[1])
        self.full = shuffled(CHUNK, drop_last=True, generator=generators[2])
        self.generators = dict(zip(("train", "plain", "full"), generators, strict=True))

    def in_order(self, split: Split) -> Batches:
        """Return what a part is evaluated on: all of it, as it is."""
        return self._batches(split, CHUNK)
