"""What policies are compared on: data, seed network, recipe, budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch

from outgrow.data import Dataset, Split, load
from outgrow.models import Seed
from outgrow.train.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """A seed network on some data, trained for a fixed time.

    Args:
        source: A name, or a path in the data folder, written DIR/PATH.
        model: Kind of the seed network.
        epochs: Passes over the training part.
        batch_size: Examples a step.
        max_params: Budget; None to let the network find its size.
        widths: Of the seed; empty for the smallest sensible ones.
        examples: So many of the training part, and as large a share of the validation part; None for all.
        target: Column of a table to predict.
    """

    source: str
    model: str
    epochs: int
    batch_size: int
    max_params: int | None = None
    widths: tuple[int, ...] = ()
    examples: int | None = None
    target: str | None = None

    @property
    def recipe(self) -> Recipe:
        """How the network is trained."""
        return Recipe(epochs=self.epochs, batch_size=self.batch_size)

    def load(self, folder: str) -> Dataset:
        """Return the data, the same examples in every run."""
        data = self.load_whole(folder)
        return data if self.examples is None else fewer(data, self.examples)

    def load_whole(self, folder: str) -> Dataset:
        """Return all of the data."""
        return load(self.source.replace("DIR", folder), target=self.target)

    def network(self, data: Dataset) -> Seed:
        """Return the seed network."""
        mean, std = data.input_statistics()
        return Seed(self.model, data.inputs, data.outputs, self.widths, tuple(mean.tolist()), tuple(std.tolist()))

    def setup(self) -> dict:
        """Return what makes two runs comparable, as JSON."""
        return {**asdict(self), "widths": list(self.widths), "share": self.recipe.share}


def fewer(data: Dataset, examples: int) -> Dataset:
    """Return data with so many training examples and a validation part in proportion; the test part is whole."""
    generator = torch.Generator().manual_seed(0)
    share = examples / len(data.train)
    held = max(round(share * len(data.validation)), 1)
    train, validation = (drawn(data.train, examples, generator), drawn(data.validation, held, generator))
    return replace(data, train=train, validation=validation)


def drawn(split: Split, examples: int, generator: torch.Generator) -> Split:
    """Return so many examples of a part, at random."""
    chosen = torch.randperm(len(split), generator=generator)[:examples]
    return Split(split.x[chosen], split.y[chosen])


def of_steps(steps: int, task: Task) -> Task:
    """Return a task with as many epochs as come nearest to so many optimiser steps."""
    assert task.examples is not None
    return replace(task, epochs=max(round(steps / (task.examples // task.batch_size)), 1))


FASHION = "DIR/FashionMNIST"
CIFAR = "DIR/cifar-10-batches-bin"
ADULT = "DIR/tabular/adult_train.csv"

TASKS: Mapping[str, Task] = {
    "digits": Task("digits", "convnet", 50, 32, 20_000),
    "mnist": Task("DIR/MNIST", "mlp", 8, 128, 20_000, (4, 4)),
    "adult": Task(ADULT, "mlp", 10, 128, 5_000, (2, 2), target="target"),
    "fashion-convnet": Task(FASHION, "convnet", 10, 32, 30_000, examples=4_000),
    "fashion-resnet": Task(FASHION, "resnet", 10, 32, 30_000, examples=4_000),
    "fashion-mlp": Task(FASHION, "mlp", 12, 128, 20_000, (6, 6, 6)),
    "cifar10": Task(CIFAR, "resnet", 10, 32, 60_000, examples=4_000),
}
"""With a budget: which policy makes most of it."""

STEPS = 4_000  # of every run below
WHOLE = {"digits": 1_294, "DIR/MNIST": 54_000, FASHION: 54_000, CIFAR: 45_000, ADULT: 29_305}
"""Examples of the training parts: nine tenths of those that come for training, of MNIST's 60,000 for example."""

IMAGES: Mapping[str, Task] = {
    f"mnist, {count:,} images": of_steps(STEPS, Task("DIR/MNIST", "mlp", 1, 128, widths=(4, 4), examples=count))
    for count in (600, 2_000, 6_000, 20_000, WHOLE["DIR/MNIST"])
}
DATA_SETS: Mapping[str, Task] = {
    name: of_steps(STEPS, Task(source, "convnet", 1, 64, widths=(4, 4, 8, 8), examples=WHOLE[source]))
    for name, source in {"digits": "digits", "mnist": "DIR/MNIST", "fashion-mnist": FASHION, "cifar10": CIFAR}.items()
}
SIZES = {**IMAGES, **DATA_SETS}
"""Without one: which size the network finds. Within each of the two series it should grow from task to task."""
