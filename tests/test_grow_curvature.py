"""Derivatives of losses at the outputs, against dense Hessians."""

import pytest
import torch
import torch.nn.functional as F

from outgrow.errors import InputError
from outgrow.grow.curvature import Outputs


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
    "binary, soft labels": (F.binary_cross_entropy_with_logits, (2,), torch.rand(5, 2, dtype=torch.float64)),
    "soft labels": (F.cross_entropy, (3,), torch.rand(5, 3, dtype=torch.float64).softmax(1)),
    "distillation": (
        lambda z, y: F.kl_div((z / 2).log_softmax(1), y, reduction="batchmean"),
        (3,),
        torch.rand(5, 3).double().softmax(1),
    ),
    "every output with every other": (lambda z, y: z.logsumexp((1, 2)).square().mean(), (2, 3), None),
    "cosh": (lambda z, y: (z - y).cosh().mean(), (2, 3), torch.ones(5, 2, 3, dtype=torch.float64)),
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
    draws = torch.stack([fisher_noise(loss, z, target, generator) for _ in range(1000)]).flatten(2 if shape else 1)
    draws = draws.reshape(1000, 5, -1)
    outputs = draws.shape[2]
    hessian = 5 * torch.func.hessian(lambda z: loss(z, target))(z).reshape(5, outputs, 5, outputs)
    for i in range(5):
        products = torch.einsum("ri,rj->rij", draws[:, i], draws[:, i])
        error = products.std(0) / 1000**0.5
        assert bool(((products.mean(0) - hessian[i, :, i]).abs() <= 4.5 * error + 1e-12).all())


def test_a_linear_loss_has_no_curvature():
    z, target = torch.randn(4, 2), torch.zeros(4, 2)
    assert not hessian_product(lambda z, _: z.mean(), z, target, z).any()


def test_gradients_are_there_under_no_grad():
    z, target = torch.randn(4, 2), torch.zeros(4, 2)
    with torch.no_grad():
        torch.testing.assert_close(gradient(F.mse_loss, z, target), z)


def test_what_is_no_tensor_or_no_mean_is_named():
    with pytest.raises(InputError, match="the loss reads no floating-point tensor of the model's output, a dict"):
        Outputs(lambda z, _: torch.zeros(()), {"logits": torch.zeros(1)}, None, 1)
    with pytest.raises(InputError, match=r"one number, received shape \[4\]"):
        gradient(lambda z, y: (z - y).square().sum(1), torch.zeros(4, 2), torch.zeros(4, 2))


def test_outputs_without_the_examples_along_dimension_0_and_losses_without_curvature_are_named():
    x = torch.randn(4, 2)
    with pytest.raises(
        InputError, match=r"the 4 examples along dimension 0, received shape \[\]; .* step\(model, batch\)"
    ):
        Outputs(lambda z, _: z["loss"], {"loss": x.square().mean(), "logits": x}, None, 4)
    with pytest.raises(InputError, match=r"along dimension 0, received shape \[3, 2\]"):
        Outputs(lambda z, _: z.mean(), x[:3], None, 4)
    with pytest.raises(InputError, match="one number, received shape float"):
        Outputs(lambda z, _: 0.5, x, None, 4)


class FusedCrossEntropy(torch.autograd.Function):
    """Computes its gradient in the forward pass, as fused losses do; autograd takes it for a constant."""

    @staticmethod
    def forward(ctx, z, y):
        p = z.softmax(1)
        ctx.save_for_backward((p - F.one_hot(y, z.shape[1])) / len(z))
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, u):
        return ctx.saved_tensors[0] * u, None


def test_the_curvature_of_operations_without_second_derivatives_comes_from_differences():
    z, y = torch.randn(5, 3).double(), CLASSES.clamp_min(0)
    v = torch.randn(5, 3).double()
    product = hessian_product(F.cross_entropy, z, y, v)
    torch.testing.assert_close(hessian_product(FusedCrossEntropy.apply, z, y, v), product, rtol=1e-6, atol=1e-8)
    single = hessian_product(FusedCrossEntropy.apply, z.float(), y, v.float())
    torch.testing.assert_close(single.double(), product, rtol=1e-2, atol=1e-3)


def test_connectionist_temporal_classification_has_curvature():
    z = torch.randn(4, 5, 3).double()

    def ctc(z, y):
        lengths = torch.full((4,), 5), torch.full((4,), 2)
        return F.ctc_loss(z.log_softmax(2).transpose(0, 1), y, *lengths)

    target, v = torch.tensor([[1, 2]] * 4), torch.randn(4, 5, 3).double()
    h = 1e-4
    high, middle, low = (float(ctc(z + t * v, target)) for t in (h, 0, -h))
    product = hessian_product(ctc, z, target, v)
    assert float((product * v).sum()) / 4 == pytest.approx((high - 2 * middle + low) / h**2, rel=1e-4)
    assert fisher_noise(ctc, z, target, torch.Generator().manual_seed(0)).isfinite().all()
