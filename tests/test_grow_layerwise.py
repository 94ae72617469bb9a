"""Directions judged layer by layer, against forward-mode products of the same directions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow.layerwise import can_split, expand_by_layers
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch

CE = OutputLoss(F.cross_entropy)


class Twice(nn.Module):
    """A layer that is called twice, at positions of its own, and another one beside it."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.twice(self.first(x).tanh()).tanh()
        return self.head(self.twice(h.mean(1)).tanh() + h.mean(1))


class Flat(nn.Module):
    """Tokens [examples * tokens, features], those of an example one after the other."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x.flatten(0, 1)).tanh()
        return self.head(h).unflatten(0, x.shape[:2]).mean(1)


class Words(Flat):
    """An answer for every token, [examples * tokens, classes]."""

    def forward(self, x):
        return self.head(self.first(x.flatten(0, 1)).tanh())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.up, self.head = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        return self.head(F.gelu(self.up(F.layer_norm(x, (4,))))).mean(1)


class Tied(nn.Module):
    """Two layers with one weight, or a weight that is read without calling its layer."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.embed, self.first, self.second = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if how == "layers":
            self.second.weight = self.first.weight
        if how == "embedding":
            self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.second(self.first(self.embed(x)).tanh()).tanh()
        if self.how == "also by itself":
            h = F.linear(h, self.first.weight)
        if self.how == "only by itself":
            return F.linear(h, self.head.weight).mean(1)
        return self.head(h).mean(1)


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.GELU(),
        nn.Conv2d(6, 6, (3, 2), dilation=(1, 2), groups=6, padding_mode="circular", padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def mlp():
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    )


def waves():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2), nn.Tanh(), nn.Conv1d(4, 3, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


NETS = {
    "mlp": (mlp, (4,)),
    "convnet": (convnet, (2, 6, 6)),
    "one-dimensional": (waves, (2, 9)),
    "attention": (Attention, (3, 4)),
    "called twice": (Twice, (3, 4)),
    "flattened tokens": (Flat, (3, 4)),
    "flattened answers": (Words, (3, 4)),
    "answers for pairs": (Words, (2, 4)),
}


def problem(name, n=12, dtype=torch.float64):
    build, shape = NETS[name]
    torch.manual_seed(0)
    model = build().to(dtype).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(n, *shape, dtype=dtype)
    return model, Batch(x, torch.randint(3, (len(model(x)),)), n)


def directions_of(model, seed=1):
    """One of all layers, and one of each layer, the last without its bias."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(names):
        return {
            n: torch.randn(model.get_parameter(n).shape, generator=generator).to(model.get_parameter(n)) for n in names
        }

    layers = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    every = {path: [f"{path}.{n}" for n, _ in model.get_submodule(path).named_parameters()] for path in layers}
    each = [drawn(names) for names in every.values()]
    each[-1].pop(f"{layers[-1]}.bias", None)
    return [drawn([name for names in every.values() for name in names]), *each]


def by_layers(model, directions, batch, objective=CE, seed=0, draws=2):
    return expand_by_layers(model, directions, batch, objective, torch.Generator().manual_seed(seed), draws)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_slopes_of_every_example_are_those_of_forward_mode(name, dtype, tolerance):
    model, batch = problem(name, dtype=dtype)
    directions = directions_of(model)
    assert can_split(model, directions)
    found, exact = by_layers(model, directions, batch), CE.expand(model, directions, batch)
    scale = exact.slopes.abs().amax(0)
    assert bool((scale > 0).all())
    assert float(((found.slopes - exact.slopes) / scale).abs().max()) < tolerance


LOSSES = {
    "cross entropy": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "squares": lambda z, y: F.mse_loss(z, F.one_hot(y, 3).to(z)),
    "two classes": lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], (y > 0).to(z)),
    "any": lambda z, y: (z.exp().sum(1) - z[:, 0]).mean(),
}
DRAWN = [*((name, "cross entropy") for name in NETS), *(("mlp", loss) for loss in LOSSES if loss != "cross entropy")]


@pytest.mark.parametrize(("name", "loss"), DRAWN)
def test_curvatures_are_those_of_forward_mode_in_the_mean(name, loss):
    model, batch = problem(name, n=6)
    objective, directions = OutputLoss(LOSSES[loss]), directions_of(model)[:4]
    generator = torch.Generator().manual_seed(0)
    found = [expand_by_layers(model, directions, batch, objective, generator, draws=1) for _ in range(300)]
    exact = objective.expand(model, directions, batch)
    for key in ("own", "first", "matrix"):
        drawn = torch.stack([getattr(one, key) for one in found])
        error = (drawn.mean(0) - getattr(exact, key)).abs()
        assert bool((error <= 4 * drawn.std(0) / len(found) ** 0.5 + 1e-12).all()), key


@pytest.mark.parametrize("name", NETS)
def test_all_curvatures_come_from_the_same_draws(name):
    model, batch = problem(name)
    found = by_layers(model, directions_of(model), batch)
    torch.testing.assert_close(found.own.mean(0), found.matrix.diagonal())
    torch.testing.assert_close(found.first.mean(0), found.matrix[0])
    torch.testing.assert_close(found.first[:, 0], found.own[:, 0])
    assert bool((torch.linalg.eigvalsh(found.matrix) > -1e-12).all())


def test_more_draws_know_the_curvature_of_a_mean_as_well_as_is_said():
    model, batch = problem("mlp", n=200)
    (direction, *_), draws = directions_of(model), 2
    found = torch.stack([by_layers(model, [direction], batch, seed=seed).own.mean() for seed in range(200)])
    exact = CE.expand(model, [direction], batch).own
    uneven = float(exact.square().mean() / exact.mean() ** 2)  # some examples carry more of the curvature than others
    assert float(found.std() / exact.mean()) == pytest.approx((2 * uneven / (len(exact) * draws)) ** 0.5, rel=0.2)


def images_then_views(x, layer):
    """Two views of every example in one batch, all first views first."""
    first, second = layer(torch.cat([x, 2 * x])).tanh().chunk(2)
    return first * second


class Between(nn.Module):
    """A layer that is called by any function, and a head."""

    def __init__(self, how):
        super().__init__()
        self.layer, self.head, self._how = nn.Linear(4, 5), nn.Linear(5, 3), how

    def forward(self, x):
        h = self._how(x, self.layer)
        return self.head(h.flatten(1, -2).mean(1) if h.ndim > 2 else h)


UNUSUAL = {
    "sequence first": (lambda x, layer: layer(x.transpose(0, 1)).tanh().transpose(0, 1), (3, 4)),
    "sequence first, as many tokens as examples": (
        lambda x, layer: layer(x.transpose(0, 1)).tanh().transpose(0, 1),
        (12, 4),
    ),
    "sequence first, flattened": (
        lambda x, layer: layer(x.transpose(0, 1).flatten(0, 1)).tanh().unflatten(0, (3, len(x))).transpose(0, 1),
        (3, 4),
    ),
    "two views in a batch": (images_then_views, (4,)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_rows_that_are_no_examples_are_found_out(name):
    how, shape = UNUSUAL[name]
    torch.manual_seed(0)
    model, n = Between(how).double(), 12
    batch = Batch(torch.randn(n, *shape).double(), torch.randint(3, (n,)), n)
    directions = [{"layer.weight": torch.randn(5, 4).double()}]
    found = by_layers(model, directions, batch)
    if found is not None:
        exact = CE.expand(model, directions, batch)
        torch.testing.assert_close(found.slopes, exact.slopes, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("how", ["embedding", "also by itself", "only by itself", "layers"])
@pytest.mark.parametrize("moved", [["first"], ["head"], ["first", "second"], ["first", "head"]])
def test_weights_that_are_also_used_elsewhere_are_left_to_forward_mode(how, moved):
    torch.manual_seed(0)
    model = Tied(how).double()
    batch = Batch(torch.randint(7, (12, 3)), torch.randint(7, (12,)), 12)
    shapes = {path: model.get_submodule(path).weight.shape for path in moved}
    values = {shape: torch.randn(shape).double() for shape in shapes.values()}
    directions = [{f"{path}.weight": values[shape] for path, shape in shapes.items()}]
    assert can_split(model, directions)
    found = by_layers(model, directions, batch)
    elsewhere = {
        "embedding": {"head"},
        "also by itself": {"first"},
        "only by itself": {"head"},
        "layers": {"first", "second"},
    }[how]
    if how == "layers" and moved == ["first", "second"]:
        return  # all calls of the weight are seen; forward mode takes one name only
    if elsewhere & set(moved):
        assert found is None
    else:
        exact = CE.expand(model, directions, batch)
        torch.testing.assert_close(found.slopes, exact.slopes, rtol=1e-5, atol=1e-7)


def test_of_wide_layers_no_use_of_a_weight_is_overlooked():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(512, 512, bias=False), nn.Linear(512, 10)

        def forward(self, x):
            return self.head(F.linear(self.layer(x).tanh(), self.layer.weight).tanh())

    torch.manual_seed(0)
    model, batch = Both(), Batch(torch.randn(16, 512), torch.randint(10, (16,)), 16)
    for _ in range(10):
        assert by_layers(model, [{"layer.weight": torch.randn(512, 512)}], batch) is None


def test_a_layer_with_two_names_is_judged_under_each():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model = nn.Sequential(model[0], model[1], model[0], model[1], model[2])
    batch = Batch(torch.randn(12, 4).double(), torch.randint(3, (12,)), 12)
    value = torch.randn(4, 4).double()
    for name in ("0.weight", "2.weight"):
        found = by_layers(model, [{name: value}], batch)
        if found is not None:
            torch.testing.assert_close(
                found.slopes, CE.expand(model, [{name: value}], batch).slopes, rtol=1e-5, atol=1e-7
            )


def test_directions_of_anything_but_layers_can_not_be_split():
    model = nn.ModuleDict(
        {"a": nn.Linear(2, 2), "n": nn.LayerNorm(2), "t": nn.ConvTranspose1d(2, 2, 1), "e": nn.Embedding(2, 2)}
    )
    model.scale = nn.Parameter(torch.ones(2))
    assert can_split(model, [])
    assert can_split(model, [{"a.weight": torch.ones(2, 2)}, {"a.bias": torch.ones(2)}])
    for name in ("n.weight", "t.weight", "e.weight", "scale"):
        assert not can_split(model, [{"a.weight": torch.ones(2, 2)}, {"a.bias": torch.ones(2), name: torch.ones(2)}])


@pytest.mark.parametrize(
    "frozen", [("0.weight",), ("2.weight", "4.bias"), ("0.weight", "0.bias", "2.weight", "4.weight", "4.bias")]
)
def test_frozen_weights_are_judged_like_others(frozen):
    model, batch = problem("mlp")
    directions = directions_of(model)
    free = by_layers(model, directions, batch)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    found = by_layers(model, directions, batch)
    for key in ("slopes", "own", "first", "matrix"):
        assert torch.equal(getattr(found, key), getattr(free, key))
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == set(frozen)


def state_of(model):
    return (
        copy.deepcopy(model.state_dict()),
        {name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()},
        [module.training for module in model.modules()],
        [
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in model.modules()
        ],
        torch.get_rng_state(),
    )


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    return True


def raising(z, y):
    raise RuntimeError("no loss")


@pytest.mark.parametrize("loss", [F.cross_entropy, raising], ids=["works", "raises"])
@pytest.mark.parametrize("name", ["mlp", "convnet", "attention"])
def test_the_model_is_left_as_it_was(name, loss):
    model, batch = problem(name)
    directions = directions_of(model)
    F.cross_entropy(model(batch.inputs), batch.target).backward()
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    try:
        by_layers(model, directions, batch, OutputLoss(loss))
        worked = True
    except RuntimeError:
        worked = False
    assert worked == (loss is F.cross_entropy)
    assert same(state_of(model), before)


def test_gradients_may_be_off_and_autocast_on():
    model, batch = problem("mlp", dtype=torch.float32)
    directions = directions_of(model)
    free = by_layers(model, directions, batch)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = by_layers(model, directions, batch)
    torch.testing.assert_close(found.slopes, free.slopes, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.own, free.own, rtol=1e-5, atol=1e-7)
