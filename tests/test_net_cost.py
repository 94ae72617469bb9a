"""What a network costs, and what it would cost."""

import copy
import itertools

import pytest
import torch
from torch import nn

from net_cases import CASES, IMAGE, Case, axes_of, noise
from outgrow.net.cost import flops, flops_after, flops_by_weight, parameters, parameters_after
from outgrow.net.widen import apply_
from outgrow.net.widening import Widening

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def units_for(case: Case) -> dict[str, int]:
    return dict(zip(case.growable, itertools.cycle((3, 1, 4, 2)), strict=False))


@every_case
def test_what_a_network_would_cost_is_what_it_costs_then(case: Case):
    model = case.model()
    found, units, counts = axes_of(case), units_for(case), flops_by_weight(model, case.example)
    expected = parameters_after(model, found, units), flops_after(model, found, units, counts)
    assert parameters_after(model, found, {}) == parameters(model)
    assert flops_after(model, found, {}, counts) == sum(counts.values()) == flops(model, case.example)
    edit = apply_(model, found, [Widening(a, units[a.name]) for a in found if a.growable], inputs=case.example)
    assert parameters(model) == expected[0]
    if not counts[""]:  # exact where layers do all the work
        assert flops(model, case.example) == expected[1]
    back = {name: -count for name, count in units.items()}
    assert parameters_after(model, edit.axes, back) == parameters(case.model())


def test_most_networks_work_in_layers_alone():
    outside = {name for name, case in CASES.items() if flops_by_weight(case.model(), case.example)[""]}
    assert outside == {"bare", "encoder", "encoder, norm last", "recurrent"}


@every_case
def test_counting_changes_nothing(case: Case):
    model = case.model().train()
    tensors = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    flops(model, case.example)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in tensors.items())
    assert all(module.training for module in model.modules())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("layer", "example", "multiply_adds"),
    [
        (nn.Linear(3, 5), noise(4, 3), 4 * 3 * 5),
        (nn.Linear(3, 5, bias=False), noise(4, 7, 3), 4 * 7 * 3 * 5),
        (nn.Conv2d(3, 5, 3, padding=1), noise(2, 3, 8, 8), 2 * 64 * 9 * 3 * 5),
        (nn.Conv2d(3, 5, 3, stride=2), noise(2, 3, 9, 9), 2 * 16 * 9 * 3 * 5),
        (nn.Conv1d(2, 4, 5), noise(3, 2, 12), 3 * 8 * 5 * 2 * 4),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), noise(2, 6, 8, 8), 2 * 64 * 9 * 6),
    ],
)
def test_flops_by_hand(layer, example, multiply_adds):
    assert flops(layer, example) == 2 * multiply_adds
    assert flops_by_weight(layer, example) == {"weight": 2 * multiply_adds, "": 0}


def test_flops_by_layer():
    model = CASES["convnet"].model()
    counts = flops_by_weight(model, IMAGE[:1])
    assert counts["convnet.blocks.0.conv.weight"] == 2 * 64 * 9 * 3 * 2
    assert counts["convnet.blocks.2.conv.weight"] == 2 * 16 * 9 * 3 * 4
    assert counts["convnet.head.weight"] == 2 * 3 * 3


def test_shared_and_tied_layers_count_as_often_as_they_run():
    example = CASES["shared"].example
    assert flops_by_weight(CASES["shared"].model(), example) == {
        "side.weight": 2 * 2 * 4 * 3 * 4,
        "row.weight": 3 * 2 * 4 * 4 * 4,
        "head.weight": 2 * 4 * 8 * 2,
        "": 0,
    }
    layer = nn.Linear(3, 3)
    assert flops_by_weight(nn.Sequential(layer, layer), noise(4, 3)) == {"0.weight": 2 * 2 * 4 * 9, "": 0}
    tied = CASES["tied"].model()
    assert flops_by_weight(tied, noise(4, 3))["b.weight"] == 2 * 2 * 4 * 16
    assert parameters(tied) == 16 + 20 + 4 + 10


class Adapted(nn.Linear):
    """A linear layer with a narrow detour beside it."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 1), nn.Linear(1, outputs)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


def test_layers_within_a_layer_are_counted_once():
    counts = flops_by_weight(nn.Sequential(Adapted(3, 4)), noise(1, 3))
    assert counts == {"0.weight": 24, "0.down.weight": 6, "0.up.weight": 8, "": 0}
    assert flops_by_weight(Adapted(3, 4), noise(1, 3)) == {"weight": 24, "down.weight": 6, "up.weight": 8, "": 0}


def test_examples_of_every_form():
    tensors, words = (flops(CASES[name].model(), CASES[name].example) for name in ("tuple", "keywords"))
    assert tensors == words == 2 * 4 * (3 * 4 + 2 * 4 + 4 * 2)


def test_flops_scale_with_the_examples():
    model = CASES["resnet"].model()
    assert flops(model, IMAGE) == 4 * flops(model, IMAGE[:1])
    assert flops(copy.deepcopy(model).double(), IMAGE.double()) == flops(model, IMAGE)


def test_a_forward_pass_that_asks_for_values_is_counted_too():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, mask):
            return self.layer(x) if mask.all() else x

    model = Asks().train()
    assert flops(model, {"x": torch.zeros(1, 3), "mask": torch.ones(1)}) == 12
    assert model.training


class Wary(nn.Module):
    """Looks at the values before it runs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN")
        return self.inner(x)


class Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])


@pytest.mark.parametrize(
    "inner",
    [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), Attention(), nn.LSTM(8, 8, batch_first=True)],
    ids=["encoder", "attention", "recurrent"],
)
def test_a_look_at_the_values_changes_no_count(inner):
    x = noise(2, 4, 8)
    fast = torch.backends.mha.get_fastpath_enabled()
    assert flops(Wary(inner), x) == flops(inner, x) > 0
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.mkldnn.set_flags()[0]
