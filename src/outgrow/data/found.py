"""What a reader found in a source, before it is divided into parts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from outgrow.data.dataset import Dataset, Split, Task
from outgrow.data.labels import class_names, class_numbers, listed
from outgrow.data.options import Options
from outgrow.data.split import TEST_FRACTION, divide
from outgrow.errors import InputError


@dataclass(frozen=True, eq=False)
class Found:
    """Examples as their files give them.

    Attributes:
        name: What reports call the data set.
        where: What messages call it: the file or folder as the user wrote it.
        task: What the targets are.
        train: Everything that is neither validation nor test by the user's own division.
        classes: Their names; empty for regression.
        augment: Whether crops and flips are sensible.
        description: How to read new examples in the same way.
        validation: A validation part of the user's own.
        test: A test part of the user's own.
    """

    name: str
    where: object
    task: Task
    train: Split
    classes: tuple[str, ...]
    augment: bool
    description: Mapping[str, object]
    validation: Split | None = None
    test: Split | None = None


def labelled(where: object, **parts: tuple[np.ndarray, np.ndarray]) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Number the labels of images or rows after the classes of the training part.

    Args:
        where: What to call the source in messages.
        **parts: Examples and labels of "train" and perhaps "validation" and "test".

    Returns:
        The names of the classes, and the parts that there are.

    Raises:
        InputError: Examples and labels differ in number, or an integer label is negative.
    """
    for part, (x, y) in parts.items():
        if len(x) != len(y):
            raise InputError(f"{where}: the {part} part has {len(x)} examples but {len(y)} labels; give one for each")
        if y.dtype.kind == "i" and (count := int((y < 0).sum())):
            raise InputError(f"{where}: negative labels: {count} (lowest {y.min()}); classes are numbered from 0")
    classes = class_names(parts["train"][1], where)
    return classes, {
        part: Split(torch.from_numpy(x), class_numbers(y, classes, f"{where}, {part} part"))
        for part, (x, y) in parts.items()
    }


def dataset(found: Found, options: Options) -> Dataset:
    """Divide what was found into train, validation and test.

    Args:
        found: The examples; a test part of their own is kept as it is.
        options: The seed and share of the validation part; what else the user asked for.

    Returns:
        The data set.

    Raises:
        InputError: The options contradict what was found.
    """
    if options.task not in (None, found.task):
        raise InputError(
            f"{found.where}: task {options.task!r}, but its labels are classes ({listed(found.classes, 4)}); "
            f"leave the task out"
        )
    examples, validation, test = found.train, found.validation, found.test
    for part, own in (("validation", validation), ("test", test)):
        if own is not None and not len(own):
            raise InputError(f"{found.where}: the {part} part is empty; leave it out")
    share = options.validation
    division = divide(
        examples.y, found.task, seed=options.seed, validation=share, where=found.where, test_given=test is not None
    )
    train = division.train
    if validation is not None:
        train = torch.cat([train, division.validation]).sort().values
    else:
        validation = _part(examples, division.validation)
    if division.test is not None:
        test = _part(examples, division.test)
    given = {"validation": found.validation is not None, "test": found.test is not None}
    description = {**found.description, "parts": parts(given, share)}
    train_part = _part(examples, train)
    return Dataset(found.name, found.task, train_part, validation, test, found.classes, found.augment, description)


def parts(own: Mapping[str, bool], validation: float) -> dict[str, str]:
    """Where the parts come from, in words.

    Args:
        own: Whether the source has a "validation" and a "test" part of its own.
        validation: The share that was drawn for validation, if it was.

    Returns:
        A sentence for each of the two.
    """
    drawn = {
        "validation": f"{validation:.0%} of what is not test, drawn by the seed",
        "test": f"{TEST_FRACTION:.0%} of all, the same for every seed",
    }
    return {part: "as given" if given else drawn[part] for part, given in own.items()}


def _part(split: Split, index: torch.Tensor) -> Split:
    """The examples at `index`; without a copy if that is all of them."""
    return split if len(index) == len(split) else split.part(index)
