"""The natural expansion score, against the dense Fisher matrix and by its properties."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from outgrow.grow.reference import kronecker, natural_expansion_score
from outgrow.grow.score import increase, natural_step, solve, total


def problem(seed=0, outputs=3, present=4, new=2):
    """A Kronecker Fisher and a gradient that lies in its range: (A, S, G, c, p)."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    a, u = randn(50, present + new) @ randn(present + new, present + new), randn(40, outputs)
    A, S, G = a.mT @ a / 50, u.mT @ u / 40, 0.1 * randn(outputs, present + new)
    return A, S, G, torch.arange(present), torch.arange(present, present + new)


def dense(A, S, G, c, p):
    """The score of F = A (x) S by the dense reference."""
    at = torch.arange(G.numel()).view(G.shape)
    return natural_expansion_score(kronecker(A, S), G.flatten(), at[:, c].flatten(), at[:, p].flatten())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("outputs", "present", "new"), [(3, 4, 2), (1, 1, 1), (5, 2, 6), (2, 9, 1)])
def test_the_increase_is_the_schur_complement_of_the_dense_fisher(seed, outputs, present, new):
    A, S, G, c, p = problem(seed, outputs, present, new)
    found, expected = increase(A, S, G, c, p), dense(A, S, G, c, p)
    assert found.score == pytest.approx(expected.increase, rel=1e-8)
    assert found.score == pytest.approx(total(A, S, G) - total(A[c][:, c], S, G[:, c]), rel=1e-8)
    assert total(A, S, G) == pytest.approx(expected.total, rel=1e-8)
    step = expected.step.view(G.shape)
    torch.testing.assert_close(found.new, step[:, p], rtol=1e-8, atol=1e-8 * float(step.abs().max()))


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_the_increase_with_the_whole_second_moment(seed):
    A, S, G, c, p = problem(seed)
    B = torch.linalg.solve(A[c][:, c], A[c][:, p]).mT
    C = G[:, p] - G[:, c] @ B.mT
    expected = torch.trace(torch.linalg.inv(S) @ C @ torch.linalg.inv(A[p][:, p]) @ C.mT)
    assert increase(A, S, G, c, p).bound == pytest.approx(float(expected), rel=1e-8)


@st.composite
def layers(draw):
    """Moments of random features, some of them copies or mixtures of others, and gradients on the same examples."""
    outputs, present, new = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    n, features = draw(st.integers(2, 60)), present + new
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def randn(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    kind = draw(st.sampled_from(["independent", "correlated", "copies", "mixtures"]))
    a, u = randn(n, features), randn(n, outputs)
    if kind == "correlated":
        a = a + 2 * randn(n, 1)
    for _ in range(draw(st.integers(1, features)) if kind in ("copies", "mixtures") else 0):
        to, of = draw(st.integers(0, features - 1)), draw(st.integers(0, features - 1))
        a[:, to] = a[:, of] if kind == "copies" else a[:, of] - 2 * a[:, draw(st.integers(0, features - 1))]
    a = a * 10 ** draw(st.sampled_from([-3.0, 0.0, 3.0]))
    A, S, G = a.mT @ a / n, u.mT @ u / n, u.mT @ a / n
    assume(clear(A) and clear(A[:present, :present]) and clear(S))
    return A, S, G, torch.arange(present), torch.arange(present, features)


def clear(matrix):
    """Whether it's beyond doubt which directions are there: elsewhere a score depends on the tolerance."""
    values = torch.linalg.eigvalsh(matrix) / matrix.diagonal().mean()
    return bool(((values.abs() < 1e-12) | (values > 1e-3)).all())


def ceiling(A, S, G):
    """What no part of a layer's score can exceed: here at most one nat an output, as E[u a^T] is whitened."""
    return min(len(A), len(S))


@settings(max_examples=150, deadline=None)
@given(layers())
def test_bound_exact_and_total_are_ordered_and_add_up(layer):
    A, S, G, c, p = layer
    found, whole, present = increase(A, S, G, c, p), total(A, S, G), total(A[c][:, c], S, G[:, c])
    rounding = 1e-6 * ceiling(A, S, G)
    assert 0 <= found.bound <= found.score + rounding
    assert found.score <= whole + rounding <= ceiling(A, S, G) + 2 * rounding
    assert found.score == pytest.approx(whole - present, abs=rounding)


@settings(max_examples=150, deadline=None)
@given(layers(), st.sampled_from([1e-6, 1e-3, 0.03, 0.3, 3.0, 100.0]))
def test_with_damping_bound_and_score_stay_below_the_undamped_total(layer, damping):
    A, S, G, c, p = layer
    found, rounding = increase(A, S, G, c, p, damping), 1e-6 * ceiling(A, S, G)
    assert 0 <= found.bound <= found.score * (1 + 1e-9) + 1e-12
    assert found.score <= total(A, S, G) + rounding


@settings(max_examples=150, deadline=None)
@given(layers(), st.randoms(use_true_random=False))
def test_copies_of_units_are_worth_nothing(layer, random):
    A, S, G, c, p = layer
    mix = torch.eye(len(A), dtype=torch.float64)
    for new in p.tolist():
        mix[new] = 0
        mix[new, random.choice(c.tolist())] = 1
    A, G = mix @ A @ mix.mT, G @ mix.mT
    assert abs(increase(A, S, G, c, p).score) < 1e-6 * ceiling(A, S, G)
    assert abs(total(A, S, G) - total(A[c][:, c], S, G[:, c])) < 1e-6 * ceiling(A, S, G)


def test_with_damping_the_score_may_be_above_the_undamped_one_but_less_than_what_damping_leaves_to_the_present():
    A = torch.tensor([[1.0, 1.0], [1.0, 1.01]]).double()  # the new feature is nearly a copy
    S, G, (c, p) = torch.eye(1).double(), torch.tensor([[1.0, 1.0]]).double(), torch.arange(2)[:, None]
    assert increase(A, S, G, c, p).score == pytest.approx(0, abs=1e-9)  # a copy's gradient too
    assert 0 < increase(A, S, G, c, p, 0.03).score < 0.03


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.03, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_score_is_at_least_the_bound_which_is_at_least_zero(seed, damping):
    found = increase(*problem(seed), damping)
    assert found.score >= found.bound >= 0


def test_the_step_is_the_natural_gradient_less_what_the_present_step_does():
    A, S, G, c, p = problem()
    found, whole, present = (
        increase(A, S, G, c, p),
        natural_step(A, S, G, 0.0),
        natural_step(A[c][:, c], S, G[:, c], 0.0),
    )
    torch.testing.assert_close(found.new, whole[:, p])
    torch.testing.assert_close(found.present, whole[:, c] - present)


@pytest.mark.parametrize("damping", [0.0, 0.03, 0.3])
def test_a_copy_of_present_features_is_worth_nothing(damping):
    _, S, G, c, p = problem()
    a = torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A, mix = a.mT @ a / 200, torch.eye(6, dtype=torch.float64)
    mix[p] = 0
    mix[4, 0], mix[5, 1:3] = 1, 1  # the new ones are a present one, and a sum of two
    A, G = mix @ A @ mix.mT, G @ mix.mT
    found = increase(A, S, G, c, p, damping)
    diagonal = float((G[:, p] ** 2 / S.diagonal()[:, None] / A.diagonal()[p]).sum())
    assert diagonal > 0.01
    assert found.score < (1e-6 if damping == 0 else 0.1) * diagonal
    assert float(found.new.abs().max()) < 1


def test_score_does_not_depend_on_the_basis_of_the_new_features():
    A, S, G, c, p = problem()
    mix = torch.eye(6, dtype=torch.float64)
    mix[4:, 4:] = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    mix[4:, :4] = 0.7  # present features mixed in: the residual is the same
    base, mixed = increase(A, S, G, c, p), increase(mix @ A @ mix.mT, S, G @ mix.mT, c, p)
    assert mixed.score == pytest.approx(base.score, rel=1e-8)
    scale = torch.diag(torch.tensor([1, 1, 1, 1, 100, 100.0]).double())
    for damping in (0.0, 0.3):
        base, scaled = increase(A, S, G, c, p, damping), increase(scale @ A @ scale, S, G @ scale, c, p, damping)
        assert scaled.score == pytest.approx(base.score, rel=1e-8)
        torch.testing.assert_close(scaled.new * 100, base.new)


@pytest.mark.parametrize("seed", range(3))
def test_more_features_are_worth_at_least_as_much(seed):
    A, S, G, c, p = problem(seed)
    one = increase(A, S, G, c, p[:1]).score
    assert increase(A, S, G, c, p).score >= one
    then = increase(A, S, G, torch.cat([c, p[:1]]), p[1:]).score
    assert one + then == pytest.approx(increase(A, S, G, c, p).score, rel=1e-8)


def test_the_score_of_all_weights_is_at_most_the_squared_output_gradient():
    generator = torch.Generator().manual_seed(0)
    a, u = torch.randn(2, 200, 4, dtype=torch.float64, generator=generator)
    A, G, S = a.mT @ a / 200, u.mT @ a / 200, torch.eye(4, dtype=torch.float64)
    assert 0 < total(A, S, G) <= float(u.square().sum() / 200)  # lambda of method.md, section 6


def test_no_gradient_no_features_and_no_second_moments_are_worth_nothing():
    A, S, G, c, p = problem()
    assert increase(A, S, 0 * G, c, p).score == 0
    for found in (increase(A, S, G, c, p[:0]), increase(0 * A, 0 * S, G, c, p), increase(A * torch.nan, S, G, c, p)):
        assert found.score == 0
        assert not found.new.any()
        assert not found.present.any()


def test_the_exact_score_is_well_above_the_bound_where_features_are_correlated():
    a = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[:, 1] = a[:, 0] + 0.5 * a[:, 1]  # the new feature is the present one and something else
    u = (a[:, 1] - a[:, 0])[:, None]
    c, p = torch.arange(2)[:, None]
    found = increase(a.mT @ a / 4000, torch.eye(1).double(), u.mT @ a / 4000, c, p)
    assert found.score > 3 * found.bound


def test_solve_survives_singular_matrices():
    ones = torch.ones(3, 3, dtype=torch.float64)
    x = solve(ones, ones[:, :1], 0.0)
    torch.testing.assert_close(ones @ x, ones[:, :1], atol=1e-6, rtol=0)
