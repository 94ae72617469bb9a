"""The natural expansion score, against the dense Fisher matrix and by its properties."""

import pytest
import torch

from outgrow.grow.score import increase, natural_step, solve


def problem(seed=0, outputs=3, present=4, new=2):
    """A Kronecker Fisher and a gradient that lies in its range: (A, S, G, c, p)."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    a, u = randn(50, present + new) @ randn(present + new, present + new), randn(40, outputs)
    A, S, G = a.mT @ a / 50, u.mT @ u / 40, 0.1 * randn(outputs, present + new)
    return A, S, G, torch.arange(present), torch.arange(present, present + new)


def dense_increase(A, S, G, c, p):
    """r^T (Fpp - Fpc Fcc^-1 Fcp)^-1 r with F = A (x) S, as method.md, section 1, writes it."""
    F = torch.kron(A, S)  # over (feature, output)
    g = G.mT.flatten()
    outputs = len(S)
    at = torch.arange(len(g)).view(-1, outputs)
    c, p = at[c].flatten(), at[p].flatten()
    Fcc, Fcp, Fpp = F[c][:, c], F[c][:, p], F[p][:, p]
    r = g[p] - Fcp.mT @ torch.linalg.solve(Fcc, g[c])
    return float(r @ torch.linalg.solve(Fpp - Fcp.mT @ torch.linalg.solve(Fcc, Fcp), r))


@pytest.mark.parametrize("seed", range(5))
def test_the_increase_is_the_schur_complement_of_the_dense_fisher(seed):
    A, S, G, c, p = problem(seed)
    found = increase(A, S, G, c, p)
    assert found.score == pytest.approx(dense_increase(A, S, G, c, p), rel=1e-8)
    both = torch.cat([c, p])
    eta = [-float((G[:, i] * natural_step(A[i][:, i], S, G[:, i], 0)).sum()) for i in (c, both)]
    assert found.score == pytest.approx(eta[1] - eta[0], rel=1e-8)


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
    eta = -float((G * natural_step(A, S, G, 0.0)).sum())
    assert 0 < eta <= float(u.square().sum() / 200)  # lambda of method.md, section 6


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
