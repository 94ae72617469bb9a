"""How rows of a table become what a network learns from, and which rows say the same."""

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from outgrow.errors import InputError

NUMBERS = "number"
TIMES = "mM"  # kinds of types: durations, and dates and times


def has_categories(X: Any) -> bool:
    """Return whether a table has columns that are not numbers: categories, text or booleans."""
    return hasattr(X, "select_dtypes") and bool(_categories(X))


def demand_readable(X: Any, missing: str) -> None:
    """Check that the columns of a table, if it is one, can be made numbers.

    Args:
        X: Rows of any kind.
        missing: `error`, or `median` where values may be missing.

    Raises:
        InputError: A column holds dates or times, or one that is not numbers lacks values that it must not lack.
    """
    if not hasattr(X, "select_dtypes"):
        return
    for name, dtype in X.dtypes.items():
        if dtype.kind in TIMES:
            raise InputError(
                f"column {name!r}: expected numbers, categories, text or booleans, received {dtype}; make numbers of "
                f"it, such as days since a date, or leave it out"
            )
    for place in _categories(X) if missing == "error" else ():
        if X.iloc[:, place].isna().any():
            raise InputError(
                f"column {X.columns[place]!r}: expected a value in each row, received NaN; fill it, or set "
                f"missing='median', which makes it a category of its own"
            )


def as_numbers() -> ColumnTransformer:
    """Return what makes numbers of a table with categories: a column for each category, zeros for unknown ones."""
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float64)
    categories = make_pipeline(FunctionTransformer(_objects, feature_names_out="one-to-one"), encoder)
    numbers = FunctionTransformer(_floats, feature_names_out="one-to-one")
    return ColumnTransformer(
        [("numbers", numbers, _numbers), ("categories", categories, _categories)], sparse_threshold=0.0
    )


def _numbers(X: Any) -> list[int]:
    """Where a table has columns of numbers; places, as labels may be numbers, too."""
    return _placed(X).select_dtypes(NUMBERS).columns.tolist()


def _categories(X: Any) -> list[int]:
    """Where it has others."""
    return _placed(X).select_dtypes(exclude=NUMBERS).columns.tolist()


def _placed(X: Any) -> Any:
    """A table without rows, its columns called by their places."""
    return X.iloc[:0].set_axis(range(X.shape[1]), axis=1)


def _floats(X: Any) -> Any:
    """Columns of numbers as float64, NaN where they are missing, also of the types of pandas that know `NA`."""
    return X.astype(np.float64)


def _objects(X: Any) -> np.ndarray:
    """Other columns as objects `[n, columns]`, NaN where they are missing, whatever their type calls it."""
    values = X.to_numpy(dtype=object, copy=True)
    values[X.isna().to_numpy()] = np.nan
    return values


def scaled(missing: str) -> Pipeline:
    """Return what fills gaps, where that is wanted, and standardizes columns.

    Args:
        missing: `error`, or `median` for medians and a column that says where values were missing.
    """
    fill = [SimpleImputer(strategy="median", add_indicator=True)] if missing == "median" else []
    return make_pipeline(*fill, StandardScaler())


def merged(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge rows that say the same, so that a weight of two is the same as a row that is there twice.

    Args:
        X: Features, float64 `[n, features]`.
        y: Labels `[n]` or targets `[n, targets]`.
        weight: Weights `[n]`; rows whose weight is zero are left out.

    Returns:
        The rows that differ, in an order that does not depend on that of the rows given, with the sums of the weights.

    Example:
        >>> found = merged(np.array([[2.0], [1.0], [2.0]]), np.array([0, 1, 0]), np.array([1.0, 1.0, 0.5]))
        >>> sorted(zip(*(one.ravel().tolist() for one in found)))
        [(1.0, 1, 1.0), (2.0, 0, 1.5)]
    """
    kept = weight > 0
    X, y, weight = X[kept], y[kept], weight[kept]
    rows = np.column_stack([X, y]).astype(np.float64) + 0.0  # no negative zeros
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return X[first], y[first], np.bincount(inverse.ravel(), weights=weight)
