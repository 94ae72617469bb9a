"""The dense reference: against derivatives by hand, its identities, and K-FAC where K-FAC is exact."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exact_moments import exact_moments
from outgrow.errors import InputError
from outgrow.grow.gain import judge
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reference import fisher, kronecker, natural_expansion_score
from outgrow.grow.sample import Batch
from outgrow.grow.score import increase, total

LOSSES = {"cross entropy": F.cross_entropy, "squares": F.mse_loss}
METRICS = ["gauss-newton", "euclidean", "empirical"]


def problem(loss="cross entropy", n=30, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3)).double().eval()
    x = torch.randn(n, 4).double()
    y = torch.randint(3, (n,)) if loss == "cross entropy" else torch.randn(n, 3).double()
    return model, [Batch(x[: n // 3], y[: n // 3], n // 3), Batch(x[n // 3 :], y[n // 3 :], n - n // 3)], x, y


def names_of(model):
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_gauss_newton_matrix_are_those_of_the_loss(name):
    """Of the last layer the Gauss-Newton matrix is the Hessian."""
    model, batches, x, y = problem(name)
    found = fisher(model, ["3.weight", "3.bias"], batches, LOSSES[name])

    def loss_of(flat):
        values = {"3.weight": flat[:9].view(3, 3), "3.bias": flat[9:]}
        return LOSSES[name](torch.func.functional_call(model, values, (x,)), y)

    flat = torch.cat([model[3].weight.detach().flatten(), model[3].bias.detach()])
    torch.testing.assert_close(found.F, torch.func.hessian(loss_of)(flat))
    torch.testing.assert_close(found.g, torch.func.grad(loss_of)(flat))


def test_the_fisher_matrix_is_the_covariance_of_gradients_under_the_models_own_labels():
    model, _, x, _ = problem(n=6)
    expected = 0
    for one in x:
        p = model(one[None]).softmax(1)[0].detach()
        for label in range(3):
            loss = F.cross_entropy(model(one[None]), torch.tensor([label]))
            g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
            expected = expected + p[label] * torch.outer(g, g) / len(x)
    found = fisher(model, names_of(model), [Batch(x, torch.zeros(6, dtype=torch.long), 6)], F.cross_entropy)
    torch.testing.assert_close(found.F, expected)


def test_the_empirical_fisher_is_the_second_moment_of_gradients_and_reaches_one_whatever_was_learned():
    model, batches, x, y = problem(n=12)
    found = fisher(model, names_of(model), batches, F.cross_entropy, "empirical")
    expected = 0
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        expected = expected + torch.outer(g, g) / len(x)
    torch.testing.assert_close(found.F, expected)
    assert found.ceiling == pytest.approx(1)
    everything = torch.arange(len(found.g))
    assert natural_expansion_score(found.F, found.g, everything, everything[:0]).present == pytest.approx(1)


def test_ceilings_are_what_the_losses_make_of_them():
    model, batches, x, y = problem("squares")
    assert fisher(model, ["3.bias"], batches, F.mse_loss).ceiling == pytest.approx(
        2 * F.mse_loss(model(x), y).item()
    )  # squares can save all of the loss
    euclidean = fisher(model, ["3.bias"], batches, F.mse_loss, "euclidean")
    assert euclidean.ceiling == pytest.approx((2 / 3 * (model(x) - y)).square().sum(1).mean().item())
    model, batches, x, y = problem()
    p = model(x).softmax(1)[torch.arange(len(x)), y]
    assert fisher(model, ["3.bias"], batches, F.cross_entropy).ceiling == pytest.approx((1 / p - 1).mean().item())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", LOSSES)
def test_present_and_increase_add_up_to_the_total_which_is_below_the_ceiling(name, metric):
    model, batches, _, _ = problem(name, n=45)
    found = fisher(model, names_of(model), batches, LOSSES[name], metric)
    order = torch.randperm(len(found.g), generator=torch.Generator().manual_seed(0))
    for stop in (0, 4, 15, len(order)):
        score = natural_expansion_score(found.F, found.g, order[:stop], order[stop:])
        assert score.present + score.increase == pytest.approx(score.total, rel=1e-6)
        assert min(score.present, score.increase) >= 0
        assert score.total <= found.ceiling * (1 + 1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_where_outputs_are_fewer_than_parameters_the_score_is_the_ceiling_and_nothing_is_left_to_add(metric):
    model, batches, _, _ = problem("squares", n=6)
    found = fisher(model, names_of(model), batches, F.mse_loss, metric)
    half = torch.arange(len(found.g))
    score = natural_expansion_score(found.F, found.g, half[1:], half[:1])
    assert score.total == pytest.approx(found.ceiling)
    assert score.increase == pytest.approx(0, abs=1e-8 * score.total)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.0, 1e-3, 1.0]))
def test_scores_do_not_depend_on_units_and_copies_add_nothing(seed, present, new, damping):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(40, present + new, dtype=torch.float64, generator=generator)
    u = torch.randn(40, dtype=torch.float64, generator=generator)
    c, p = torch.arange(present), torch.arange(present, present + new)

    def score(J, damping=0.0):
        return natural_expansion_score(J.mT @ J, J.mT @ u, c, p, damping)

    base, damped = score(J), score(J, damping)
    scaled = score(J * 10 ** torch.linspace(-3, 3, present + new, dtype=torch.float64))
    assert scaled.increase == pytest.approx(base.increase, rel=1e-6, abs=1e-9)
    assert damped.present + damped.increase == pytest.approx(damped.total)
    assert damped.total <= base.total * (1 + 1e-9)
    J[:, p] = J[:, c[torch.randint(present, (new,), generator=generator)]] * 3
    assert score(J).increase == pytest.approx(0, abs=1e-9 * base.total)


def test_what_changes_no_output_is_worth_nothing_and_gets_no_step():
    F_, g = torch.diag(torch.tensor([2.0, 0.0, 0.0]).double()), torch.tensor([1.0, 0.0, 0.0]).double()
    score = natural_expansion_score(F_, g, torch.tensor([1]), torch.tensor([0]))
    assert (score.present, score.increase, score.total) == (0, pytest.approx(0.5), pytest.approx(0.5))
    torch.testing.assert_close(score.step, torch.tensor([-0.5, 0, 0]).double())
    nothing = natural_expansion_score(F_, g, torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
    assert (nothing.present, nothing.increase, nothing.total) == (0, 0, 0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_the_gain_of_the_natural_step_on_its_own_examples_is_half_the_score_and_others_gain_less(name, seed):
    model, batches, _, _ = problem(name, n=60, seed=seed)
    objective = OutputLoss(LOSSES[name])
    found = fisher(model, names_of(model), batches, LOSSES[name])
    everything = torch.arange(len(found.g))
    score = natural_expansion_score(found.F, found.g, everything[:-12], everything[-12:])
    random = -found.g + 0.1 * torch.randn(len(found.g)).double()
    judged = judge(model, [found.tangent(v) for v in (score.step, -found.g, random)], batches, objective)
    assert judged.alone(0).gain == pytest.approx(score.total / 2, rel=1e-6)
    assert judged.alone(0).step == pytest.approx(1, rel=1e-6)
    assert max(judged.alone(1).gain, judged.alone(2).gain) <= score.total / 2


@pytest.mark.parametrize("seed", range(3))
def test_what_a_step_adds_to_the_present_one_is_half_the_increase(seed):
    model, batches, _, _ = problem(n=60, seed=seed)
    found = fisher(model, names_of(model), batches, F.cross_entropy)
    c, p = found.layer("0").flatten(), found.layer("3").flatten()
    now, grown = (natural_expansion_score(found.F, found.g, i, j) for i, j in ((c, p[:0]), (c, p)))
    judged = judge(model, [found.tangent(now.step), found.tangent(grown.step)], batches, OutputLoss(F.cross_entropy))
    assert judged.alone(0).gain == pytest.approx(grown.present / 2, rel=1e-6)
    assert judged.beyond(1).gain == pytest.approx(grown.increase / 2, rel=1e-6)


def linear(bias, outputs=3):
    torch.manual_seed(0)
    return nn.Linear(4, outputs, bias=bias).double()


def dense_block(model, path, batches, loss):
    prefix = f"{path}." if path else ""
    names = [name for name in (f"{prefix}weight", f"{prefix}bias") if name in names_of(model)]
    found = fisher(model, names, batches, loss)
    index = found.layer(path)
    return found.F[index.flatten()][:, index.flatten()], found.g[index]


@pytest.mark.parametrize("bias", [True, False])
def test_kfac_is_exact_for_one_linear_layer_under_squares(bias):
    model, (_, batches, _, _) = nn.Sequential(linear(bias)), problem("squares")
    block, g = dense_block(model, "0", batches, F.mse_loss)
    found = exact_moments(model, ["0"], batches, F.mse_loss, 3)["0"]
    torch.testing.assert_close(kronecker(found.A, found.S), block, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.G, g, rtol=1e-10, atol=1e-10)


def test_kfac_is_exact_for_the_last_layer_under_squares():
    model, batches, _, _ = problem("squares")
    block, _ = dense_block(model, "3", batches, F.mse_loss)
    found = exact_moments(model, ["3"], batches, F.mse_loss, 3)["3"]
    torch.testing.assert_close(kronecker(found.A, found.S), block, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_kfac_is_exact_where_the_curvature_does_not_depend_on_what_is_read(name):
    """A last layer that still answers 0 has p = 1 / classes for all; a linear network passes on the same matrix."""
    model, batches, _, _ = problem(name)
    model = nn.Sequential(model[0], nn.Linear(3, 3)).double()
    if name == "cross entropy":
        nn.init.zeros_(model[1].weight)
    found = exact_moments(model, ["0", "1"], batches, LOSSES[name], 3)
    for path in ("0", "1"):
        block, g = dense_block(model, path, batches, LOSSES[name])
        torch.testing.assert_close(kronecker(found[path].A, found[path].S), block, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[path].G, g, rtol=1e-10, atol=1e-10)


def test_kfac_reduce_is_exact_and_expand_is_not_for_averaged_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    batches = [Batch(torch.randn(7, 2, 5, 4).double(), torch.randn(7, 3).double(), 7)]
    block, g = dense_block(model, "0", batches, F.mse_loss)
    reduced, expanded = (
        exact_moments(model, ["0"], batches, F.mse_loss, 3, convention=convention, positions={"0": 100})["0"]
        for convention in ("reduce", "expand")
    )
    torch.testing.assert_close(kronecker(reduced.A, reduced.S), block, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(reduced.G, g, rtol=1e-10, atol=1e-10)
    assert (kronecker(expanded.A, expanded.S) - block).norm() > 0.1 * block.norm()


def test_kfac_is_an_approximation_elsewhere():
    model, batches, _, _ = problem()
    block, _ = dense_block(model, "3", batches, F.cross_entropy)
    found = exact_moments(model, ["3"], batches, F.cross_entropy, 3)["3"]
    error = ((kronecker(found.A, found.S) - block).norm() / block.norm()).item()
    assert 1e-3 < error < 0.5


@pytest.mark.parametrize("bias", [True, False])
def test_the_score_of_new_features_from_moments_is_the_dense_one_where_kfac_is_exact(bias):
    model, (_, batches, _, _) = nn.Sequential(linear(bias)), problem("squares")
    found = exact_moments(model, ["0"], batches, F.mse_loss, 3)["0"]
    dense = fisher(model, names_of(model), batches, F.mse_loss)
    index = dense.layer("0")
    c, p = found.features_of(torch.tensor([0, 1]), bias=True), found.features_of(torch.tensor([2, 3]))
    scored = increase(found.A, found.S, found.G, c, p)
    expected = natural_expansion_score(dense.F, dense.g, index[:, c].flatten(), index[:, p].flatten())
    assert scored.score == pytest.approx(expected.increase, rel=1e-8)
    assert total(found.A, found.S, found.G) == pytest.approx(expected.total, rel=1e-8)
    step = torch.zeros_like(dense.g)
    step[index[:, p]], step[index[:, c]] = scored.new, scored.present
    gain = judge(model, [dense.tangent(step)], batches, OutputLoss(F.mse_loss))
    assert gain.alone(0).gain == pytest.approx(expected.increase / 2, rel=1e-8)


def test_outputs_of_any_nest_and_the_order_of_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 2)

        def forward(self, x):
            return {"logits": self.a(x), "count": len(x), "more": [self.b(x)]}

    def loss(out, y):
        return F.cross_entropy(out["logits"], y) + out["more"][0].square().mean()

    torch.manual_seed(0)
    model, x, y = Two().double(), torch.randn(8, 2).double(), torch.randint(3, (8,))
    before = copy.deepcopy(model.state_dict())
    names = ["b.weight", "a.bias", "a.weight"]
    found = fisher(model, names, [Batch({"x": x}, y, 8)], loss)
    grads = torch.autograd.grad(loss(model(x), y), [model.get_parameter(name) for name in names])
    torch.testing.assert_close(found.g, torch.cat([g.flatten() for g in grads]))
    assert torch.linalg.eigvalsh(found.F).min() > -1e-12
    tangent = found.tangent(found.g)
    assert all(torch.allclose(tangent[name], g) for name, g in zip(names, grads, strict=True))
    assert not found.F[:4][:, 4:].any()  # the heads share no weights and no term of the loss
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_cannot_be_is_refused():
    model, batches, _, _ = problem()
    with pytest.raises(InputError, match=r"expected parameters of Sequential, received '7\.weight'"):
        fisher(model, ["7.weight"], batches, F.cross_entropy)
    with pytest.raises(InputError, match="received none"):
        fisher(model, [], batches, F.cross_entropy)
    with pytest.raises(InputError, match="at least one example"):
        fisher(model, ["3.bias"], [], F.cross_entropy)
    with pytest.raises(InputError, match="expected one of gauss-newton, euclidean, empirical, received 'fisher'"):
        fisher(model, ["3.bias"], batches, F.cross_entropy, "fisher")
    with pytest.raises(InputError, match="expected tensors with 10 examples along dimension 0"):
        fisher(nn.Sequential(linear(True), nn.Flatten(0)), ["0.bias"], batches, lambda z, _: z.mean())
    one = torch.tensor([0])
    with pytest.raises(InputError, match="not among the present ones"):
        natural_expansion_score(torch.eye(2), torch.ones(2), one, one)
    for damping in (-1.0, math.nan):
        with pytest.raises(InputError, match="damping: expected a number of at least 0"):
            natural_expansion_score(torch.eye(2), torch.ones(2), one, 1 - one, damping)
