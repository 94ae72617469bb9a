"""Arguments of the estimators as Python's own numbers, which may come as NumPy's, as a grid search passes them on."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from outgrow.errors import InputError

COUNTS = ("max_params", "max_flops", "epochs", "batch_size")
AMOUNTS = ("max_latency", "max_train_flops", "min_accuracy", "rate", "weight_decay", "validation_fraction")


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as what they stand for: whole numbers as int, others as float, options of a policy as text.

    Args:
        given: The arguments by name.

    Returns:
        All of them by name; those that are None, and those of other kinds, as they are.

    Raises:
        InputError: A number is none, or not a whole one.

    Examples:
        >>> plain({"epochs": np.int64(2), "rate": np.float32(0.5), "widths": 8, "policy_options": {"bounds": [0.5, 2]}})
        {'epochs': 2, 'rate': 0.5, 'widths': (8,), 'policy_options': {'bounds': '0.5,2'}}
    """
    return {name: _plain(name, value) for name, value in given.items()}


def _plain(name: str, value: Any) -> Any:
    if name == "widths":
        if value is None:
            raise InputError("widths: expected a whole number for each hidden layer, received None")
        return tuple(_whole(name, width) for width in np.atleast_1d(np.asarray(value, object)))
    if name == "policy_options":
        return {option: _text(one) for option, one in (value or {}).items()}
    if value is None:
        return None
    if name in COUNTS:
        return _whole(name, value)
    return _number(name, value) if name in AMOUNTS else value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name}: expected a whole number, received {value!r}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name}: expected a number, received {value!r}")
    return float(value)


def _text(value: Any) -> str:
    """An option of a policy as `outgrow.option` reads it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return ",".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
