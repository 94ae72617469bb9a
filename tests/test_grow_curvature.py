"""Derivatives of losses at the outputs, against dense Hessians."""

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import InputError
from outgrow.grow.curvature import MAX_DENSE_OUTPUTS, Outputs


def gradient(loss, z, target):
    return Outputs(loss, z, target, len(z)).gradient()[0]


def hessian_product(loss, z, target, direction):
    return Outputs(loss, z, target, len(z)).product([direction])[0]


def fisher_noise(loss, z, target, generator):
    return Outputs(loss, z, target, len(z)).draw(generator)[0]


CLASSES = torch.tensor([0, 2, 1, -100, 2])
TOKENS = torch.tensor([[0, 1], [2, 2], [1, -100], [0, 0], [2, 1]])
WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


def tokens(z, target):
    return F.cross_entropy(z.transpose(1, 2), target)


LOSSES = {
    "cross entropy": (F.cross_entropy, (3,), CLASSES.clamp_min(0)),
    "label smoothing": (lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2), (3,), CLASSES.clamp_min(0)),
    "ignored": (F.cross_entropy, (3,), CLASSES),
    "class weights": (lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS), (3,), CLASSES),
    "tokens": (tokens, (2, 3), TOKENS),
    "squares": (F.mse_loss, (2,), torch.ones(5, 2, dtype=torch.float64)),
    "squares, one output": (F.mse_loss, (), torch.ones(5, dtype=torch.float64)),
    "binary": (F.binary_cross_entropy_with_logits, (1,), torch.ones(5, 1, dtype=torch.float64)),
    "binary, squeezed": (F.binary_cross_entropy_with_logits, (), torch.ones(5, dtype=torch.float64)),
    "counts": (F.poisson_nll_loss, (2,), torch.ones(5, 2, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_product_equal_the_dense_ones(name):
    loss, shape, target = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 5, *shape, dtype=torch.float64, generator=generator)
    dense = torch.func.hessian(lambda z: loss(z, target))(z).reshape(z.numel(), z.numel())
    torch.testing.assert_close(gradient(loss, z, target), 5 * torch.func.grad(lambda z: loss(z, target))(z))
    torch.testing.assert_close(hessian_product(loss, z, target, v).flatten(), 5 * dense @ v.flatten())


@pytest.mark.parametrize("name", LOSSES)
def test_fisher_noise_has_the_hessian_as_covariance(name):
    loss, shape, target = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, *shape, dtype=torch.float64, generator=generator)
    draws = torch.stack([fisher_noise(loss, z, target, generator) for _ in range(1500)]).flatten(2 if shape else 1)
    draws = draws.reshape(1500, 5, -1)
    outputs = draws.shape[2]
    hessian = 5 * torch.func.hessian(lambda z: loss(z, target))(z).reshape(5, outputs, 5, outputs)
    for i in range(5):
        products = torch.einsum("ri,rj->rij", draws[:, i], draws[:, i])
        error = products.std(0) / 1500**0.5
        assert bool(((products.mean(0) - hessian[i, :, i]).abs() <= 4.5 * error + 1e-12).all())


def test_many_outputs_take_the_gradient_itself():
    z = torch.randn(3, MAX_DENSE_OUTPUTS + 1)
    target = torch.tensor([0, 1, 2])
    noise = fisher_noise(F.cross_entropy, z, target, torch.Generator())
    assert torch.equal(noise, gradient(F.cross_entropy, z, target))


def test_a_linear_loss_has_no_curvature():
    z, target = torch.randn(4, 2), torch.zeros(4, 2)
    assert not hessian_product(lambda z, _: z.mean(), z, target, z).any()
    assert not hessian_product(F.l1_loss, z, target, z).any()


def test_gradients_are_there_under_no_grad():
    z, target = torch.randn(4, 2), torch.zeros(4, 2)
    with torch.no_grad():
        torch.testing.assert_close(gradient(F.mse_loss, z, target), z)


def test_what_is_no_tensor_or_no_mean_is_named():
    with pytest.raises(InputError, match="the loss reads no floating-point tensor of the model's output, a dict"):
        Outputs(lambda z, _: torch.zeros(()), {"logits": torch.zeros(1)}, None, 1)
    with pytest.raises(InputError, match=r"one number, received shape \[4\]"):
        gradient(lambda z, y: (z - y).square().sum(1), torch.zeros(4, 2), torch.zeros(4, 2))
