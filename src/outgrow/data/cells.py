"""What one cell of a table holds, as text."""

import math

MISSING = frozenset({"", "?", "na", "n/a", "nan", "-nan", "null", "none"})  # in a column of numbers, whatever the case


def number(cell: str) -> float | None:
    """The number in a cell.

    Args:
        cell: Text without white space around it.

    Returns:
        Its value, NaN if it is missing, None if the cell holds something else.

    Example:
        >>> [number(cell) for cell in ("1e5", "NA", "ten")]
        [100000.0, nan, None]
    """
    if cell.lower() in MISSING:
        return math.nan
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def is_number(cell: str) -> bool:
    """Whether a cell holds a number that is not missing."""
    value = number(cell)
    return value is not None and not math.isnan(value)


def quoted(cell: str, most: int = 40) -> str:
    """A cell in quotes, on one line and not too long."""
    return repr(cell if len(cell) <= most else cell[:most] + "...")
