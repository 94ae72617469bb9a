"""The column of a table that is to be predicted: which it is, and whether it holds classes or numbers."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from outgrow.data.cells import MISSING, is_number, number
from outgrow.data.columns import numbers
from outgrow.data.dataset import Task
from outgrow.data.labels import class_names, class_numbers, listed, looks_like_classes
from outgrow.data.rows import Rows
from outgrow.data.statistics import demand_apart
from outgrow.errors import InputError

EXACT = 2**53  # from here on double precision skips whole numbers


@dataclass(frozen=True)
class Target:
    """What to predict.

    Attributes:
        name: The column.
        task: What it holds.
        classes: Their names; empty for regression.
        numeric: Whether its cells are numbers.
        commas: Whether these have decimal commas in the training file.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    numeric: bool
    commas: bool = False

    def encode(self, rows: Rows) -> torch.Tensor:
        """The targets of some rows: labels, int64 `[n]`, or numbers, float32 `[n, 1]`."""
        check_complete(rows, self.name, numeric=self.numeric)
        where = f"{rows.path}, column {self.name!r}"
        if self.task == "regression":
            values = numbers(rows, self.name, self.commas)
            narrow = torch.from_numpy(values).float()
            if not narrow.isfinite().all():
                raise InputError(f"{where}: infinite targets: {int((~narrow.isfinite()).sum())}; remove those rows")
            return narrow[:, None]
        return class_numbers(_labels(rows, self.name, self.numeric, self.commas), self.classes, where)


def recognise(rows: Rows, name: str | None, task: Task | None = None) -> Target:
    """Find the target and what it holds.

    Text is classes. Numbers are classes if they look like it (`outgrow.data.labels.looks_like_classes`), else they are
    regression targets.

    Args:
        rows: All rows of the training file.
        name: The column, as the user gave it.
        task: What the user says that it holds.

    Returns:
        The target.

    Raises:
        InputError: There is no such column, or it can't be predicted, or not as the user says.
    """
    name = _column(rows, name)
    numeric, number_of_words = _is_numeric(rows, name)
    check_complete(rows, name, numeric=numeric)
    where = f"{rows.path}, column {name!r}"
    if task == "regression" and not numeric:
        raise InputError(f"{where}: task 'regression', but {number_of_words} of {len(rows)} values are no numbers")
    commas = rows.with_points(name) != rows.columns[name]
    values = _labels(rows, name, numeric, commas)
    distinct = np.unique(values)
    if len(distinct) == 1:
        raise InputError(f"{where}: the target is {rows.columns[name][0]!r} in every row; there is nothing to learn")
    task = task or ("classification" if not numeric or looks_like_classes(distinct, len(rows)) else "regression")
    if task == "regression":
        demand_apart(values, where)
        return Target(name, task, (), numeric, commas)
    if 2 * len(distinct) > len(rows):
        hint = "; is it a number to predict (task 'regression')?" if numeric else "; is it the right column?"
        raise InputError(f"{where}: {len(distinct)} classes in {len(rows)} rows{hint}")
    return Target(name, task, class_names(values, where), numeric, commas)


def check_complete(rows: Rows, name: str, *, numeric: bool) -> None:
    """Check that every row has a target.

    Args:
        rows: The rows.
        name: The column.
        numeric: Whether it is of numbers, where "NA" and the like count as missing too.

    Raises:
        InputError: A row has none.
    """
    absent = MISSING if numeric else {""}
    cells = rows.columns[name]
    if missing := [str(line) for line, cell in zip(rows.lines, cells, strict=True) if cell.lower() in absent]:
        lines = f"line{'s' if len(missing) > 1 else ''} {listed(missing, 5)}"
        raise InputError(
            f"{rows.path}: rows without {name!r}, the target: {len(missing)} ({lines}); fill or remove them"
        )


def _column(rows: Rows, name: str | None) -> str:
    """The user's column, if there is one of that name."""
    known = list(rows.columns)
    if name is None:
        raise InputError(
            f"{rows.path}: which column is to be predicted? Name it: --target NAME, one of {listed(known, 40)}"
        )
    if name not in rows.columns:
        folded = {column.lower(): column for column in known}
        close = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, 3)]
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {listed(known)}"
        raise InputError(f"{rows.path}: no column {name!r} to predict; {hint}")
    return name


def _is_numeric(rows: Rows, name: str) -> tuple[bool, int]:
    """Whether the target is of numbers, and how many of its values are not."""
    cells = rows.with_points(name)
    words = sum(1 for cell in cells if number(cell) is None)
    return words == 0 and any(map(is_number, cells)), words


def _labels(rows: Rows, name: str, numeric: bool, commas: bool) -> np.ndarray:
    """Targets as they are compared: numbers by value, text as it is."""
    if not numeric:
        return np.array(rows.columns[name])
    values = numbers(rows, name, commas)
    return _whole(rows.columns[name], values) if (np.abs(values) >= EXACT).any() else values


def _whole(cells: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Values as integers, where their cells are, and 64 bits hold them; the values as they are otherwise."""
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except (ValueError, OverflowError):
        return values
