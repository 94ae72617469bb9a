"""K-FAC moments, against explicit loops over examples, calls and positions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow import factors, weights
from outgrow.grow.moments import ROWS_PER_FEATURE, hooked, merged, recorded_calls, take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.patches import groups_of, has_rows, read_rows, written_rows
from outgrow.grow.sample import Batch
from outgrow.grow.weights import tangent_of

CE = OutputLoss(F.cross_entropy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Certain:
    """Cross-entropy whose noise depends on the outputs alone, so that no factor depends on how examples are batched."""

    def answer(self, model, batch):
        answer = CE.answer(model, batch)
        answer.draw = lambda _: [noise(z) for z in answer.values]
        return answer


def noise(z: Tensor) -> Tensor:
    return torch.sin(5 * z.detach())


class Twice(nn.Module):
    """A layer that is called twice, on maps of two sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.shared(F.max_pool2d(F.relu(self.shared(x)), 2)))
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers on tokens, and on all tokens of all examples along one dimension."""

    def __init__(self):
        super().__init__()
        self.up, self.flat, self.head = nn.Linear(3, 5), nn.Linear(5, 4, bias=False), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.flat(torch.tanh(self.up(x)).flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(torch.tanh(y).mean(1))


def then_pooled(layer, outputs):
    dims = len(layer.kernel_size)
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(2) if dims > 1 else nn.Identity(), Mean(), nn.Linear(outputs, 4))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def convnet(inplace):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace),
        nn.Conv2d(3, 2, 2, bias=False),
        nn.ReLU(inplace),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.ReLU(inplace),
        nn.Linear(5, 4),
    )


MODELS = {
    "convnet": (lambda: convnet(False), (2, 5, 5)),
    "in place": (lambda: convnet(True), (2, 5, 5)),
    "twice": (Twice, (2, 6, 6)),
    "tokens": (Tokens, (7, 3)),
    "1-D": (lambda: then_pooled(nn.Conv1d(2, 3, 3, dilation=2, padding="same", padding_mode="circular"), 3), (2, 6)),
    "2-D": (lambda: then_pooled(nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=1, bias=False), 3), (2, 4, 5)),
    "3-D": (lambda: then_pooled(nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), 3), (2, 3, 3, 2)),
    "groups": (lambda: then_pooled(nn.Conv2d(4, 6, 3, padding=1, groups=2), 6), (4, 4, 4)),
    "depthwise": (lambda: then_pooled(nn.Conv1d(4, 4, 3, groups=4, bias=False), 4), (4, 6)),
}
ALL = dict.fromkeys(("0", "3", "4", "6", "8", "first", "shared", "head", "up", "flat"), 1000)  # positions


def toy(kind, n=6):
    torch.manual_seed(0)
    build, shape = MODELS[kind]
    model = build().double().eval()
    layers = [path for path, module in model.named_modules() if has_rows(module)]
    return model, layers, torch.randn(n, *shape).double(), torch.arange(n) % 4


def pieces(x, y, *stops):
    return [Batch(x[i:j], y[i:j], j - i) for i, j in zip((0, *stops), (*stops, len(x)), strict=True)]


def loops(model, layers, x, noise_of, convention):
    """A and S of one layer at a time, with one backward pass for each example; u from the seeds at the outputs."""
    found = {}
    for path in layers:
        module = model.get_submodule(path)
        groups = groups_of(module)
        A, S = 0.0, 0.0
        for i in range(len(x)):
            calls = []

            def keep(module, inputs, output, calls=calls):
                calls.append((inputs[0].detach().clone(), output))
                return output.clone()  # in-place functions then change the clone

            hook = module.register_forward_hook(keep)
            z = model(x[i : i + 1])
            hook.remove()
            grads = torch.autograd.grad(z, [out for _, out in calls], noise_of(z, i))
            a = torch.cat([read_rows(module, read).flatten(0, 1) for read, _ in calls]).unflatten(1, (groups, -1))
            u = torch.cat([written_rows(module, g).flatten(0, 1) for g in grads]).unflatten(1, (groups, -1))
            if module.bias is not None:
                a = torch.cat([a, torch.ones(*a.shape[:2], 1).double()], 2)
            if convention == "reduce":
                a, u = a.mean(0, keepdim=True), u.sum(0, keepdim=True)
            for t in range(len(a)):
                A = A + torch.stack([torch.outer(row, row) for row in a[t]]) / len(x)
                S = S + torch.stack([torch.outer(row, row) for row in u[t]]) / len(x) / len(u)
        found[path] = (A, S) if groups > 1 else (A[0], S[0])
    return found


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", MODELS)
def test_factors_equal_plain_loops_over_all_positions(kind, convention):
    model, layers, x, y = toy(kind)
    expected = loops(model, layers, x, lambda z, _: noise(z), convention)
    for stops in ((), (1, 3)):
        parts = pieces(x, y, *stops)
        found = take_moments(model, layers, parts, Certain(), seeded(), convention=convention, positions=ALL)
        assert list(found) == layers
        for path, one in found.items():
            torch.testing.assert_close(one.A, expected[path][0])
            torch.testing.assert_close(one.S, expected[path][1])
            assert one.examples == len(x)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_the_mean_loss_whatever_is_sampled(kind):
    model, layers, x, y = toy(kind)
    found = take_moments(model, layers, pieces(x, y, 2), CE, seeded(), positions=dict.fromkeys(layers, 1))
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for path, one in found.items():
        module = model.get_submodule(path)
        G = module.weight.grad.flatten(1)
        G = G if module.bias is None else torch.cat([G, module.bias.grad[:, None]], 1)
        torch.testing.assert_close(one.G, G.view_as(one.G))


@pytest.mark.parametrize("kind", ["convnet", "tokens", "groups"])
def test_the_empirical_fisher_is_that_of_the_gradients_and_draws_nothing(kind):
    model, layers, x, y = toy(kind)

    def gradient(z, i):
        return torch.autograd.grad(F.cross_entropy(z, y[i : i + 1]), z, retain_graph=True)[0]

    expected = loops(model, layers, x, gradient, "expand")
    generator, before = seeded(), seeded().get_state()
    found = take_moments(model, layers, pieces(x, y, 4), CE, generator, fisher="empirical", positions=ALL)
    for path, one in found.items():
        torch.testing.assert_close(one.A, expected[path][0])
        torch.testing.assert_close(one.S, expected[path][1])
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", ["twice", "tokens", "depthwise"])
def test_moments_of_two_samples_merged_are_those_of_both_at_once(kind, convention):
    model, layers, x, y = toy(kind, 9)
    taken = [
        take_moments(model, layers, parts, Certain(), seeded(), convention=convention, positions=ALL)
        for parts in (pieces(x, y), pieces(x[:2], y[:2]), pieces(x[2:], y[2:], 3))
    ]
    before = copy.deepcopy(taken[1:])
    whole, both = taken[0], merged(taken[1:])
    for path in layers:
        for name in ("A", "S", "G"):
            torch.testing.assert_close(getattr(both[path], name), getattr(whole[path], name))
            assert torch.equal(getattr(taken[1][path], name), getattr(before[0][path], name))
        assert (both[path].examples, both[path].rows) == (whole[path].examples, whole[path].rows)


def test_a_layer_that_one_part_does_not_call_counts_for_nothing_there():
    class Sometimes(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x) if x.sum() > 0 else x)

    model = Sometimes(nn.Linear(3, 3), nn.Linear(3, 2)).double()
    x, y = torch.rand(4, 3).double(), torch.zeros(4, dtype=torch.long)
    batches = [Batch(x, y, 4), Batch(-x[:2], y[:2], 2)]
    at_once = take_moments(model, ["0", "1"], batches, Certain(), seeded())
    both = merged([take_moments(model, ["0", "1"], [batch], Certain(), seeded()) for batch in batches])
    for path in ("0", "1"):
        torch.testing.assert_close(both[path].A, at_once[path].A)
        torch.testing.assert_close(both[path].S, at_once[path].S)
        assert both[path].examples == 6


@pytest.mark.parametrize("kind", ["convnet", "twice", "tokens"])
def test_sampled_positions_keep_the_expectation(kind):
    model, layers, x, y = toy(kind)
    exact = take_moments(model, layers, pieces(x, y), Certain(), seeded(), positions=ALL)
    few = dict.fromkeys(layers, 2)
    draws = [take_moments(model, layers, pieces(x, y, 2), Certain(), seeded(i), positions=few) for i in range(150)]
    for path in layers:
        for name in ("A", "S"):
            values = torch.stack([getattr(one[path], name) for one in draws])
            error = values.std(0) / 150**0.5
            assert bool(((values.mean(0) - getattr(exact[path], name)).abs() <= 5 * error + 1e-9).all())


def test_by_default_a_layer_has_so_many_rows_for_each_feature_as_long_as_it_has_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3))
    for n in (4, 20, 500):
        batch = Batch(torch.randn(n, 1, 8, 8), torch.zeros(n, dtype=torch.long), n)
        found = take_moments(model, ["0", "2"], [batch], CE, seeded())
        assert min(ROWS_PER_FEATURE * 10, 36 * n) <= found["0"].rows <= max(ROWS_PER_FEATURE * 10 + n, n)
        assert found["2"].rows == n


def test_output_factor_of_a_softmax_layer_is_the_true_fisher():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4)).double()
    x, y = torch.randn(20000, 3).double(), torch.zeros(20000, dtype=torch.long)
    p = model(x).softmax(1).detach()
    found = take_moments(model, ["0"], [Batch(x, y, len(x))], CE, seeded())["0"]
    expected = torch.diag(p.mean(0)) - p.mT @ p / len(p)
    torch.testing.assert_close(found.S, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", ["convnet", "tokens", "groups"])
def test_of_very_many_outputs_the_diagonal_of_the_factor_is_kept(kind, convention, monkeypatch):
    model, layers, x, y = toy(kind, 9)
    settings = {"convention": convention, "positions": ALL}
    whole = take_moments(model, layers, pieces(x, y), Certain(), seeded(), **settings)
    monkeypatch.setattr(weights, "WIDE", 0)
    parts = [
        take_moments(model, layers, p, Certain(), seeded(), **settings)
        for p in (pieces(x[:2], y[:2]), pieces(x[2:], y[2:]))
    ]
    for path, one in merged(parts).items():
        diagonal = whole[path].S.diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(one.S.double(), diagonal, atol=1e-5, rtol=1e-5)
        assert one.flops < whole[path].flops
        if one.S.ndim == 1:
            some = torch.tensor([1, 0])
            torch.testing.assert_close(one.among(some), whole[path].among(some).diagonal().float())


@pytest.mark.parametrize("kind", ["convnet", "tokens", "groups"])
def test_float32_sums_of_large_layers_and_blocks_of_any_size_equal_float64(kind, monkeypatch):
    model, layers, x, y = toy(kind)
    model, x = model.float(), x.float()
    exact = take_moments(model, layers, pieces(x, y), Certain(), seeded(), positions=ALL)
    monkeypatch.setattr(weights, "WIDE", 0)
    monkeypatch.setattr(factors, "BLOCK", 50)
    large = take_moments(model, layers, pieces(x, y, 1), Certain(), seeded(), positions=ALL)
    for path in layers:
        for name in ("A", "S", "G"):
            wide, narrow = getattr(exact[path], name), getattr(large[path], name)
            wide = wide.diagonal(dim1=-2, dim2=-1) if name == "S" else wide
            assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
            assert float((wide - narrow).abs().max()) <= 1e-5 * float(wide.abs().max())


@pytest.mark.parametrize("convention", ["expand", "reduce"])
@pytest.mark.parametrize("kind", ["convnet", "tokens", "groups"])
def test_under_autocast_products_are_still_taken_in_float32(kind, convention, monkeypatch):
    model, layers, x, y = toy(kind)
    model, x = model.float(), x.float()
    monkeypatch.setattr(weights, "WIDE", 0)  # in-place products, too
    settings = {"convention": convention, "positions": ALL}
    plain = take_moments(model, layers, pieces(x, y), Certain(), seeded(), **settings)[layers[0]]
    with torch.autocast("cpu", torch.bfloat16):
        found = take_moments(model, layers, pieces(x, y), Certain(), seeded(), **settings)
    torch.testing.assert_close(found[layers[0]].A, plain.A)  # reads x itself, which autocast leaves as it is
    assert all(one.A.dtype == one.S.dtype == torch.float32 for one in found.values())


def test_half_precision_models_have_factors_of_full_precision():
    model, layers, x, y = toy("convnet")
    model, x = model.bfloat16(), x.bfloat16()
    found = take_moments(model, layers, pieces(x, y), Certain(), seeded(), positions=ALL)
    rows = read_rows(model[0], x).flatten(0, 1).double()
    torch.testing.assert_close(found["0"].A[:18, :18], rows.mT @ rows / len(x))
    assert all(one.A.dtype == torch.float64 for one in found.values())


def test_the_model_is_left_alone():
    model, layers, x, y = toy("convnet")
    F.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    take_moments(model, layers, [Batch(x, y, 6)], CE, seeded())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, parameter.grad) for a, parameter in zip(grads, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_gone_after_an_exception():
    model, layers, x, y = toy("convnet")
    with pytest.raises(RuntimeError):
        take_moments(model, layers, [Batch(x[:, :1], y, 6)], CE, seeded())
    modules = {path: model.get_submodule(path) for path in layers}
    for recording in (recorded_calls(modules), hooked(modules, lambda *_: None)):
        with pytest.raises(RuntimeError), recording:
            model(x[:, :1])
    assert not any(module._forward_hooks for module in model.modules())


def test_calls_without_a_graph_are_not_recorded():
    layer = nn.Linear(3, 3)
    with recorded_calls({"layer": layer}) as calls:
        with torch.no_grad():
            layer(torch.zeros(2, 3))
        layer(torch.ones(2, 3))
    assert [float(one.read.mean()) for one in calls["layer"]] == [1.0]


def test_a_step_is_split_into_those_of_weight_and_bias():
    step = torch.arange(2 * 13.0).view(2, 13)
    found = tangent_of("a", nn.Conv2d(3, 2, 2).bfloat16(), step, bias=True)
    assert torch.equal(found["a.weight"].flatten(1), step[:, :12].bfloat16())
    assert torch.equal(found["a.bias"], step[:, 12].bfloat16())
    assert list(tangent_of("a", nn.Conv2d(3, 2, 2), step, bias=False)) == ["a.weight"]
    assert list(tangent_of("a", nn.Conv2d(3, 2, 2, bias=False), step[:, :12], bias=True)) == ["a.weight"]


def test_a_module_at_two_paths_has_the_moments_of_all_its_calls_at_both():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Tanh(), shared).double()
    found = take_moments(
        model, ["0", "2"], pieces(torch.randn(5, 3).double(), torch.arange(5) % 3), Certain(), seeded()
    )
    torch.testing.assert_close(found["0"].A, found["2"].A)
    torch.testing.assert_close(found["0"].G, found["2"].G)
    assert float(found["0"].A[3, 3]) == pytest.approx(2)  # the constant, at two positions


def test_frozen_and_uncalled_layers_are_left_out_and_keywords_understood():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(2, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.d(x)
            return self.c(input=F.linear(self.a(x[:, :2]).relu(), self.b.weight))

    model = Odd()
    model.a.requires_grad_(False)
    batch = Batch(torch.randn(4, 2), torch.zeros(4, dtype=torch.long), 4)
    assert list(take_moments(model, ["a", "b", "c", "d"], [batch], CE, seeded())) == ["c"]


def test_what_is_not_known_or_can_not_be_told_apart_is_named():
    model, _, x, y = toy("tokens")
    with pytest.raises(InputError, match="unknown convention 'sum': choose one of expand, reduce"):
        take_moments(model, ["up"], pieces(x, y), CE, seeded(), convention="sum")
    with pytest.raises(InputError, match="unknown fisher 'exact': choose one of true, empirical"):
        take_moments(model, ["up"], pieces(x, y), CE, seeded(), fisher="exact")

    class Routed(nn.Module):
        """Some tokens of all examples go through a layer."""

        def __init__(self):
            super().__init__()
            self.expert, self.head = nn.Linear(3, 3), nn.Linear(3, 4)

        def forward(self, x):
            y = x.clone()
            y[:, 0] = x[:, 0] + 1
            y[0, 1:2] = self.expert(x[0, :1])
            return self.head(y.mean(1))

    routed = Routed().double()
    assert "expert" in take_moments(routed, ["expert"], pieces(x, y), CE, seeded())
    with pytest.raises(InputError, match="expected a Linear to read a multiple of 6 examples, received 1 rows"):
        take_moments(routed, ["expert"], pieces(x, y), CE, seeded(), convention="reduce")
