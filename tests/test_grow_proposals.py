"""Proposals: the closed form against a dense one, and every geometry without crashing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow import splitting
from outgrow.grow.closed import closed_form, leading
from outgrow.grow.objective import OutputLoss
from outgrow.grow.pool import POOL, drawn
from outgrow.grow.proposals import NAMES, PASSES, propose_all
from outgrow.grow.sample import Batch
from outgrow.grow.splitting import NOISE, gradient_norms
from outgrow.grow.trial import Trial
from outgrow.net.axes import axes
from outgrow.net.enlargement import widen
from outgrow.net.widening import Widening

CE = OutputLoss(F.cross_entropy)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def propose(kind, model, axis, units, batches, objective, generator):
    """Units on one axis."""
    return propose_all(kind, model, {axis: units}, batches, objective, generator)[0]


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


def test_closed_units_beat_random_ones_of_the_same_norm_on_the_data_that_proposed_them():
    gains = {"closed": 0.0, "random": 0.0}
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
        x = torch.randn(600, 12)
        y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
        batches, found = [Batch(x, y, 600)], axes(model, x[:1])
        axis = next(axis for axis in found if axis.growable)
        for kind in gains:
            widening = propose(kind, model, axis, 4, batches, CE, seeded(seed))
            trial = Trial(model, found, [widening], batches, CE, seeded(seed), 0.03)
            gains[kind] += trial.judged([trial.scored(axis.name, 4)[2]], batches).alone(0).gain
    assert gains["closed"] > 1.1 * gains["random"]


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
@pytest.mark.parametrize("kind", NAMES)
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
    for axis, widening in zip(growable, widenings, strict=True):
        assert widening.axis is axis
        assert widening.units == 3 * (POOL if kind == "mixed" else 1)
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
    with pytest.raises(
        InputError, match="unknown proposal 'svd': choose one of random, closed, gradmax, split, suited, mixed"
    ):
        propose("svd", model, axes(model, torch.zeros(1, 3))[1], 1, [], CE, seeded())


def small(seed=0, n=200):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(n, 5).double()
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    found = [axis for axis in axes(model, x[:1]) if axis.growable]
    return model, found, [Batch(x[: n // 4], y[: n // 4], n // 4), Batch(x[n // 4 :], y[n // 4 :], n - n // 4)]


@pytest.mark.parametrize(("shape", "count"), [((5, 3), 2), ((4, 9), 4), ((60, 50), 5), ((50, 60), 3)])
def test_leading_vectors_are_those_of_the_singular_value_decomposition(shape, count):
    matrix = torch.randn(*shape, dtype=torch.float64, generator=seeded()) @ torch.diag(
        torch.logspace(0, -2, shape[1], dtype=torch.float64)
    )
    expected = torch.linalg.svd(matrix)[0][:, :count]
    assert bool(F.cosine_similarity(leading(matrix, count), expected, dim=0).abs().min() > 1 - 1e-6)


def test_leading_vectors_beyond_the_rank_are_orthonormal():
    found = leading(torch.ones(6, 2, dtype=torch.float64), 5)
    torch.testing.assert_close(found.mT @ found, torch.eye(5, dtype=torch.float64))


def test_gradmax_takes_the_directions_of_the_largest_gradient():
    """Through a linear middle, a unit with incoming v has gradient E[u x^T] v at its outgoing weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 4)).double()
    x, y = torch.randn(300, 6).double(), torch.randn(300, 4).double()
    axis = next(axis for axis in axes(model, x[:1]) if axis.growable)
    rows = propose("gradmax", model, axis, 4, [Batch(x, y, 300)], OutputLoss(F.mse_loss), seeded()).rows["0.weight"]
    u = 2 * (model(x) - y).detach() / 4
    expected = torch.linalg.svd(x.mT @ u / 300)[0][:, :2].mT
    scale = model[0].weight.norm(dim=1).mean()
    torch.testing.assert_close(rows[:2].abs(), expected.abs() * scale)
    torch.testing.assert_close(rows[2:], -rows[:2])


def test_split_units_are_copies_with_noise_of_a_known_size(monkeypatch):
    model, found, batches = small()
    widening = propose("split", model, found[1], 400, batches, CE, seeded())
    weight, bias = model[2].weight.detach(), model[2].bias.detach()
    rows, biases = widening.rows["2.weight"], widening.channels["2.bias"]
    of = (biases[:, None] - bias).abs().argmin(1)
    assert torch.equal(biases, bias[of])
    size = (rows - weight[of]).norm(dim=1) / weight[of].norm(dim=1)
    assert float(size.square().mean().sqrt()) == pytest.approx(NOISE, rel=0.1)
    monkeypatch.setattr(splitting, "NOISE", 0.0)
    exact = propose("split", model, found[1], 400, batches, CE, seeded())
    assert torch.equal(exact.rows["2.weight"], weight[of])


def test_units_are_split_in_proportion_to_the_gradient_of_their_outgoing_weights():
    model, found, batches = small()
    (norms,) = gradient_norms(model, found[:1], batches, CE)
    x, y = (torch.cat([getattr(b, key) for b in batches]) for key in ("inputs", "target"))
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y), [model[2].weight])
    torch.testing.assert_close(norms, grad.norm(dim=0))
    widening = propose("split", model, found[0], 4000, batches, CE, seeded())
    of = (widening.channels["0.bias"][:, None] - model[0].bias.detach()).abs().argmin(1)
    shares = torch.bincount(of, minlength=4) / 4000
    torch.testing.assert_close(shares.double(), norms / norms.sum(), atol=0.03, rtol=0)


def test_units_of_several_entries_are_split_whole():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 2))
    x, y = torch.randn(20, 1, 5, 5), torch.randint(2, (20,))
    axis = next(axis for axis in axes(model, x[:1]) if axis.growable)
    (norms,) = gradient_norms(model.eval(), [axis], [Batch(x, y, 20)], CE)
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), y), [model[4].weight])
    torch.testing.assert_close(norms.float(), grad.view(2, 3, 9).norm(dim=(0, 2)))
    widening = propose("split", model, axis, 2, [Batch(x, y, 20)], CE, seeded())
    assert widening.rows["0.weight"].shape == (2, 1, 3, 3)
    assert set(widening.channels) == {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}


@pytest.mark.parametrize("units", [1, 2, 5])
def test_a_mixed_pool_has_the_closed_form_and_split_and_random_units(units):
    model, found, batches = small()
    mixed = propose("mixed", model, found[0], units, batches, CE, seeded())
    closed = propose("closed", model, found[0], units, batches, CE, seeded())
    assert mixed.units == POOL * units
    assert mixed.rows["0.weight"].shape == (POOL * units, 5)
    assert mixed.channels["0.bias"].shape == (POOL * units,)
    torch.testing.assert_close(mixed.rows["0.weight"][:units], closed.rows["0.weight"])
    copied = (mixed.channels["0.bias"][:, None] == model[0].bias.detach()).any(1)
    assert copied.nonzero().flatten().tolist() == list(range(units, units + units // 2))


@pytest.mark.parametrize("kind", ["random", "mixed"])
def test_the_first_of_a_pool_are_worth_more_on_fresh_data_than_any_others_of_it(kind):
    first, any_others = 0.0, 0.0
    for seed in range(6):
        model, found, batches = small(seed, 400)
        fresh = small(seed + 100, 2000)[2]
        widening = propose(kind, model, found[0], 6, batches, CE, seeded(seed))
        trial = Trial(model, found, [widening], batches, CE, seeded(seed))
        name = found[0].name
        first += trial.judged([trial.scored(name, 3)[2]], fresh).alone(0).gain
        best = trial.first(name, 3)
        others = [unit for unit in range(6) if unit not in best]
        trial._orders[name] = torch.tensor([*others, *best.tolist()])
        any_others += trial.judged([trial.scored(name, 3)[2]], fresh).alone(0).gain
    assert first > 1.1 * any_others


def test_what_a_widening_leaves_open_is_drawn_as_for_a_fresh_layer():
    model, found, batches = small()
    given = propose("closed", model, found[0], 50, batches, CE, seeded())
    full = drawn(model, given, seeded())
    assert full.rows["0.weight"] is given.rows["0.weight"]
    assert 0.3 < float(full.channels["0.bias"].abs().max()) <= 1 / 5**0.5
    fresh = drawn(model, Widening(found[1], 50), seeded())
    assert fresh.rows["2.weight"].shape == (50, 4)
    assert float(fresh.rows["2.weight"].abs().max()) <= 0.5


@pytest.mark.parametrize("kind", NAMES)
def test_all_axes_share_the_passes_over_the_sample(kind):
    model, found, batches = small()
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    counts = []
    for units in ({found[0]: 3}, dict.fromkeys(found, 3)):
        runs.clear()
        widenings = propose_all(kind, model, units, batches, CE, seeded())
        assert [one.axis for one in widenings] == list(units)
        counts.append(len(runs))
    assert counts[0] == counts[1] <= PASSES[kind] * len(batches)
    assert (PASSES[kind] == 0) == (counts[0] == 0)
    assert propose_all(kind, model, {}, batches, CE, seeded()) == []


def test_axes_proposed_for_together_get_what_each_gets_alone():
    model, found, batches = small()
    for kind in ("closed", "gradmax"):
        together = propose_all(kind, model, dict.fromkeys(found, 4), batches, CE, seeded())
        for axis, one in zip(found, together, strict=True):
            alone = propose(kind, model, axis, 4, batches, CE, seeded())
            for name, rows in one.rows.items():
                assert bool(F.cosine_similarity(rows, alone.rows[name]).abs().min() > 0.7)  # S is another draw


def test_a_layer_that_is_wide_has_a_fixed_damping(monkeypatch):
    model, found, batches = small()
    monkeypatch.setattr("outgrow.grow.weights.WIDE", 3)
    monkeypatch.setattr("outgrow.grow.closed.best_on_the_other", None)
    assert propose("closed", model, found[0], 3, batches, CE, seeded()).rows["0.weight"].shape == (3, 5)


def test_suited_units_are_random_behind_a_norm_and_of_the_length_of_the_others_elsewhere():
    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU())
    model = nn.Sequential(normed, nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20.0)
    x = torch.randn(100, 6).double()
    batches = [Batch(x, torch.randint(3, (100,)), 100)]
    units = {axis: 50 for axis in axes(model, x[:1]) if axis.growable}
    behind, free = propose_all("suited", model, units, batches, CE, seeded())
    assert (behind.axis, free.axis) == tuple(units)
    assert not behind.rows  # drawn as a fresh layer's
    (rows,) = (rows for name, rows in free.rows.items() if name.endswith("weight"))
    present = model.get_submodule("1").weight.detach()
    fresh, copies = rows[:25], rows[25:]
    torch.testing.assert_close(fresh.norm(dim=1).double(), present.norm(dim=1).mean().expand(25), rtol=1e-5, atol=0)
    near, far = (torch.cdist(some.double(), present).min(1).values.mean() for some in (copies, fresh))
    assert float(near) < float(far)  # a unit that is there, but for noise
