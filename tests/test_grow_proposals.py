"""Proposals: the closed form against a dense one, and every geometry without crashing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.objective import OutputLoss
from outgrow.grow.proposals import closed_form, propose
from outgrow.grow.sample import Batch
from outgrow.grow.trial import Trial
from outgrow.net.axes import axes
from outgrow.net.widening import widen

CE = OutputLoss(F.cross_entropy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_closed_form_is_the_singular_vectors_of_the_whitened_residual():
    x = torch.randn(200, 5, dtype=torch.float64, generator=seeded())
    A, cross = x.mT @ x / 200, torch.randn(5, 3, dtype=torch.float64, generator=seeded(1))
    values, vectors = torch.linalg.eigh(A)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.mT
    expected = root @ torch.linalg.svd(root @ cross)[0][:, :2]
    found = closed_form(A, cross, 2, 0.0)
    assert bool(F.cosine_similarity(found, expected, dim=0).abs().min() > 1 - 1e-9)
    torch.testing.assert_close(found.mT @ A @ found, torch.eye(2, dtype=torch.float64))


def test_one_closed_unit_of_a_linear_network_reaches_most_of_what_any_unit_can():
    """Squares, no bias, a linear middle: the gain of a unit v is |v^T E[x u^T]|^2 / (2 v^T A v), u the residual."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1, bias=False), nn.Linear(1, 4, bias=False)).double()
    x = torch.randn(3000, 6).double() @ torch.diag(torch.tensor([3, 1, 1, 1, 1, 0.5])).double()
    y = x @ torch.randn(6, 4).double()
    batches = [Batch(x, y, 3000)]
    found = axes(model, x[:1])
    middle = next(axis for axis in found if axis.growable)
    trial = Trial(
        model,
        found,
        [propose("closed", model, middle, 1, batches, OutputLoss(F.mse_loss), seeded())],
        batches,
        OutputLoss(F.mse_loss),
        seeded(),
        1e-6,
    )
    gain = trial.judged([trial.scored(middle.name, 1)[2]], batches).alone(0).gain
    with torch.no_grad():
        h = model[0](x)
        residual = y - model(x)
        # what a linear map of all of x beside h saves, by its best single direction
        explained = h @ torch.linalg.lstsq(h, residual).solution
        beyond, others = residual - explained, x - h @ torch.linalg.lstsq(h, x).solution
        fit = others @ torch.linalg.lstsq(others, beyond, rcond=1e-9, driver="gelsd").solution
        best = float(torch.linalg.svdvals(fit)[0] ** 2 / beyond.numel())
    assert 0.5 * best < gain  # with the input damping of a small sample


@pytest.mark.parametrize("seed", range(4))
def test_closed_units_beat_random_ones_of_the_same_norm_on_the_data_that_proposed_them(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.randn(600, 12)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    batches, found = [Batch(x, y, 600)], axes(model, x[:1])
    axis = next(axis for axis in found if axis.growable)
    gains = {}
    for kind in ("closed", "random"):
        widening = propose(kind, model, axis, 4, batches, CE, seeded(seed))
        trial = Trial(model, found, [widening], batches, CE, seeded(seed), 0.03)
        gains[kind] = trial.judged([trial.scored(axis.name, 4)[2]], batches).alone(0).gain
    assert gains["closed"] > gains["random"]


def test_closed_units_come_in_both_signs_with_the_norm_of_the_present_ones_and_without_copies():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.randn(100, 3), torch.randint(3, (100,))
    axis = next(axis for axis in axes(model, x[:1]) if axis.growable)
    for units in (1, 4, 5, 6, 11):
        rows = propose("closed", model, axis, units, [Batch(x, y, 100)], CE, seeded()).rows["0.weight"]
        assert rows.shape == (units, 3)
        torch.testing.assert_close(rows.norm(dim=1), model[0].weight.norm(dim=1).mean().expand(units))
        alike = F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).mT - torch.eye(units)
        assert float(alike.max()) < 0.999
        pairs = min((units + 1) // 2, 3)
        torch.testing.assert_close(rows[pairs : min(2 * pairs, units)], -rows[: min(pairs, units - pairs)])


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class Tokens(nn.Module):
    """A patch embedding, then layers over tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.down = nn.Conv2d(1, 4, 2, 2), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(self.embed(x).flatten(2).mT).relu()).mean(1)


class Sum(nn.Module):
    """Two producers of one axis, two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = (self.a(x) + self.b(x)).relu()
        return self.c(h) + self.d(h.square())


GEOMETRIES = {
    "conv, flatten, linear": (
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 15, 2)),
        (1, 3, 5),
    ),
    "conv, pool, flatten, linear": (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 6, 2)),
        (1, 6, 9),
    ),
    "conv, global pool, linear": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Pool(), nn.Linear(3, 2)), (1, 5, 6)),
    "dilated and strided": (
        nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Conv2d(3, 2, 2, dilation=2, stride=2), Pool(), nn.Linear(2, 2)
        ),
        (1, 11, 9),
    ),
    "one dimension": (
        nn.Sequential(nn.Conv1d(2, 3, 4, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 2, 3), Pool(), nn.Linear(2, 2)),
        (2, 13),
    ),
    "three dimensions": (
        nn.Sequential(nn.Conv3d(1, 3, 2), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(3, 2, 1), Pool(), nn.Linear(2, 2)),
        (1, 5, 5, 5),
    ),
    "linear over tokens": (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.AvgPool2d((5, 1))), (5, 3)),
    "patches": (Tokens(), (1, 6, 4)),
    "several producers": (Sum(), (6,)),
    "frozen producer": (nn.Sequential(nn.Linear(6, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 2)), (6,)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("kind", ["random", "closed"])
def test_every_geometry_is_proposed_for_and_keeps_the_function(name, kind):
    model, shape = GEOMETRIES[name]
    x = torch.randn(16, *shape, generator=seeded())
    y = torch.randint(2, (16,), generator=seeded())

    def loss(z, y):
        return F.cross_entropy(z.flatten(1), y)

    found = axes(model, x[:1])
    growable = [axis for axis in found if axis.growable]
    assert growable
    modes = [module.training for module in model.modules()]
    widenings = [propose(kind, model, axis, 3, [Batch(x, y, 16)], OutputLoss(loss), seeded()) for axis in growable]
    assert modes == [module.training for module in model.modules()]
    model.eval()
    before = model(x)
    edit = widen(model, found, widenings, seeded())
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    edit.undo()
    model.train()


def test_modes_of_single_modules_are_left_as_the_user_set_them():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    model[1].eval()
    x, y = torch.randn(20, 3), torch.randint(2, (20,))
    axis = next(axis for axis in axes(model, x[:1]) if axis.growable)
    assert propose("closed", model, axis, 2, [Batch(x, y, 20)], CE, seeded()).rows
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training


def test_an_unknown_kind_is_named():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(InputError, match="unknown proposal 'svd': choose one of random, closed"):
        propose("svd", model, axes(model, torch.zeros(1, 3))[1], 1, [], CE, seeded())
