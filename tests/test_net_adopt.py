"""A saved network, whatever its size, goes into a fresh seed."""

import pytest
import torch
from torch import nn

from net_cases import CASES
from optimizer_cases import seed
from outgrow.net.axes import axes, find_axis
from outgrow.net.carry import adopt_shapes_
from outgrow.net.enlargement import widen
from outgrow.net.widening import Widening


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet", "inverted", "tied language"])
def test_a_saved_network_fits_its_seed(name):
    case = CASES[name]
    model = case.model()
    for axis in case.growable:
        found = axes(model, case.example)
        widen(model, found, [Widening(find_axis(found, axis), 3)])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fresh = case.build()
    adopt_shapes_(fresh, state)
    assert torch.equal(fresh.eval()(case.example), model.eval()(case.example))
    assert repr(fresh) == repr(model)
    with torch.no_grad():
        next(fresh.parameters()).add_(1.0)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())  # it is a copy


def test_a_saved_network_of_another_seed():
    with pytest.raises(KeyError, match="in the seed or in the file only: 6"):
        adopt_shapes_(seed(), nn.Sequential(*seed(), nn.Tanh(), nn.Linear(2, 2)).state_dict())
    assert seed()[0].out_features == 4


def test_buffers_that_are_not_saved_stay():
    class Counts(nn.Linear):
        def __init__(self, inputs: int):
            super().__init__(inputs, 2)
            self.register_buffer("seen", torch.ones(2), persistent=False)

    fresh = Counts(3)
    adopt_shapes_(fresh, Counts(5).state_dict())
    assert fresh.in_features == 5
    assert fresh.seen.tolist() == [1, 1]
