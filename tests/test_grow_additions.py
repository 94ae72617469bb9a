"""The bound on successive additions: kept by every greedy sequence under its condition, and broken without it."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.additions import additions_bound, ceiling
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reference import fisher, natural_expansion_score
from outgrow.grow.sample import Batch


def greedy(found, units, tau, alpha, numerator=0.0, denominator=0.0):
    """Add the best unit while it is accepted, as SENN does; return how many were added.

    The increase has the damping of the numerator, what it is compared with that of the denominator.
    """
    present, left, count = torch.tensor([], dtype=torch.long), dict(enumerate(units)), 0
    while left:
        scores = {i: natural_expansion_score(found.F, found.g, present, new, numerator) for i, new in left.items()}
        best = max(scores, key=lambda i: scores[i].increase)
        now = natural_expansion_score(found.F, found.g, present, present[:0], denominator).present
        if not (scores[best].increase > alpha and scores[best].increase > tau * now):
            return count
        present, count = torch.cat([present, left.pop(best)]), count + 1
    return count


def hidden_layer(seed, loss, n=40, units=12, inputs=3):
    """Units of a hidden layer as candidates: what their outgoing weights add; and the dense matrix of those weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, 2)).double()
    with torch.no_grad():
        model[2].weight *= 0.1
    x = torch.randn(n, inputs).double()
    y = torch.randint(2, (n,)) if loss is F.cross_entropy else torch.randn(n, 2).double()
    return model, [Batch(x[:15], y[:15], 15), Batch(x[15:], y[15:], n - 15)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([F.cross_entropy, F.mse_loss]),
    st.sampled_from(["gauss-newton", "euclidean", "empirical"]),
    st.sampled_from([0.003, 0.03, 0.3, 1.0]),
    st.sampled_from([1e-4, 2.5e-3, 0.05]),
    st.sampled_from([0.0, 0.1]),
)
def test_no_greedy_sequence_exceeds_the_bound_where_one_estimator_gives_both_numbers(
    seed, loss, metric, tau, share, damping
):
    model, batches = hidden_layer(seed, loss)
    found = fisher(model, ["2.weight"], batches, loss, metric)
    # damping is of the mean diagonal of what is looked at; a matrix that is damped once is one estimator
    ridge = damping * found.F.diagonal().mean() * torch.eye(len(found.F), dtype=torch.float64)
    one = type(found)(found.F + ridge, found.g, found.ceiling, found.where)
    alpha = share * found.ceiling
    count = greedy(one, list(found.where["2.weight"].T), tau, alpha)
    assert count <= additions_bound(found.ceiling, tau, alpha)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss])
def test_the_ceiling_is_that_of_the_dense_euclidean_metric(loss):
    model, batches = hidden_layer(0, loss)
    expected = fisher(model, ["2.bias"], batches, loss, "euclidean").ceiling
    assert ceiling(model, batches, OutputLoss(loss)) == pytest.approx(expected, rel=1e-12)


def test_the_ceiling_of_squares_divided_by_their_curvature_is_that_of_gauss_newton():
    model, batches = hidden_layer(0, F.mse_loss)
    curvature = 2 / 2  # d2/dz2 of the mean over two outputs of (z - y)^2
    expected = fisher(model, ["2.bias"], batches, F.mse_loss).ceiling
    assert ceiling(model, batches, OutputLoss(F.mse_loss)) / curvature == pytest.approx(expected, rel=1e-12)


def equal_units(count):
    """A Fisher matrix in whose eigenbasis every unit adds the same."""
    g = torch.ones(count, dtype=torch.float64)
    return type("Found", (), {"F": torch.eye(count, dtype=torch.float64), "g": g, "ceiling": float(count)})


def test_with_a_damped_denominator_the_bound_breaks():
    found, units = equal_units(32), list(torch.arange(32)[:, None])
    bound = additions_bound(found.ceiling, 1.0, 0.9)
    assert bound == 6
    assert greedy(found, units, 1.0, 0.9) == 1 <= bound  # the second is no more than the first: nothing is doubled
    assert greedy(found, units, 1.0, 0.9, denominator=50.0) == 32 > bound
    assert found.ceiling / 0.9 >= 32  # what is left


def test_the_bound_is_reached_by_units_that_double_the_score():
    sizes = torch.tensor([0.1 * 2.01**i for i in range(8)]).double()
    g = torch.cat([sizes[:1], sizes.diff()]).sqrt()
    present, count = torch.tensor([], dtype=torch.long), 0
    for i in range(8):
        score = natural_expansion_score(torch.eye(8).double(), g, present, torch.tensor([i]))
        assert score.increase > 0.0999 and score.increase > score.present  # noqa: PT018
        present, count = torch.cat([present, torch.tensor([i])]), count + 1
    assert count == additions_bound(float(g.square().sum()), 1.0, 0.0999)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(1e-4, 10), st.floats(1e-6, 10))
def test_the_bound_is_the_largest_whole_number_below_the_formula(top, tau, alpha):
    bound, formula = additions_bound(top, tau, alpha), 1 + math.log(top / alpha) / math.log1p(tau)
    if top > alpha:
        assert bound < formula * (1 + 1e-9) and bound + 1 > formula * (1 - 1e-9)  # noqa: PT018
    else:
        assert bound == 0


def test_a_network_with_nothing_to_gain_has_no_additions():
    assert additions_bound(0.0, 0.1, 1e-3) == 0
    assert additions_bound(1e-3, 0.1, 1e-3) == 0
    assert additions_bound(1.001e-3, 0.1, 1e-3) == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_thresholds_and_ceilings_that_give_no_bound_are_refused(bad):
    with pytest.raises(InputError, match=r"tau: expected a number above 0, received .*; with 0 there is no bound"):
        additions_bound(1.0, bad, 0.1)
    with pytest.raises(InputError, match="alpha: expected a number above 0"):
        additions_bound(1.0, 0.1, bad)
    if bad != 0:
        with pytest.raises(InputError, match="ceiling: expected a number of at least 0"):
            additions_bound(bad, 0.1, 0.1)
