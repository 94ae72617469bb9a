"""The properties of the zoo on random networks.

100 networks, the same in every run; `HYPOTHESIS_PROFILE=nightly` draws 2,000 others.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from outgrow.net.axes import axes
from random_nets import Net, nets
from zoo_properties import (
    deepening_keeps_the_function,
    opened,
    removal_takes_widening_back,
    widened_units_learn,
    widening_keeps_the_function,
)

slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=slow)
settings.register_profile("nightly", max_examples=2000, deadline=None, database=None, suppress_health_check=slow)
FOUND = [  # networks on which an earlier version went wrong
    Net("words", 1, (), True),
    Net("rows", 1, (("halves", 1, False),)),
    Net("image", 1, (("concat", (), ()),), True),
    Net("rows", 4, (("shared", (("glu", 1, "glu"),)),)),
    Net("words", 1, (("shared", (("attention", 1, 1, 1, "heads"),)),)),
    Net("rows", 3, (("residual", (("residual", (), True, ""),), False, "rms"),), True),
    Net("words", 2, (("layer", 4, "rms", "relu", 1),)),
    Net(
        "image", 1, (("excite", 1), ("shared", ()), ("shared", (("layer", 1, "none", "relu", 3), ("halves", 1, True))))
    ),
    Net("words", 1, (("shared", (("attention", 1, 1, 1, "head size"), ("attention", 1, 1, 1, "heads"))),)),
]
chosen = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.mark.parametrize("net", FOUND, ids=repr)
def test_what_went_wrong_once(net: Net):
    widening_keeps_the_function(net.entry(), torch.float64)
    removal_takes_widening_back(net.entry())
    widened_units_learn(net.entry())


@chosen
@given(nets)
def test_widening_keeps_the_function_removal_takes_it_back_and_what_is_new_learns(net: Net):
    case = net.entry()
    found = axes(*opened(case))
    widening_keeps_the_function(case, torch.float64, found)
    removal_takes_widening_back(case, found)
    widened_units_learn(net.entry(alive=True), found)


@chosen
@given(nets)
def test_deepening_keeps_the_function(net: Net):
    deepening_keeps_the_function(net.entry())
