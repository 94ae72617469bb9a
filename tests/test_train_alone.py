"""Networks trained by themselves: the architecture is that of a run, every weight is drawn anew."""

import itertools

import pytest
import torch

from outgrow.models import ImportedSeed, Seed, imported_seed
from outgrow.net.axes import axes
from outgrow.net.cost import parameters
from outgrow.net.deepen import deepen_
from outgrow.net.resizing import settings_of
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.architecture import Grown
from outgrow.train.uniform import of_widths, size, uniform, uniform_widths, widths_of

SEED_NETWORKS = {
    "mlp": Seed("mlp", (6,), 3, (4, 4), (0.5,) * 6, (2.0,) * 6),
    "convnet": Seed("convnet", (1, 8, 8), 3, (2, 3, 4, 5)),
    "resnet": Seed("resnet", (1, 8, 8), 3, (2, 3)),
}


@pytest.mark.parametrize(
    ("kind", "blocks", "widened"),
    [
        ("mlp", [], {"mlp.hidden.0": 3}),
        ("resnet", ["resnet.stages.0.0", "resnet.stem.2"], {"resnet.stages.0.1.conv1": 2}),
        ("convnet", [], {"convnet.blocks.1.conv": 2}),
    ],
)
def test_a_grown_architecture_is_rebuilt_with_fresh_weights(kind, blocks, widened):
    seed = SEED_NETWORKS[kind]
    model = seed.build()
    for place in blocks:
        deepen_(model, place, example=seed.example())
    for axis, units in widened.items():
        widen_(model, axis, units, example=seed.example())
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(model).items() if name in model.state_dict()}
    start = Grown(seed, blocks, shapes)
    torch.manual_seed(3)
    first = start.build()
    torch.manual_seed(3)
    second = start.build()
    assert {name: list(tensor.shape) for name, tensor in first.state_dict().items()} == shapes
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters(), strict=True) if a.ndim > 1)
    x = torch.randn(2, *seed.inputs)
    assert first(x).shape == model(x).shape
    assert torch.equal(first.get_submodule("input")(x), model.get_submodule("input")(x))


@pytest.mark.parametrize("kind", SEED_NETWORKS)
def test_uniform_widening_keeps_proportions_and_comes_near(kind):
    seed = SEED_NETWORKS[kind]
    wide = uniform(seed, 5_000)
    ratios = [after / before for before, after in zip(seed.widths, wide.widths, strict=True)]
    assert all(
        abs(a - b) <= 0.5 / x + 0.5 / y
        for (a, x), (b, y) in itertools.combinations(zip(ratios, seed.widths, strict=True), 2)
    )
    assert abs(size(wide) - 5_000) < 250
    assert uniform(seed, size(wide)) == wide


@pytest.mark.parametrize("kind", SEED_NETWORKS)
@pytest.mark.parametrize("params", [1, 400, 1_500])
def test_uniform_widths_are_those_of_a_search_through_all_of_them(kind, params):
    seed = SEED_NETWORKS[kind]
    ladder = [seed.widths]
    while size(of_widths(seed, ladder[-1])) <= params or len(ladder) < 2:
        rises = [(now + 0.5) / first for now, first in zip(ladder[-1], seed.widths, strict=True)]
        next_up = rises.index(min(rises))
        ladder.append(tuple(width + (i == next_up) for i, width in enumerate(ladder[-1])))
    distances = [abs(size(of_widths(seed, widths)) - params) for widths in ladder]
    assert uniform_widths(seed, params) == ladder[distances.index(min(distances))]


def own(name: str, **statistics):
    return imported_seed(f"mynets:{name}", (1, 8, 8), 10, **statistics)


@pytest.mark.parametrize("name", ["vit", "conv", "decoder"])
def test_networks_of_ones_own_are_widened_uniformly_too(name):
    seed = own(name)
    target = 3 * size(seed)
    widths = uniform_widths(seed, target)
    wide = of_widths(seed, widths)
    assert all(after > before for before, after in zip(widths_of(seed), widths, strict=True))
    assert widths == uniform_widths(seed, size(wide))
    assert abs(size(wide) - target) < 0.25 * target
    assert wide.build()(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["vit", "conv", "decoder"])
def test_every_weight_of_ones_own_network_is_drawn_anew_as_the_factory_draws_it(name):
    seed = own(name)
    net = seed.build()
    for axis in axes(net, seed.example()):
        if axis.growable:
            widen_(net, axis.name, axis.size, example=seed.example())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(net).items()}
    new = Grown(seed, (), shapes, settings_of(net, axes(net, seed.example()))).build()
    assert parameters(new) == parameters(net)
    assert new(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert not any((parameter == 7.0).any() for parameter in new.parameters())


class Scaled(torch.nn.Module):
    """A hidden layer behind a bare parameter."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 20), torch.nn.Linear(20, 3)
        self.scale = torch.nn.Parameter(5 + 0.1 * torch.randn(20))

    def forward(self, x):
        return self.last(self.scale * self.first(x).relu())


@pytest.mark.parametrize("factor", [1, 10])
def test_a_bare_parameter_is_drawn_as_the_factory_does(factor):
    seed = ImportedSeed("nets:Scaled", Scaled, (4,), 3)
    scale = of_widths(seed, [20 * factor]).build().model.scale.detach()
    assert scale.shape == (20 * factor,)
    assert float(scale.mean()) == pytest.approx(5, abs=0.2)
    assert 0.05 < float(scale.std()) < 0.2


def test_nothing_is_widened_where_nothing_can_be():
    assert widths_of(own("fixed")) == ()
