"""What every reader returns: three disjoint parts, and what is needed to build a network for them.

Images are kept as uint8 `[n, channels, height, width]` and become float32 in 0..1 a batch at a time
(`outgrow.data.batches`); tables are float32 `[n, features]`. Labels are int64 `[n]`, regression targets float32
`[n, targets]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from outgrow.data.statistics import column_statistics, pixel_statistics

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        x: Images, uint8 `[n, channels, height, width]`, or a table, float32 `[n, features]`.
        y: Labels, int64 `[n]`, or regression targets, float32 `[n, targets]`.
        weight: How much each example counts beside the others, above zero, `[n]`; all the same if None.
    """

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def part(self, index: torch.Tensor | slice) -> "Split":
        """Return some of the examples."""
        return Split(self.x[index], self.y[index], None if self.weight is None else self.weight[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A whole data set in memory.

    Attributes:
        name: What reports call it.
        task: Whether `y` holds classes or real numbers.
        train: What networks learn from; all statistics are of this part.
        validation: What decisions are made on.
        test: What nothing depends on; the same whatever the seed.
        classes: Their names, in the order of the labels; empty for regression.
        augment: Whether random crops and flips are sensible by default.
        description: JSON-able; what a reader has to know to encode new examples in the same way.
    """

    name: str
    task: Task
    train: Split
    validation: Split
    test: Split | None
    classes: tuple[str, ...]
    augment: bool
    description: Mapping[str, object]

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of one example: `(channels, height, width)` or `(features,)`."""
        return tuple(self.train.x.shape[1:])

    @property
    def outputs(self) -> int:
        """The number of classes, or of regression targets."""
        return len(self.classes) if self.task == "classification" else self.train.y.shape[1]

    @property
    def kind(self) -> Literal["image", "table"]:
        """What an example is."""
        return "image" if self.train.x.ndim == 4 else "table"

    def input_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of what a network sees, over the training part.

        Returns:
            Two float32 tensors, `[channels]` for images (scaled to 0..1) or `[features]` for tables; a constant
            feature has standard deviation 1, so that dividing is always safe.
        """
        return pixel_statistics(self.train.x) if self.kind == "image" else column_statistics(self.train.x)

    def target_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the regression targets, over the training part.

        Returns:
            Two float32 tensors `[targets]`; a constant target has standard deviation 1.

        Raises:
            ValueError: The task is classification, where labels have no mean.
        """
        if self.task != "regression":
            raise ValueError(f"target statistics are for regression; {self.name} is {self.task}")
        return column_statistics(self.train.y)
