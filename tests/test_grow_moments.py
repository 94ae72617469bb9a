"""K-FAC moments, against explicit loops over examples, calls and positions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.grow import moments as moments_module
from outgrow.grow.curvature import Outputs
from outgrow.grow.moments import take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.patches import read_rows, written_rows
from outgrow.grow.sample import Batch

CE = OutputLoss(F.cross_entropy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Twice(nn.Module):
    """A layer that is called twice, on maps of two sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.head = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.shared(F.max_pool2d(F.relu(self.shared(x)), 2)))
        return self.head(x.mean((2, 3)))


def toy(kind):
    torch.manual_seed(0)
    x, y = torch.randn(6, 2, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    if kind == "twice":
        return Twice().double().eval(), x.double(), y
    inplace = kind == "in place"
    model = nn.Sequential(
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
    return model.double().eval(), x.double(), y


def loops(model, layers, x, y, noise):
    """A and S by plain loops, with one backward pass for each example."""
    found = {}
    for path in layers:
        module = model.get_submodule(path)
        features = module.weight[0].numel() + (module.bias is not None)
        found[path] = [torch.zeros(features, features).double(), torch.zeros(len(module.weight), len(module.weight))]
    for i in range(len(x)):
        record = {path: [] for path in layers}
        hooks = []
        for path in layers:

            def keep(module, inputs, output, path=path, record=record):
                safe = output.clone()  # in-place functions then change the clone
                record[path].append((module, inputs[0].clone(), output))
                return safe

            hooks.append(model.get_submodule(path).register_forward_hook(keep))
        z = model(x[i : i + 1])
        for hook in hooks:
            hook.remove()
        for path, calls in record.items():
            grads = torch.autograd.grad(z, [out for _, _, out in calls], noise[i : i + 1], retain_graph=True)
            pairs = []
            for (module, read, _), u in zip(calls, grads, strict=True):
                a, b = read_rows(module, read)[0], written_rows(module, u)[0]
                pairs += [
                    (torch.cat([a[t], torch.ones(int(module.bias is not None)).double()]), b[t]) for t in range(len(a))
                ]
            for a, b in pairs:
                found[path][0] = found[path][0] + torch.outer(a, a) / len(x)
                found[path][1] = found[path][1] + torch.outer(b, b) / len(pairs) / len(x)
    return found


@pytest.mark.parametrize("kind", ["plain", "in place", "twice"])
def test_moments_equal_plain_loops(kind, monkeypatch):
    monkeypatch.setattr(moments_module, "MAX_POSITIONS", 100)
    model, x, y = toy(kind)
    layers = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    noise = Outputs(F.cross_entropy, model(x), y, len(x)).draw(seeded())[0]
    expected = loops(model, layers, x, y, noise)
    found = take_moments(model, layers, [Batch(x, y, len(x))], CE, seeded())
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    by_name = dict(zip(dict(model.named_parameters()), grads, strict=True))
    for path in layers:
        torch.testing.assert_close(found[path].A, expected[path][0])
        torch.testing.assert_close(found[path].S, expected[path][1].double())
        G = by_name[f"{path}.weight"].flatten(1)
        if f"{path}.bias" in by_name:
            G = torch.cat([G, by_name[f"{path}.bias"][:, None]], 1)
        torch.testing.assert_close(found[path].G, G)


def test_batches_of_any_sizes_agree_with_one(monkeypatch):
    monkeypatch.setattr(Outputs, "draw", lambda self, _: self.gradient())  # draws nothing
    model, x, y = toy("plain")
    layers = ["0", "3", "6", "8"]

    def taken(*stops):
        parts = [Batch(x[i:j], y[i:j], j - i) for i, j in zip((0, *stops), (*stops, 6), strict=True)]
        return take_moments(model, layers, parts, CE, seeded())

    for path, whole in taken().items():
        parts = taken(1, 3)[path]
        torch.testing.assert_close(parts.A, whole.A)
        torch.testing.assert_close(parts.G, whole.G)
        torch.testing.assert_close(parts.S, whole.S)


def test_sampled_positions_keep_the_expectation(monkeypatch):
    model, x, y = toy("plain")
    exact = take_moments(model, ["0"], [Batch(x, y, 6)], CE, seeded())["0"].A
    monkeypatch.setattr(moments_module, "MAX_POSITIONS", 3)
    draws = torch.stack([take_moments(model, ["0"], [Batch(x, y, 6)], CE, seeded(i))["0"].A for i in range(200)])
    error = draws.std(0) / 200**0.5
    assert bool(((draws.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all())


def test_output_factor_of_a_softmax_layer_is_the_true_fisher():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4)).double()
    x, y = torch.randn(20000, 3).double(), torch.zeros(20000, dtype=torch.long)
    p = model(x).softmax(1).detach()
    found = take_moments(model, ["0"], [Batch(x, y, len(x))], CE, seeded())["0"]
    expected = torch.diag(p.mean(0)) - p.mT @ p / len(p)
    torch.testing.assert_close(found.S, expected, atol=0.01, rtol=0)


def test_the_model_is_left_alone():
    model, x, y = toy("plain")
    F.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    take_moments(model, ["0", "3", "6"], [Batch(x, y, 6)], CE, seeded())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, parameter.grad) for a, parameter in zip(grads, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_and_uncalled_layers_are_left_out_and_keywords_understood():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.c(input=F.linear(self.a(x).relu(), self.b.weight))

    model = Odd()
    model.a.requires_grad_(False)
    batch = Batch(torch.randn(4, 2), torch.zeros(4, dtype=torch.long), 4)
    assert list(take_moments(model, ["a", "b", "c"], [batch], CE, seeded())) == ["c"]
