"""K-FAC moments against those of curvlinops, where it is installed.

curvlinops puts the number of positions into the other factor than `moments` does, so what is compared is the block that
they stand for, A (x) S, and each factor up to its scale. "Type-2" is the exact Hessian at the outputs.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exact_moments import exact_moments
from outgrow.grow.moments import take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reference import kronecker
from outgrow.grow.sample import Batch

curvlinops = pytest.importorskip("curvlinops")

ALL = 10**6  # positions: none is left out


class Tokens(nn.Module):
    """Linear layers over tokens, whose positions are mixed by attention between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x):
        x = self.first(x).tanh()
        x = x + (x @ x.mT).softmax(-1) @ x
        return self.head(self.second(x).tanh().mean(1))


class Tagger(nn.Module):
    """Answers for each token by itself [examples, classes, tokens], with a loss for each."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.first(x).tanh()).mT


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 2, dilation=2, bias=False),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def mlp(bias=True):
    return nn.Sequential(
        nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4, bias=bias), nn.ReLU(), nn.Linear(4, 3, bias=bias)
    )


MODELS = {  # the model, the shape of an example, its outputs
    "mlp": (mlp, (6,), 3),
    "mlp without bias": (lambda: mlp(False), (6,), 3),
    "convnet": (convnet, (2, 9, 8), 3),
    "tokens": (Tokens, (5, 3), 2),
}

LOSSES = {"cross entropy": nn.CrossEntropyLoss(), "squares": nn.MSELoss()}


def problem(kind, loss, dtype=torch.float64):
    torch.manual_seed(0)
    build, shape, outputs = MODELS[kind]
    model = build().to(dtype)
    x = torch.randn(13, *shape, dtype=dtype)
    model(x)  # statistics of its norms
    y = torch.randint(outputs, (13,)) if loss == "cross entropy" else torch.randn(13, outputs, dtype=dtype)
    return model.eval(), [(x[i:j], y[i:j]) for i, j in ((0, 4), (4, 5), (5, 13))], outputs


def layers_of(model):
    return [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def oracle(model, path, data, loss, convention):
    """The dense K-FAC block of one layer, in the order of weight rows with the bias at the end of each."""
    module = model.get_submodule(path)
    params = list(module.parameters())
    operator = curvlinops.KFACLinearOperator(
        model,
        LOSSES[loss],
        params,
        data,
        fisher_type="type-2",
        kfac_approx=convention,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    block = operator @ torch.eye(operator.shape[0], dtype=params[0].dtype)
    parts = torch.arange(len(block)).split([p.numel() for p in params])
    order = torch.cat([part.view(len(module.weight), -1) for part in parts], 1).flatten()
    return block[order][:, order].double()


def ours(model, data, loss, outputs, convention):
    batches = [Batch(x, y, len(x)) for x, y in data]
    options = {"convention": convention, "positions": dict.fromkeys(layers_of(model), ALL)}
    return exact_moments(model, layers_of(model), batches, LOSSES[loss], outputs, **options)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", MODELS)
def test_moments_equal_those_of_curvlinops(kind, loss, convention):
    model, data, outputs = problem(kind, loss)
    found = ours(model, data, loss, outputs, convention)
    assert list(found) == layers_of(model)
    for path, moments in found.items():
        expected = oracle(model, path, data, loss, convention)
        error = (kronecker(moments.A, moments.S) - expected).norm() / expected.norm()
        assert error.item() < 1e-10


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", MODELS)
def test_in_single_precision_they_agree_to_its_digits(kind, convention):
    model, data, outputs = problem(kind, "cross entropy", torch.float32)
    for path, moments in ours(model, data, "cross entropy", outputs, convention).items():
        expected = oracle(model, path, data, "cross entropy", convention)
        error = (kronecker(moments.A, moments.S) - expected).norm() / expected.norm()
        assert error.item() < 1e-5


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", MODELS)
def test_each_factor_is_that_of_curvlinops_up_to_its_scale(kind, convention):
    """The partial traces of A (x) S are S tr A and A tr S."""
    model, data, outputs = problem(kind, "cross entropy")
    for path, moments in ours(model, data, "cross entropy", outputs, convention).items():
        sizes = len(moments.S), len(moments.A)
        block = oracle(model, path, data, "cross entropy", convention).reshape(*sizes, *sizes)
        for factor, part in ((moments.S, "ofpf->op"), (moments.A, "ofog->fg")):
            expected = torch.einsum(part, block)
            torch.testing.assert_close(factor / factor.trace(), expected / expected.trace(), rtol=1e-10, atol=1e-10)


def test_where_each_token_has_a_loss_of_its_own_expand_equals_that_of_curvlinops():
    torch.manual_seed(0)
    model, x, y = Tagger().double(), torch.randn(6, 5, 3).double(), torch.randint(2, (6, 5))
    data = [(x[:2], y[:2]), (x[2:], y[2:])]
    for path, moments in ours(model, data, "cross entropy", 10, "expand").items():
        expected = oracle(model, path, data, "cross entropy", "expand")
        torch.testing.assert_close(kronecker(moments.A, moments.S), expected, rtol=1e-10, atol=1e-10)


def test_the_mean_over_draws_tends_to_the_oracle():
    model, data, _ = problem("mlp", "cross entropy")
    batches, generator = [Batch(x, y, len(x)) for x, y in data], torch.Generator().manual_seed(0)
    draws = [take_moments(model, ["2"], batches, OutputLoss(F.cross_entropy), generator)["2"] for _ in range(300)]
    S = torch.stack([one.S for one in draws])
    exact = exact_moments(model, ["2"], batches, F.cross_entropy, 3)["2"]
    expected = oracle(model, "2", data, "cross entropy", "expand")
    torch.testing.assert_close(kronecker(exact.A, exact.S), expected, rtol=1e-10, atol=1e-10)
    assert bool(((S.mean(0) - exact.S).abs() <= 4.5 * S.std(0) / 300**0.5 + 1e-12).all())
