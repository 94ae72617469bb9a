"""Budgets: what fits, how much room there is, and what is said where there is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost

numbers = st.integers(1, 2**50)
seconds = st.floats(1e-9, 1e3)
budgets = st.builds(Budget, st.none() | numbers, st.none() | numbers, st.none() | seconds)
costs = st.builds(Cost, numbers, st.integers(0, 2**50), seconds)


@given(budgets, costs)
def test_a_cost_fits_where_there_is_room_and_is_demanded_likewise(budget: Budget, cost: Cost):
    assert (budget.room(cost) >= 1) == budget.fits(cost)
    if budget.fits(cost):
        budget.demand_room(cost)
    else:
        with pytest.raises(InputError, match="is below the seed's"):
            budget.demand_room(cost)


@given(budgets, costs)
def test_room_is_the_least_of_the_limits_by_themselves(budget: Budget, cost: Cost):
    alone = [
        Budget(max_params=budget.max_params),
        Budget(max_flops=budget.max_flops),
        Budget(max_latency=budget.max_latency),
    ]
    assert budget.room(cost) == min(one.room(cost) for one in alone)
    assert budget.fits(cost) == all(one.fits(cost) for one in alone)
    assert bool(budget) == any(alone)
    assert bool(budget) or budget.room(cost) == math.inf


@given(budgets, costs, costs)
def test_what_costs_more_has_no_more_room(budget: Budget, cost: Cost, other: Cost):
    more = Cost(cost.params + other.params, cost.flops + other.flops, cost.latency + other.latency)
    assert budget.room(more) <= budget.room(cost)
    assert budget.fits(cost) or not budget.fits(more)


@given(budgets, costs, st.integers(2, 5))
def test_room_is_a_factor(budget: Budget, cost: Cost, times: int):
    larger = cost.after(times * cost.params, times * cost.flops)
    if cost.flops:
        assert budget.room(larger) == pytest.approx(budget.room(cost) / times)


@given(costs, numbers, numbers)
def test_a_prediction_has_the_counts_and_the_latency_in_proportion(cost: Cost, params: int, flops: int):
    after = cost.after(params, flops)
    assert (after.params, after.flops) == (params, flops)
    assert after.latency == pytest.approx(cost.latency * flops / cost.flops if cost.flops else cost.latency)
    assert cost.after(cost.params, cost.flops) == cost
    assert Cost(cost.params, cost.flops).after(params, flops) == Cost(params, flops, None)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_params=1_000), "the budget of 1,000 parameters is below the seed's 1,234"),
        (Budget(2_000, max_flops=5_000), "the budget of 5,000 FLOPs is below the seed's 5,678"),
        (Budget(max_latency=1e-4), "the latency of 0.10 ms is below the seed's 0.25 ms"),
        (Budget(max_latency=2.499e-4), "the latency of 0.2499 ms is below the seed's 0.2500 ms"),
        (Budget(1, 1, 1e-9), "the budget of 1 parameters is below the seed's 1,234"),
    ],
)
def test_the_limit_that_the_seed_exceeds_is_named(budget: Budget, message: str):
    with pytest.raises(InputError) as caught:
        budget.demand_room(Cost(1_234, 5_678, 2.5e-4))
    assert str(caught.value).startswith(message)


def test_a_limit_of_latency_needs_a_latency():
    for ask in (Budget.room, Budget.fits, Budget.demand_room):
        with pytest.raises(
            InputError, match=r"a budget of 2\.0 ms needs a cost with its latency, received none: measu"
        ):
            ask(Budget(max_latency=0.002), Cost(1, 1))
        ask(Budget(max_params=5), Cost(1, 1))


@pytest.mark.parametrize("name", ["max_params", "max_flops", "max_latency"])
@pytest.mark.parametrize("value", [0, -1, True, "5", math.nan, math.inf, 1.5])
def test_other_limits_are_refused(name: str, value: object):
    if name == "max_latency" and value == 1.5:
        assert Budget(max_latency=1.5).max_latency == 1.5
        return
    with pytest.raises(InputError, match=f"expected {name} as a .*number.* above zero, or None .*, received {value!r}"):
        Budget(**{name: value})


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(), "no limit"),
        (Budget(max_params=1), "1 parameter"),
        (Budget(max_params=20_000), "20,000 parameters"),
        (Budget(max_flops=1), "1 FLOP"),
        (Budget(max_flops=999), "999 FLOP"),
        (Budget(max_flops=999_600), "1 MFLOP"),
        (Budget(max_flops=1_500_000), "1.5 MFLOP"),
        (Budget(max_flops=4 * 10**9), "4 GFLOP"),
        (Budget(max_latency=0.002), "2.0 ms"),
        (Budget(max_latency=0.12), "120 ms"),
        (Budget(max_latency=2), "2,000 ms"),
        (Budget(max_latency=1.25e-5), "0.013 ms"),
        (Budget(20_000, 1_500_000, 0.002), "20,000 parameters, 1.5 MFLOP, 2.0 ms"),
    ],
)
def test_a_budget_is_written_as_people_read_it(budget: Budget, text: str):
    assert str(budget) == text
