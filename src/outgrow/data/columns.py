"""How the columns of a table become numbers.

A column is either numbers (with a value to fill gaps, and an indicator if training rows have gaps) or categories
(one-hot). Both are fitted on training rows only, are plain data, and encode any rows later, so that a description
that was saved encodes new rows exactly as the training rows were.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from outgrow.data.cells import number, quoted
from outgrow.data.labels import listed
from outgrow.data.rows import WITH_COMMA, Rows
from outgrow.data.statistics import are_close
from outgrow.errors import InputError

MOST_CATEGORIES = 100
SAME = "the same in every training row"
MOSTLY = 0.95  # a column with this share of numbers was meant to hold nothing else


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
        name: Its name in the header.
        fill: What stands in for a missing value: the median of the training rows.
        gaps: Whether a second feature says where values were missing.
        offset: What is taken off, where single precision would not tell the values apart.
        commas: Whether the training rows had decimal commas.
    """

    name: str
    fill: float
    gaps: bool
    offset: float = 0.0
    commas: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what it becomes."""
        return (self.name, f"{self.name}=missing") if self.gaps else (self.name,)

    def encode(self, rows: Rows) -> np.ndarray:
        """The column of some rows, float32 `[n, 1 or 2]`."""
        values = numbers(rows, self.name, self.commas)
        missing = np.isnan(values)
        filled = np.where(missing, self.fill, values) - self.offset
        with np.errstate(over="ignore"):
            encoded = np.stack([filled, missing][: len(self.features)], 1).astype(np.float32)
        if (wrong := np.flatnonzero(~np.isfinite(encoded[:, 0]))).size:
            raise InputError(
                f"{rows.path}: infinite or too large values in column {self.name!r}: {len(wrong)} (the first on line "
                f"{rows.lines[wrong[0]]}); leave them empty if they are unknown"
            )
        return encoded

    def describe(self) -> dict[str, object]:
        """What `column` needs to make it again."""
        offset = {"offset": self.offset} if self.offset else {}
        commas = {"commas": True} if self.commas else {}
        return {"name": self.name, "kind": "number", "fill": self.fill, "missing": self.gaps, **offset, **commas}


@dataclass(frozen=True)
class Category:
    """A column of categories.

    Attributes:
        name: Its name in the header.
        categories: The values that have a feature of their own; any other is all zeros.
    """

    name: str
    categories: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what it becomes."""
        return tuple(f"{self.name}={category}" for category in self.categories)

    def encode(self, rows: Rows) -> np.ndarray:
        """The column of some rows, float32 `[n, categories]`."""
        position = {category: i for i, category in enumerate(self.categories)}
        index = np.array([position.get(cell, -1) for cell in rows.columns[self.name]])
        return np.asarray(index[:, None] == np.arange(len(self.categories)), dtype=np.float32)

    def describe(self) -> dict[str, object]:
        """What `column` needs to make it again."""
        return {"name": self.name, "kind": "category", "categories": list(self.categories)}


Column = Number | Category


def column(description: Mapping[str, object]) -> Column:
    """Make a column again from its description, as it is after a way through JSON.

    Args:
        description: What `describe` gave.

    Returns:
        An equal column.

    Example:
        >>> column({"name": "age", "kind": "number", "fill": 30.5, "missing": True}).features
        ('age', 'age=missing')
    """
    name = str(description["name"])
    if description["kind"] == "number":
        fill, offset = (float(cast(float, description.get(key, 0.0))) for key in ("fill", "offset"))
        return Number(name, fill, bool(description["missing"]), offset, bool(description.get("commas")))
    return Category(name, tuple(cast(Sequence[str], description["categories"])))


def encode(columns: Iterable[Column], rows: Rows) -> np.ndarray:
    """Encode rows, old or new.

    Args:
        columns: How; fitted on training rows.
        rows: What; may have other columns too, in any order.

    Returns:
        Features, float32 `[n, features]`.

    Raises:
        InputError: A column is missing.
    """
    columns = list(columns)
    if missing := [wanted.name for wanted in columns if wanted.name not in rows.columns]:
        raise InputError(f"{rows.path}: no column {listed(missing)}, which the training rows have; add it")
    return np.concatenate([each.encode(rows) for each in columns], 1)


def fit(train: Rows, everything: Sequence[Rows], leave_out: str) -> tuple[list[Column], dict[str, str]]:
    """Decide how each column is encoded.

    Whether a column is of numbers is a question of the format, so all rows are asked; medians, gaps and categories
    come from the training rows alone.

    Args:
        train: The training rows.
        everything: All rows there are, file by file, that of the training rows first.
        leave_out: The target.

    Returns:
        The columns, and for each column that is dropped the reason.

    Raises:
        InputError: No column is left.
    """
    columns: list[Column] = []
    dropped = {"": "row numbers without a name"} if train.counter else {}
    for name in train.columns:
        if name == leave_out:
            continue
        commas = everything[0].with_points(name) != everything[0].columns[name]
        numeric = _is_numeric(name, everything, commas)
        fitted = _fit_numbers(train, name, commas) if numeric else _fit_categories(train, name)
        if isinstance(fitted, str):
            dropped[name] = fitted
        else:
            columns.append(fitted)
    if not columns:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in dropped.items()) or "the target is the only one"
        raise InputError(f"{train.path}: no column to learn from ({reasons})")
    return columns, dropped


def numbers(rows: Rows, name: str, commas: bool = False) -> np.ndarray:
    """Read a column of numbers.

    Args:
        rows: The rows.
        name: The column.
        commas: Whether the training rows had decimal commas.

    Returns:
        Values, float64 `[n]`, NaN where they are missing.

    Raises:
        InputError: A cell is neither a number nor missing.
    """
    cells = rows.with_points(name, commas)
    known = {cell: number(cell) for cell in set(cells)}
    values = [known[cell] for cell in cells]
    if None in values:
        wrong = values.index(None)
        raise InputError(
            f"{rows.path}: line {rows.lines[wrong]}: column {name!r} holds {quoted(cells[wrong])}; "
            f"expected a number, or nothing where it is unknown"
        )
    return np.array(values, dtype=np.float64)


def _is_numeric(name: str, everything: Sequence[Rows], commas: bool) -> bool:
    """Whether a column is of numbers; an error if it nearly is, and would lose most of its values as categories."""
    given = [(rows, rows.with_points(name, commas)) for rows in everything if name in rows.columns]
    values = {cell: number(cell) for _, cells in given for cell in set(cells)}
    wrong = [(rows, i) for rows, cells in given for i, cell in enumerate(cells) if values[cell] is None]
    total = sum(len(rows) for rows, _ in given)
    nearly = len(wrong) < (1 - MOSTLY) * total or all(rows is not everything[0] for rows, _ in wrong)
    if wrong and nearly and len(values) > MOST_CATEGORIES:
        words = [(rows, i) for rows, i in wrong if not WITH_COMMA.fullmatch(rows.columns[name][i])] or wrong
        rows, i = words[0]
        cell = quoted(rows.columns[name][i])
        raise InputError(
            f"{rows.path}: column {name!r} has numbers in {total - len(words)} of {total} rows, but {cell} "
            f"on line {rows.lines[i]}; write a number there, or nothing if it is unknown"
        )
    return not wrong


def _fit_numbers(train: Rows, name: str, commas: bool) -> Column | str:
    """Fill and indicator of a column of numbers, or why it is dropped."""
    values = numbers(train, name, commas)
    missing = np.isnan(values)
    if missing.all():
        return "no values in the training rows"
    if not missing.any() and (values == values[0]).all():
        return SAME
    fill = float(np.median(values[~missing]))
    offset = fill if are_close(values[~missing]) else 0.0
    return Number(name, fill, bool(missing.any()), offset, commas)


def _fit_categories(train: Rows, name: str) -> Column | str:
    """Categories of a column of text, or why it is dropped."""
    counts = Counter(train.columns[name])
    if len(counts) == len(train):
        return "text that differs in every training row"
    if len(counts) == 1:
        return SAME
    frequent = sorted(counts, key=lambda category: (-counts[category], category))
    return Category(name, tuple(sorted(frequent[:MOST_CATEGORIES])))
