"""Properties of every axis and every place of every network of the zoo, Hugging Face ones included."""

import pytest
import torch

from net_cases import CASES
from outgrow.net.graph import graph_of
from outgrow.net.rules import RULES
from outgrow.net.trace import op_name
from zoo import ZOO
from zoo_fixed import GAPS, SETTLED, unlisted
from zoo_hf import HF
from zoo_known import Known, known_of
from zoo_properties import (
    deepening_keeps_the_function,
    growable,
    inserted_blocks_learn,
    removal_takes_widening_back,
    widened_units_learn,
    widening_keeps_the_function,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections"),  # torch's own, slower but right
    pytest.mark.filterwarnings("ignore:.* this example did not use (unused|last).weight"),  # nothing ever does there
]
known = known_of({**ZOO, **CASES, **HF})
RULED = (  # small ones that meet every rule between them
    "embedding bag, mean",
    "group norm, one group",
    "multihead across, weights",
    "sequence",
    "conv1d, width from the weight",
    "encoder, norm last",
    "pixel shuffle at the end",
    "positions",
    "bilinear",
    "glu module",
    "weight norm, old",
    "rms norm inside",
    "early exit",
    "flipped",
    "einsum across",
    "single",
    "channel shuffle",
    "attention, softmax in another type",
    "recurrent",
    "lstm cell",
    "wavenet",
)


def test_what_can_grow(known: Known):
    assert {axis.name: axis.size for axis in growable(known.found)} == known.case.growable


def test_gaps_are_listed(known: Known):
    assert not unlisted(known.name, known.found)


def test_widening_keeps_the_function(known: Known):
    widening_keeps_the_function(known.case, torch.float64, known.found)


def test_widening_keeps_the_function_in_single_precision(known: Known):
    widening_keeps_the_function(known.case, torch.float32, known.found, numbers=(3,))


def test_removal_takes_widening_back(known: Known):
    removal_takes_widening_back(known.case, known.found)


def test_widened_units_learn(known: Known):
    widened_units_learn(known.case, known.found)


def test_deepening_keeps_the_function(known: Known):
    deepening_keeps_the_function(known.case)


def test_inserted_blocks_learn(known: Known):
    inserted_blocks_learn(known.case)


def test_every_rule_is_met_by_a_network():
    cases = [{**ZOO, **CASES}[name] for name in RULED]
    graphs = [graph_of(case.model(), case.example) for case in cases]
    ops = {op_name(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert {RULES[op] for op in ops & RULES.keys()} == set(RULES.values())


def test_every_gap_is_of_a_network():
    assert {network for network, _ in {**GAPS, **SETTLED}} <= {*ZOO, *CASES}
