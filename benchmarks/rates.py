"""Rates of rare events in samples that are not independent."""

import statistics
from collections.abc import Sequence

from scipy import stats


def effective_number(groups: Sequence[Sequence[float]]) -> float:
    """Return how many independent values as many correlated ones are worth.

    n / (1 + (m - 1) r), m the mean size of a group and r the correlation within groups by one-way analysis of variance.
    """
    n, k = sum(map(len, groups)), len(groups)
    if k < 2 or n == k:
        return float(n if n == k else k)
    m, mean = n / k, statistics.mean(value for group in groups for value in group)
    between = sum(len(group) * (statistics.mean(group) - mean) ** 2 for group in groups) / (k - 1)
    within = sum((value - statistics.mean(group)) ** 2 for group in groups for value in group) / (n - k)
    spread = between + (m - 1) * within
    r = min(max((between - within) / spread, 0.0), 1.0) if spread > 0 else 0.0
    return n / (1 + (m - 1) * r)


def upper_limit(count: float, n: float) -> float:
    """Return the rate that a count of n excludes to exceed, with 95 % confidence (Clopper and Pearson, one-sided)."""
    return float(stats.beta.ppf(0.95, count + 1, n - count)) if count < n else 1.0
