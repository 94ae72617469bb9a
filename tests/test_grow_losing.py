"""What removals cost by the quadratic model, and what stands in for what goes, against dense least squares."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow.factors import add_square_
from outgrow.grow.losing import Reader, cheapest, readers_of, stand_ins
from outgrow.grow.moments import Moments, take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch
from outgrow.models.seed import Seed
from outgrow.net.axes import axes, find_axis
from outgrow.net.remove import Removal, remove


def rows(n=200, features=6, seed=0):
    """Correlated features whose means are not zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator).double()
    return torch.randn(n, features, generator=generator).double() @ mix + torch.arange(features)


def reader_of(a, W, S, entries=1, centred=True):
    """A reader whose moments are those of the rows."""
    mean = a.mean(0) if centred else torch.zeros_like(a[0])
    places = torch.arange(a.shape[1]).view(-1, entries)
    return Reader((a - mean).T @ (a - mean) / len(a), S, W, mean, places)


def weights(outputs=3, features=6, seed=1):
    return torch.randn(outputs, features, generator=torch.Generator().manual_seed(seed)).double()


def fisher(outputs=3):
    root = weights(outputs, outputs, seed=2)
    return root @ root.T


def fitted(a, y):
    """The least squared error of an affine map, half of it summed over outputs, and its weights."""
    design = torch.cat([a, torch.ones_like(a[:, :1])], 1)
    found = torch.linalg.lstsq(design, y).solution
    return float((design @ found - y).square().sum() / len(a)) / 2, found.T


@pytest.mark.parametrize("units", [[0], [2, 5], [0, 1, 2, 3, 4]], ids=str)
def test_the_cost_is_what_a_linear_model_loses_when_it_is_fitted_anew(units):
    a, generator = rows(), torch.Generator().manual_seed(3)
    y = a @ weights().T + torch.randn(len(a), 3, generator=generator).double()
    loss, found = fitted(a, y)
    reader = reader_of(a, found[:, :-1], torch.eye(3).double())
    kept = [i for i in range(6) if i not in units]
    without, best = fitted(a[:, kept], y)
    assert reader.cost(torch.tensor(units)) == pytest.approx(without - loss, rel=1e-8)
    W, shift = reader.compensated(torch.tensor(units))
    assert torch.allclose(W[:, kept], best[:, :-1], rtol=1e-8)
    assert torch.allclose(found[:, -1] + shift, best[:, -1], rtol=1e-8)


@pytest.mark.parametrize("entries", [1, 2, 3])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_cost_is_the_least_increase_of_the_quadratic(entries, diagonal):
    a, W = rows(), weights()
    S = fisher().diagonal() if diagonal else fisher()
    reader, dense = reader_of(a, W, S, entries), torch.diag(S) if diagonal else S
    units = torch.tensor([0])
    new, shift = reader.compensated(units)
    new[:, :entries] = 0.0
    moved = a @ (new - W).T + shift
    assert reader.cost(units) == pytest.approx(float((moved @ dense * moved).sum(1).mean()) / 2, rel=1e-8)
    P = torch.linalg.inv(reader.A)[:entries]
    by_inverse = torch.trace(dense @ W[:, :entries] @ torch.linalg.inv(P[:, :entries]) @ W[:, :entries].T) / 2
    assert reader.cost(units) == pytest.approx(float(by_inverse), rel=1e-8)


def test_without_a_bias_nothing_is_centred():
    a, W = rows(), weights()
    reader = reader_of(a, W, torch.eye(3).double(), centred=False)
    target = a @ W.T
    best = torch.linalg.lstsq(a[:, 1:], target).solution
    lost = float((a[:, 1:] @ best - target).square().sum(1).mean()) / 2
    assert reader.cost(torch.tensor([0])) == pytest.approx(lost, rel=1e-8)
    assert not reader.compensated(torch.tensor([0]))[1].any()


@pytest.mark.parametrize("entries", [1, 2])
def test_the_cheapest_units_are_those_that_trying_finds_one_after_the_other(entries):
    readers = [
        reader_of(rows(features=8), weights(3, 8), fisher(), entries),
        reader_of(rows(features=8, seed=5), weights(2, 8, seed=6), fisher(2).diagonal(), entries),
    ]
    expected: list[int] = []
    for _ in range(8 // entries - 1):
        left = [unit for unit in range(8 // entries) if unit not in expected]
        costs = [sum(r.cost(torch.tensor([*expected, unit])) for r in readers) for unit in left]
        expected.append(left[costs.index(min(costs))])
    assert cheapest(readers, len(expected)).tolist() == expected
    assert cheapest(readers, 2).tolist() == expected[:2]


def test_of_two_copies_one_goes_for_free():
    a = rows()
    a[:, 4] = 2 * a[:, 1] - 3
    reader = reader_of(a, weights(), fisher())
    assert [reader.cost(torch.tensor([unit])) < 1e-6 for unit in range(6)] == [False, True, False, False, True, False]
    assert reader.cost(torch.tensor([1, 4])) > 1e-2
    order = cheapest([reader], 5).tolist()
    assert order[0] in (1, 4)
    assert reader.cost(torch.tensor(order[:2])) < reader.cost(torch.tensor([1, 4]))


@pytest.mark.parametrize("what", ["no weights", "constant", "silent"])
def test_what_is_not_read_or_never_changes_is_free(what):
    a, W = rows(), weights()
    if what == "no weights":
        W[:, 3] = 0.0
    else:
        a[:, 3] = 5.0 if what == "constant" else 0.0
    reader = reader_of(a, W, fisher())
    assert reader.cost(torch.tensor([3])) == pytest.approx(0.0, abs=1e-12)
    assert cheapest([reader], 1).tolist() == [3]


def test_few_rows_are_not_trusted():
    """On as many rows as features least squares explains everything; on fresh rows the ridge does better."""
    exact, ridged = 0.0, 0.0
    for seed in range(5):
        a = (rows(2016, 16, seed) / 4).relu()
        reader = reader_of(a[:16], weights(3, 16), torch.eye(3).double())
        for ridge in (1e-10, 1.0):
            W, shift = replace(reader, ridge=ridge).compensated(torch.tensor([0, 1]))
            W[:, :2] = 0.0
            lost = float((a[16:] @ (W - reader.W).T + shift).square().mean())
            exact, ridged = (exact + lost, ridged) if ridge < 1 else (exact, ridged + lost)
    assert ridged < exact / 2


@pytest.mark.parametrize(("n", "ridge"), [(6, 1.0), (600, 1e-4)])
def test_the_ridge_falls_with_the_square_of_the_rows(n, ridge):
    layer, moments = nn.Linear(6, 3), Moments(torch.eye(7), torch.eye(3), torch.zeros(3, 7), 1, True, True, rows=n)
    assert Reader.of(layer, moments, torch.arange(6)[:, None]).ridge == pytest.approx(ridge)


@pytest.mark.parametrize("moves", [True, False])
def test_only_a_bias_that_moves_takes_a_constant_over(moves):
    a, layer = torch.cat([rows(), torch.ones(200, 1).double()], 1), nn.Linear(6, 3).double()
    moments = Moments(a.T @ a / 200, torch.eye(3), torch.zeros(3, 7), 1, True, moves, rows=200)
    reader = Reader.of(layer, moments, torch.arange(6)[:, None])
    assert torch.allclose(reader.A, torch.cov(a[:, :6].T, correction=0) if moves else moments.A[:6, :6])
    assert torch.allclose(reader.mean, a.mean(0)[:6] * moves)


def moments_of_rows(a):
    """Moments whose products are taken in the rows' own precision, as of a network, of nothing but what it reads."""
    total = torch.zeros(7, 7, dtype=torch.float64)
    add_square_(total, a, groups=1, bias=False, weight=1 / len(a))
    return Moments(total, torch.eye(3), torch.zeros(3, 7), 1, True, True, rows=len(a))


@pytest.mark.parametrize("n", [100, 3_000, 60_000])
@pytest.mark.parametrize("constant", [[0, 1, 2, 3, 4, 5], [1, 4]], ids=str)
def test_what_is_constant_but_for_rounding_is_free_and_stands_in_for_nothing(n, constant):
    layer, a = nn.Linear(6, 3), torch.cat([rows(n), torch.ones(n, 1).double()], 1)
    a[:, constant] = torch.tensor([0.1, 30.3, 7.7, 1e-3, 1e3, 2.2]).double()[constant]
    moments = moments_of_rows(a.float())
    reader = Reader.of(layer, moments, torch.arange(6)[:, None])
    assert all(reader.cost(torch.tensor([unit])) == 0 for unit in constant)
    order = cheapest([reader], 5).tolist()
    assert sorted(order[: len(constant)]) == constant[:5]
    W, shift = reader.compensated(torch.tensor(constant))
    assert torch.equal(W, reader.W)
    assert torch.allclose(shift, reader.W[:, constant] @ a[0, constant], rtol=1e-5)


# networks


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def flat():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )


def taps():
    padded = nn.Conv2d(6, 4, 3, padding=1, stride=2)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), padded, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


NETS = {
    "mlp": (mlp, (4,), "0"),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)), (4,), "0"),
    "flatten": (flat, (1, 6, 6), "0"),
    "convolution": (taps, (1, 6, 6), "0"),
    "residual stream": (lambda: Seed("resnet", (1, 6, 6), 3, (3, 4)).build(), (1, 6, 6), None),
}
every_net = pytest.mark.parametrize("name", NETS)


def opened(name, n=150):
    """A network in eval mode, its axis and its examples."""
    build, shape, where = NETS[name]
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(n, *shape).double()
    for _ in range(3):
        model(x)  # statistics of the norms
    found = axes(model.eval(), x[:2])
    axis = find_axis(found, where) if where else max((a for a in found if a.growable), key=lambda a: len(a.consumers))
    return model, found, axis, x


def moments_of(model, axis, x):
    """Those of all rows, as if there were so many that hardly any ridge is needed."""
    y = torch.randint(3, (len(x),), generator=torch.Generator().manual_seed(0))
    batches = [Batch(x[i::2], y[i::2], len(x[i::2])) for i in range(2)]
    layers = [member.module for member in axis.consumers]
    every = dict.fromkeys(layers, 10_000)
    generator = torch.Generator().manual_seed(0)
    found = take_moments(model, layers, batches, OutputLoss(F.cross_entropy), generator, positions=every)
    return {path: replace(one, rows=10**9) for path, one in found.items()}


def duplicate_(model, axis, source, target):
    """Make one unit the copy of another in all that writes and normalises it."""
    with torch.no_grad():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for member in axis.members:
            if "in" not in member.roles:
                tensor = tensors[member.tensor].movedim(member.dim, 0)
                tensor[member.index[target]] = tensor[member.index[source]].clone()


@every_net
def test_a_copy_goes_and_the_function_stays(name):
    model, found, axis, x = opened(name)
    duplicate_(model, axis, 1, 2)
    moments = moments_of(model, axis, x)
    order = cheapest(readers_of(model, moments, axis), 1)
    assert order.tolist() in ([1], [2])
    removal, before = Removal.of(axis, order), model(x)
    bare = remove(model, found, [removal])
    assert not torch.allclose(model(x), before, rtol=1e-3)
    bare.undo()
    remove(model, found, [removal], stand_ins(model, moments, [removal]))
    assert torch.allclose(model(x), before, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "no bias", "flatten", "convolution"])
def test_what_stands_in_is_the_best_of_all_weights(name):
    """The outputs of the layer that reads the axis are fitted to what they were."""
    model, found, axis, x = opened(name, 400)
    (member,) = axis.consumers
    removal = Removal.of(axis, [1, 4])
    moments = moments_of(model, axis, x)
    values = stand_ins(model, moments, [removal])
    at = int(member.module)
    wanted = model[: at + 1](x).detach()
    remove(model, found, [removal], values)
    loss = (model[: at + 1](x) - wanted).square().mean()
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, [*model[at].parameters()])) < 1e-8


def test_axes_that_meet_in_a_layer_are_made_up_for_together():
    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(11, 3)

        def forward(self, x):
            return self.last(torch.cat([self.a(x).tanh(), self.b(x).tanh()], 1))

    torch.manual_seed(0)
    model, x = Meeting().double(), torch.randn(300, 4).double()
    with torch.no_grad():  # unit 0 of a, unit 3 of b and unit 1 of a are the same
        for tensor, other in ((model.a.weight, model.b.weight), (model.a.bias, model.b.bias)):
            tensor[1] = other[3] = tensor[0]
    found = axes(model, x[:2])
    first, second = find_axis(found, "a"), find_axis(found, "b")
    removals = [Removal.of(first, [0]), Removal.of(second, [3])]
    moments = moments_of(model, first, x)
    before = model(x)
    remove(model, found, removals, stand_ins(model, moments, removals))
    assert torch.allclose(model(x), before, atol=1e-6)
