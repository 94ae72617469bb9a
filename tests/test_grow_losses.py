"""Draws with the Hessian as covariance for outputs of any size, and curvature for losses that are straight lines."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow import draws
from outgrow.grow.curvature import Outputs
from outgrow.grow.draws import MAX_DENSE_OUTPUTS, draw_root, lanczos_root
from outgrow.grow.gain import judge, mean_loss, realised
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch

MANY = MAX_DENSE_OUTPUTS + 22


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def classes(*shape):
    return torch.randint(MANY, shape, generator=seeded())


IGNORED = classes(3, 4).masked_fill(torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool(), -100)
WEIGHTS = torch.rand(MANY, dtype=torch.float64, generator=seeded())
SOFT = normal(3, MANY).softmax(1)


def distillation(z, target):
    return F.kl_div((z / 3).log_softmax(1), target, reduction="batchmean")


LOSSES = {
    "cross entropy": (F.cross_entropy, (3, MANY), classes(3)),
    "label smoothing": (lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1), (3, MANY), classes(3)),
    "class weights": (lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS), (3, MANY), classes(3)),
    "soft labels": (F.cross_entropy, (3, MANY), SOFT),
    "tokens, classes first": (F.cross_entropy, (3, MANY, 4), IGNORED),
    "tokens, classes last": (lambda z, y: F.cross_entropy(z.transpose(1, 2), y), (3, 4, MANY), IGNORED),
    "tokens are rows": (lambda z, y: F.cross_entropy(z, y.flatten()), (12, MANY), IGNORED),
    "distillation": (lambda z, y: F.kl_div(z.log_softmax(1), y, reduction="batchmean"), (3, MANY), SOFT),
    "distillation at a temperature": (distillation, (3, MANY), SOFT),
    "few classes at a temperature": (lambda z, y: F.cross_entropy(z / 2, y), (3, 2, MANY), classes(3, MANY) % 2),
    "squares": (F.mse_loss, (3, MANY), normal(3, MANY, seed=1)),
    "binary": (F.binary_cross_entropy_with_logits, (3, MANY), SOFT),
    "counts": (F.poisson_nll_loss, (3, 2, MANY), normal(3, 2, MANY, seed=1).square()),
    "L1": (F.l1_loss, (3, MANY), normal(3, MANY, seed=1)),
    "Huber": (F.huber_loss, (3, MANY), normal(3, MANY, seed=1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_draws_of_many_outputs_have_the_hessian_as_covariance(name, monkeypatch):
    monkeypatch.setattr(draws, "lanczos_root", None)  # no approximation
    loss, shape, target = LOSSES[name]
    outputs = Outputs(loss, normal(*shape, seed=2), target, 3)
    generator = seeded(3)
    drawn = torch.stack([outputs.draw(generator)[0] for _ in range(300)])
    for seed in range(4):
        a = normal(*shape, seed=10 + seed)
        (product,) = outputs.product([a])
        expected = (a * product).reshape(3, -1).sum(1)
        found = (drawn * a).reshape(300, 3, -1).sum(2).square()
        assert bool(((found.mean(0) - expected).abs() <= 4.5 * found.std(0) / 300**0.5 + 1e-12).all())


@pytest.mark.parametrize("name", LOSSES)
def test_single_precision_takes_the_same_form(name, monkeypatch):
    monkeypatch.setattr(draws, "lanczos_root", None)
    loss, shape, target = LOSSES[name]
    if name != "class weights":  # they have a type of their own
        single = target.float() if target.is_floating_point() else target
        outputs = Outputs(loss, normal(*shape, seed=2).float(), single, 3)
        double = Outputs(loss, outputs.values[0].double(), target, 3)
        assert outputs.draw(seeded())[0].dtype == torch.float32
        v = normal(*shape, seed=4).float()
        torch.testing.assert_close(
            outputs.product([v])[0].double(), double.product([v.double()])[0], rtol=1e-3, atol=1e-4
        )


def dense(size, eigenvalues, seed=0):
    """Symmetric matrices with given eigenvalues, one an example."""
    basis = torch.linalg.qr(normal(len(eigenvalues), size, size, seed=seed))[0]
    return basis @ (eigenvalues.unsqueeze(2) * basis.mT)


def test_lanczos_is_exact_with_as_many_steps_as_different_eigenvalues():
    values = torch.tensor([0.0, 0.1, 2.0, 30.0]).double()[torch.arange(40) % 4].expand(5, 40)
    H, noise = dense(40, values), normal(5, 40, seed=1)
    found = lanczos_root(lambda v: (H @ v.unsqueeze(2)).squeeze(2), noise, steps=6)
    eigenvalues, vectors = torch.linalg.eigh(H)
    root = vectors @ (eigenvalues.clamp_min(0).sqrt().unsqueeze(2) * vectors.mT)
    torch.testing.assert_close(found, (root @ noise.unsqueeze(2)).squeeze(2), rtol=1e-6, atol=1e-6)


def test_what_has_no_known_form_is_drawn_by_lanczos_within_a_tenth():
    H = dense(MANY, torch.linspace(0, 3, MANY).double().expand(2, MANY).square())
    z, a = torch.zeros(2, MANY, dtype=torch.float64), normal(6, 2, MANY)
    generator = seeded(5)
    drawn = torch.stack(
        [draw_root(lambda v: (H @ v.unsqueeze(2)).squeeze(2), z, generator) for _ in range(250)]
    )  # [draws, 2, outputs]
    found = torch.einsum("dno,ano->dan", drawn, a).square()
    expected = torch.einsum("ano,nop,anp->an", a, H, a)
    assert bool(((found.mean(0) - expected).abs() <= 4.5 * found.std(0) / 250**0.5 + 0.1 * expected).all())


def test_memory_bounds_the_steps_of_lanczos(monkeypatch):
    monkeypatch.setattr(draws, "LANCZOS_NUMBERS", 0)
    products = []

    def product(v):
        products.append(v)
        return v * torch.arange(1.0, 51.0)

    assert lanczos_root(product, torch.randn(3, 50)).isfinite().all()
    assert len(products) == 2


def test_what_has_diverged_gives_finite_draws():
    for outputs in (5, MANY):
        z = torch.full((3, outputs), torch.nan)
        drawn = Outputs(F.cross_entropy, z, torch.tensor([0, 1, 2]), 3).draw(seeded())[0]
        assert drawn.isfinite().all()


def test_leaves_that_the_loss_ties_together_are_drawn_together():
    z, y = (normal(4, 2), normal(4, 3, seed=1)), normal(4, seed=2)

    def loss(z, y):
        return (z[0].sum(1) * 2 + z[1].sum(1) - y).square().mean() / 2

    outputs = Outputs(loss, z, y, 4)
    drawn = torch.cat(outputs.draw(seeded()), 1)
    v = torch.tensor([2.0, 2, 1, 1, 1]).double()
    torch.testing.assert_close(drawn, drawn[:, 2:3] * v)  # of rank one
    many = torch.stack([outputs.draw(generator)[1][:, 0] for generator in [seeded(7)] for _ in range(400)])
    assert many.square().mean() == pytest.approx(1, rel=0.15)


STRAIGHT = {
    "L1": F.l1_loss,
    "Huber": lambda z, y: F.huber_loss(z, y, delta=0.3),
    "smooth L1": lambda z, y: F.smooth_l1_loss(z, y, beta=0.5),
    "squeezed": lambda z, y: F.l1_loss(z.squeeze(1), y.squeeze(1)),
}


def regression(n=400, seed=0):
    """A linear model, a direction in its weights, and heavy-tailed targets none of which is met."""
    torch.manual_seed(seed)
    model, x = nn.Linear(5, 1).double(), normal(n, 5, seed=seed)
    away = normal(n, 1, seed=seed + 1).exp() + 0.3
    residual = away * torch.where(normal(n, 1, seed=seed + 2) > 0.4, 1.0, -1.0)
    return model, Batch(x, model(x).detach() + residual, n)


@pytest.mark.parametrize("name", STRAIGHT)
@pytest.mark.parametrize("seed", range(5))
def test_where_the_loss_is_a_straight_line_no_step_saves_less_than_its_parabola_says(name, seed, monkeypatch):
    monkeypatch.setattr("outgrow.grow.robust.FLOOR", 0.0)
    objective = OutputLoss(STRAIGHT[name])
    model, batch = regression(seed=seed)
    gradient = torch.autograd.grad(STRAIGHT[name](model(batch.inputs), batch.target), list(model.parameters()))
    for direction in (gradient, [torch.randn_like(g) for g in gradient]):
        tangent = {"weight": -direction[0], "bias": -direction[1]}
        judged, before = judge(model, [tangent], [batch], objective), mean_loss(model, [batch], objective)
        slope, curvature = float(judged.slopes.mean()), float(judged.own.mean())
        assert curvature > 0
        for step in (s * slope / curvature for s in (0.1, 0.5, 1.0, 2.0, -1.0)):
            drop = realised(model, tangent, step, [batch], objective, before)
            assert drop >= slope * step - curvature * step**2 / 2 - 1e-12


@pytest.mark.parametrize("name", STRAIGHT)
def test_gains_of_straight_lines_are_realised_once_to_twice(name):
    objective = OutputLoss(STRAIGHT[name])
    model, batch = regression(4000)
    gradient = torch.autograd.grad(STRAIGHT[name](model(batch.inputs), batch.target), list(model.parameters()))
    tangent = {"weight": -gradient[0], "bias": -gradient[1]}
    gain = judge(model, [tangent], [batch], objective).alone(0)
    drop = realised(model, tangent, gain.step, [batch], objective, mean_loss(model, [batch], objective))
    assert gain.gain > 3 * gain.se > 0
    assert gain.gain <= drop <= 2.2 * gain.gain


def test_the_weight_of_a_straight_line_is_slope_over_residual_and_squares_keep_theirs():
    z, y = torch.tensor([[1.0], [4.0], [0.01]]), torch.zeros(3, 1)
    (product,) = Outputs(lambda z, y: F.huber_loss(z, y, delta=0.5), z, y, 3).product([torch.ones(3, 1)])
    torch.testing.assert_close(product, torch.tensor([[0.5], [0.125], [1.0]]))


def test_a_residual_near_zero_has_a_bounded_weight():
    z, y = torch.tensor([[2.0], [1e-9], [4.0]]), torch.zeros(3, 1)
    (product,) = Outputs(F.l1_loss, z, y, 3).product([torch.ones(3, 1)])
    torch.testing.assert_close(product, torch.tensor([[0.5], [1 / (0.05 * 2)], [0.25]]))


@pytest.mark.parametrize("loss", [lambda z, y: (z * y).mean(), lambda z, y: z.mean(), lambda z, y: -z.mean()])
def test_straight_lines_that_do_not_lead_away_from_the_target_have_no_curvature(loss):
    z, y = normal(6, 3), normal(6, 3, seed=1)
    assert not Outputs(loss, z, y, 6).product([z])[0].any()


def test_targets_of_another_shape_leave_straight_lines_straight():
    z = normal(6, 3)
    assert not Outputs(lambda z, y: (z[:, 0] - y).abs().mean(), z, normal(6, seed=1), 6).product([z])[0].any()
