"""The rates of rare events that the benchmarks state, of samples that are not independent."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "rates.py"
SPEC = importlib.util.spec_from_file_location("rates", FILE)
rates = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rates)

values = st.floats(-3, 3).map(lambda value: round(value, 3))


@given(st.lists(values, min_size=2, max_size=8), st.integers(2, 6))
def test_copies_of_a_value_are_worth_one(each, copies):
    expected = len(each) if len(set(each)) > 1 else len(each) * copies  # all equal: nothing says that they correlate
    assert rates.effective_number([[value] * copies for value in each]) == pytest.approx(expected)


@given(st.lists(st.lists(values, min_size=1, max_size=6), min_size=1, max_size=6))
def test_values_are_worth_one_at_least_and_their_number_at_most(groups):
    n = sum(map(len, groups))
    assert 1 <= rates.effective_number(groups) <= n
    assert rates.effective_number([[value] for group in groups for value in group]) == n


@pytest.mark.parametrize(("count", "n"), [(0, 20), (3, 200), (7, 20.5)])
def test_the_limit_is_the_rate_that_leaves_so_few_events_a_chance_of_five_percent(count, n):
    limit = rates.upper_limit(count, n)
    assert count / n < limit < rates.upper_limit(count + 1, n)
    if not count:
        assert (1 - limit) ** n == pytest.approx(0.05)
    assert rates.upper_limit(n, n) == 1
