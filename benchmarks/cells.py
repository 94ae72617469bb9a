"""Cells of tables: groups, spreads, and on what it was measured."""

import statistics
from collections.abc import Callable, Mapping, Sequence


def grouped(found: Sequence[Mapping], key: Callable[[Mapping], object]) -> dict[object, list[Mapping]]:
    """What was measured in groups, in the order in which they come first."""
    groups: dict[object, list[Mapping]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def made_with(found: Sequence[Mapping]) -> str:
    """Say on what and at which commits it was measured."""
    versions = [one["torch"] if "torch" in one else one["versions"]["torch"] for one in found]
    listed = [sorted({one[key] for one in found}) for key in ("hardware", "commit")]
    torch = ", ".join(f"torch {version}" for version in sorted(set(versions)))
    return f"Machine: {'; '.join(listed[0])}; {torch}; commits {', '.join(listed[1])}."


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def span(values: Sequence[float]) -> str:
    """Median (the lower of two), with the range where there is one."""
    middle, low, high = statistics.median_low(values), min(values), max(values)
    return f"{middle:,}" if low == high else f"{middle:,} ({low:,} to {high:,})"


def test(results: Sequence[Mapping]) -> str:
    """Mean and sample standard deviation of the test metrics."""
    if "accuracy" in results[0]:
        return f"{spread([100 * result['accuracy'] for result in results], 2)} %"
    rmse, r2 = (spread([result[key] for result in results], digits) for key, digits in (("rmse", 0), ("r2", 3)))
    return f"RMSE {rmse}, R2 {r2}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and sample standard deviation."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):,.{digits}f}"
