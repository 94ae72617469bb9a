"""Parts are disjoint, cover everything, keep the shares of the classes, and depend on what they should."""

import numpy as np
import pytest
import torch

from outgrow.data.split import TEST_FRACTION, divide, hold_out, quotas

LABELS = [
    pytest.param(torch.arange(100) % 10, id="balanced"),
    pytest.param(torch.tensor([0] * 90 + [1] * 9 + [2] * 1), id="one example of the last class"),
    pytest.param(torch.tensor([0, 1] * 5), id="as few as can be"),
    pytest.param((torch.arange(1000) ** 2) % 7, id="unequal"),
]


def divided(y, task="classification", **options):
    return divide(y, task, **{"seed": 0, "validation": 0.1, "where": "labels"} | options)


@pytest.mark.parametrize("y", LABELS)
@pytest.mark.parametrize("validation", [0.1, 0.3])
def test_parts_are_disjoint_and_cover_everything(y, validation):
    division = divided(y, validation=validation)
    assert torch.cat(list(division)).sort().values.tolist() == list(range(len(y)))
    assert all(len(part) for part in division)


@pytest.mark.parametrize("y", LABELS)
def test_parts_keep_the_shares_of_the_classes(y):
    test = divided(y).test
    counts, held = (torch.bincount(labels, minlength=int(y.max()) + 1) for labels in (y, y[test]))
    assert ((held - TEST_FRACTION * counts).abs() <= 1).all()
    assert abs(len(test) - TEST_FRACTION * len(y)) <= 1


@pytest.mark.parametrize("y", LABELS)
def test_every_class_is_in_the_training_part(y):
    assert set(y[divided(y).train].tolist()) == set(y.tolist())


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_same_seed_same_parts_and_the_test_part_has_no_seed(task):
    y = torch.arange(200) % 4 if task == "classification" else torch.arange(200.0)[:, None]
    first, again, other = (divided(y, task, seed=seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert torch.equal(first.test, other.test)
    assert not torch.equal(first.validation, other.validation)
    assert torch.equal(first.test, divided(y, task, validation=0.4).test)


def test_a_test_part_that_is_given_leaves_everything_to_the_others():
    division = divided(torch.arange(50) % 5, test_given=True)
    assert division.test is None
    assert len(division.train) + len(division.validation) == 50


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.29, 0.5])
def test_quotas_are_within_one_of_the_exact_share_and_sum_to_it(seed, fraction):
    counts = np.random.default_rng(seed).integers(2, 60, 12)
    sizes = quotas(counts, fraction)
    assert (np.abs(sizes - fraction * counts) <= 1).all()
    assert sizes.sum() == round(fraction * counts.sum())
    assert (sizes < counts).all()


def test_each_example_is_as_likely_to_be_held_out():
    y = torch.tensor([0] * 30 + [1] * 10)
    held = torch.stack(
        [torch.bincount(hold_out(y, "classification", 0.1, (s,), "y")[1], minlength=40) for s in range(2000)]
    )
    assert (held.float().mean(0) - 0.1).abs().max() < 0.035  # five standard errors
