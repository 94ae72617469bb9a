"""Properties of every axis and every place of networks of Hugging Face transformers, at random weights."""

import pytest
import torch

pytest.importorskip("transformers")

from zoo_fixed import unlisted
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

known = known_of(HF)


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
