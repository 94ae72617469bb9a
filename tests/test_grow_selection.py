"""Joint selection, against explicit loops of increases, and with copies and dead units in the pool."""

from dataclasses import replace

import pytest
import torch

from outgrow.grow.score import increase
from outgrow.grow.selection import Reading, greedy

ROWS = 300


def randn(*size, seed):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reading(seed, units=6, entries=1, present=4, outputs=3, features=None):
    """Features [rows, present + units * entries], correlated, and gradients that they explain in part."""
    if features is None:
        width = present + units * entries
        features = randn(ROWS, width, seed=seed) @ (torch.eye(width) + 0.5 * randn(width, width, seed=seed + 100))
    u = randn(ROWS, outputs, seed=seed + 200) + features[:, -outputs:] + features[:, :outputs]
    S = randn(outputs, outputs, seed=seed + 300)
    S = S @ S.mT + 0.1 * torch.eye(outputs)
    return Reading(features.mT @ features / ROWS, S, u.mT @ features / ROWS, units, entries)


def chosen(one, units):
    """The reading of some of the units only."""
    new = (one.present + units[:, None] * one.entries + torch.arange(one.entries)).flatten()
    at = torch.cat([torch.arange(one.present), new])
    return replace(one, A=one.A[at][:, at], G=one.G[:, at], units=len(units))


def loop(readings):
    """The largest increase beside present and taken features, one unit after the other, in full each time."""
    units, entries = readings[0].units, readings[0].entries
    order = []

    def features(one, unit):
        return one.present + unit * entries + torch.arange(entries)

    while len(order) < units:
        scores = {}
        for unit in set(range(units)) - set(order):
            scores[unit] = 0.0
            for one in readings:
                c = torch.cat([torch.arange(one.present), *(features(one, taken) for taken in order)])
                scores[unit] += increase(one.A, one.S, one.G, c, features(one, unit)).score
        order.append(max(scores, key=scores.get))
    return order


@pytest.mark.parametrize("entries", [1, 3])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_an_explicit_loop_of_increases(seed, layers, entries):
    readings = [reading(seed + 10 * i, entries=entries, present=4 + i) for i in range(layers)]
    assert greedy(readings, 0.0).tolist() == loop(readings)


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_the_first_of_any_number_are_the_choice_among_all_and_do_not_depend_on_the_order_of_the_pool(damping):
    one = reading(0, units=7, entries=2)
    order = greedy([one], damping)
    assert sorted(order.tolist()) == list(range(7))
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert shuffled[greedy([chosen(one, shuffled)], damping)].tolist() == order.tolist()
    assert greedy([chosen(one, order[:3])], damping).tolist() == [0, 1, 2]


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_scale_of_a_unit_does_not_change_the_order(damping):
    features = randn(ROWS, 10, seed=1)
    scales = torch.tensor([1, 1, 1, 1, 1, 10, 0.1, 1, 100, 0.01]).double()
    one = reading(1, features=features)
    A, G = one.A * scales * scales[:, None], one.G * scales
    assert greedy([Reading(A, one.S, G, 6, 1)], damping).tolist() == greedy([one], damping).tolist()


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_copies_of_taken_and_of_present_units_come_last(damping):
    features = randn(ROWS, 10, seed=2)
    features[:, 6], features[:, 8] = 3 * features[:, 5], features[:, 1]  # unit 2 is unit 1, unit 4 a present one
    features[:, 9] = features[:, 4] + features[:, 7]  # unit 5 is units 0 and 3
    order = greedy([reading(2, features=features)], damping).tolist()
    last = set(order[3:])
    assert 4 in last
    assert len(last & {1, 2}) == 1
    assert len(last & {0, 3, 5}) == 1


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_units_that_do_not_fire_come_behind_everything(damping):
    features = randn(ROWS, 10, seed=3)
    features[:, 4] = 0.0
    features[:, 6] *= 1e-6
    features[:, 7] = features[:, 0]
    order = greedy([reading(3, features=features)], damping).tolist()
    assert order[3:] == [3, 0, 2]  # the copy before the two that don't fire


def test_a_unit_counts_if_one_of_its_layers_reads_it():
    features = randn(ROWS, 10, seed=4)
    blind = features.clone()
    blind[:, 4:] = 0.0
    seen = reading(4, features=features)
    assert greedy([reading(5, features=blind), seen], 0.1).tolist() == greedy([seen], 0.1).tolist()


def test_nothing_to_choose_from_and_nothing_known_are_orders_too():
    one = reading(0)
    assert greedy([chosen(one, torch.zeros(0, dtype=torch.long))], 0.1).tolist() == []
    for value in (0.0, torch.nan):
        spoilt = Reading(one.A * value, one.S * value, one.G * value, 6, 1)
        assert sorted(greedy([spoilt], 0.1).tolist()) == list(range(6))


def test_a_step_covers_all_columns_and_the_present_ones_alone_where_there_are_no_units():
    one = reading(0)
    found = one.increase(0.1)
    torch.testing.assert_close(one.step(0.1), torch.cat([found.present, found.new], 1))
    alone = chosen(one, torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(alone.step(0.0), -torch.linalg.solve(one.S, one.G[:, :4]) @ one.A[:4, :4].inverse())


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_a_diagonal_fisher_factor_is_that_matrix(damping):
    one = reading(0, units=5, entries=2)
    flat = replace(one, S=one.S.diagonal())
    full = replace(one, S=torch.diag(flat.S))
    assert greedy([flat], damping).tolist() == greedy([full], damping).tolist()
    found, expected = flat.increase(damping), full.increase(damping)
    assert (found.score, found.bound) == pytest.approx((expected.score, expected.bound))
    step = full.step(damping)
    torch.testing.assert_close(flat.step(damping), step)
    assert flat.quadratic(step) == pytest.approx(full.quadratic(step))


def test_outputs_of_which_a_diagonal_factor_knows_nothing_get_no_step():
    one = reading(0)
    found = replace(one, S=torch.tensor([2.0, 0.0, 1.0]).double()).increase(0.0)
    assert found.new.abs().sum(1).ne(0).tolist() == [True, False, True]
    assert not replace(one, S=torch.zeros(3).double()).increase(0.1).new.any()


def test_the_quadratic_along_a_step_is_that_of_the_kronecker_product():
    one = reading(0)
    step = one.step(0.1)
    slope, curvature = one.quadratic(step)
    assert slope == pytest.approx(-float((step * one.G).sum()))
    assert curvature == pytest.approx(float(step.flatten() @ torch.kron(one.S, one.A) @ step.flatten()))
