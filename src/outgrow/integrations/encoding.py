"""How rows of a table become what a network learns from, and which rows say the same."""

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

NUMBERS = "number"


def has_categories(X: Any) -> bool:
    """Return whether a table has columns that are not numbers: categories, text or booleans."""
    return hasattr(X, "select_dtypes") and not X.select_dtypes(exclude=NUMBERS).columns.empty


def as_numbers() -> ColumnTransformer:
    """Return what makes numbers of a table with categories: a column for each category, zeros for unknown ones."""
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float64)
    numbers = FunctionTransformer(_floats, feature_names_out="one-to-one")
    return ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include=NUMBERS)),
            ("categories", categories, make_column_selector(dtype_exclude=NUMBERS)),
        ],
        sparse_threshold=0.0,
    )


def _floats(X: Any) -> Any:
    """Columns of numbers as float64, NaN where they are missing, also of the types of pandas that know `NA`."""
    return X.astype(np.float64)


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
