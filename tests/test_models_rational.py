"""Modules that start as the identity: the rational activation, the residual connection, identity layers."""

import pytest
import torch
from torch import nn

from outgrow.models.rational import Rational
from outgrow.models.residual import Residual, identity_layer, residual_layer


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rational_starts_as_the_identity(dtype):
    x = (noise(3, 5) * 300).to(dtype)
    assert torch.equal(Rational().to(dtype)(x), x)


def test_rational_is_the_published_formula():
    x = noise(100).double()
    sigma = Rational(0.3, -0.7, 1.9).double()
    a, b, c = (value.double() for value in (sigma.a, sigma.b, sigma.c))
    assert torch.allclose(sigma(x), a * x + (b + c * x) / (1 + x**2))
    assert repr(sigma) == "Rational(a=0.3, b=-0.7, c=1.9)"


def test_rational_learns_all_three_and_hands_gradients_on():
    x = noise(7).double().requires_grad_()
    sigma = Rational(0.9, 0.1, 0.2).double()
    assert torch.autograd.gradcheck(sigma, x)
    Rational()(noise(4))  # the identity
    fresh = Rational()
    fresh(noise(4)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.item() for parameter in fresh.parameters())


@pytest.mark.parametrize("kernel", [(), (1,), (5,), (3, 3), (1, 7), (3, 1, 5)])
def test_an_identity_layer_hands_its_input_on(kernel):
    x = noise(2, 4, *(9 for _ in kernel))
    layer = identity_layer(4, kernel)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.weight.grad.count_nonzero() == layer.weight.numel()  # every weight learns at once


NORMS = [((), nn.BatchNorm1d), ((3,), nn.BatchNorm1d), ((3, 3), nn.BatchNorm2d), ((1, 1, 1), nn.BatchNorm3d)]


@pytest.mark.parametrize(("kernel", "norm"), NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_a_residual_layer_hands_its_input_on_and_has_the_norms_options(kernel, norm, training):
    x = noise(6, 4, *(5 for _ in kernel))
    layer = residual_layer(4, kernel, norm(7, eps=0.01, momentum=0.3)).train(training)
    assert torch.equal(layer(x), x)
    made = layer.body[1]
    assert (type(made), made.eps, made.momentum, made.num_features) == (norm, 0.01, 0.3, 4)


def test_residual_adds():
    assert torch.equal(Residual(nn.ReLU())(torch.tensor([-1.0, 2.0])), torch.tensor([-1.0, 4.0]))
