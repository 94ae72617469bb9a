"""Classes: their names, their order, and the numbers that stand for them."""

from collections.abc import Sequence

import numpy as np
import torch

from outgrow.errors import InputError

MOST_CLASSES = 20  # whole numbers with more distinct values are regression targets
MOST_DISTINCT = 0.05  # so are those with more distinct values than this share of the examples


def looks_like_classes(distinct: np.ndarray, n: int) -> bool:
    """Whether numbers of an unknown meaning are classes.

    They are if they are whole, have at most `MOST_CLASSES` distinct values, and these are at most `MOST_DISTINCT` of
    the examples; two whole values are always classes.

    Args:
        distinct: The distinct numbers.
        n: How many examples have them.

    Returns:
        Whether to treat them as classes.

    Example:
        >>> [looks_like_classes(np.array(values), 40) for values in ([0.0, 1.0], [0.0, 0.5], [0.0, 1.0, 2.0])]
        [True, False, False]
    """
    whole = np.array_equal(distinct, np.rint(distinct))
    return whole and len(distinct) <= max(2, min(MOST_CLASSES, MOST_DISTINCT * n))


def class_names(values: np.ndarray, where: object) -> tuple[str, ...]:
    """The distinct labels as text: numbers in numeric order, words in alphabetic order.

    Args:
        values: Labels `[n]`: integers, booleans, strings, or floats that mean classes.
        where: What to call them in messages.

    Returns:
        The name of each class.

    Raises:
        InputError: All labels are the same.

    Example:
        >>> class_names(np.array([10, 9, 10]), "y")
        ('9', '10')
    """
    distinct = np.unique(values)
    if len(distinct) == 1:
        raise InputError(f"{where}: every label is {label_text(distinct[0])}; at least 2 classes are needed")
    return tuple(label_text(value) for value in distinct)


def class_numbers(values: np.ndarray, classes: Sequence[str], where: object) -> torch.Tensor:
    """Replace labels by the numbers of their classes.

    Args:
        values: Labels `[n]`, as for `class_names`.
        classes: The names, in order.
        where: What to call the labels in messages.

    Returns:
        Numbers, int64 `[n]`.

    Raises:
        InputError: A label is not among the classes.

    Example:
        >>> class_numbers(np.array(["b", "a", "b"]), ("a", "b"), "y")
        tensor([1, 0, 1])
    """
    number = {name: i for i, name in enumerate(classes)}
    distinct, index = np.unique(values, return_inverse=True)
    names = [label_text(value) for value in distinct]
    if unknown := [name for name in names if name not in number]:
        raise InputError(f"{where}: classes that the training part lacks: {listed(unknown)}; it has {listed(classes)}")
    table = np.array([number[name] for name in names], dtype=np.int64)
    return torch.from_numpy(table[index.reshape(-1)])


def label_text(value: object) -> str:
    """The name of a class: `3.0` is "3", bytes are decoded, everything else is its own text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas, cut after `most` of them.

    Args:
        names: What to list.
        most: How many to write out.

    Returns:
        One line of text.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
