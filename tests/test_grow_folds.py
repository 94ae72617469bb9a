"""Folds: every example in one of them, and choices that hold on the other."""

import pytest
import torch

from outgrow.errors import InputError
from outgrow.grow.closed import closed_form, held_out_value
from outgrow.grow.folds import DAMPINGS, best_on_the_other, drop, folds
from outgrow.grow.sample import Batch, examples_in


def batches_of(*sizes):
    found, start = [], 0
    for size in sizes:
        x = torch.arange(start, start + size)
        found.append(Batch({"x": x, "pair": (x[:, None], "name")}, {"y": x}, size))
        start += size
    return found


@pytest.mark.parametrize("sizes", [(2,), (7,), (4, 4), (5, 5, 5), (3, 2, 1), (64, 64, 64, 64)])
def test_every_example_is_in_one_fold_with_its_target(sizes):
    parts = folds(batches_of(*sizes))
    seen = []
    for part in parts:
        for batch in part:
            x = batch.inputs["x"]
            assert batch.size == len(x)
            assert torch.equal(batch.inputs["pair"][0][:, 0], x)
            assert torch.equal(batch.target["y"], x)
            assert batch.inputs["pair"][1] == "name"
            seen += x.tolist()
    assert sorted(seen) == list(range(sum(sizes)))
    first, second = map(examples_in, parts)
    assert abs(first - second) <= (max(sizes) if len(sizes) > 1 else 1)


def test_one_example_has_no_folds():
    with pytest.raises(InputError, match="two folds need at least two examples, received 1"):
        folds(batches_of(1))


def test_the_best_value_of_both_ways_wins_and_the_largest_damping_a_draw():
    assert best_on_the_other((1, 2, 3), (5, 7), lambda d, make, test: -((d - 2) ** 2) + make - test) == 2
    assert best_on_the_other((1, 2, 3), (5, 7), lambda d, make, test: 0.0) == 3


def test_a_drop_is_the_most_that_a_quadratic_gives():
    steps = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    assert drop(0.6, 2.0) == pytest.approx(float((0.6 * steps - steps.square()).max()))
    assert drop(-0.6, 2.0) == drop(0.6, 0.0) == 0.0


def samples(seed, n, signal, inputs=12, outputs=6):
    """A and the cross moment of three samples of n, n, and many: inputs of uneven scales, noise of unit variance."""
    g = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1, 0.5, inputs, dtype=torch.float64)
    weights = torch.randn(inputs, 1, dtype=torch.float64, generator=g) @ torch.randn(
        1, outputs, dtype=torch.float64, generator=g
    )
    found = []
    for count in (n, n, 20000):
        x = torch.randn(count, inputs, dtype=torch.float64, generator=g) * scales
        u = signal * (x / scales) @ weights + torch.randn(count, outputs, dtype=torch.float64, generator=g)
        found.append((x.mT @ x / count, x.mT @ u / count))
    return found


def chosen_and_values(seed, n, signal):
    first, second, many = samples(seed, n, signal)
    chosen = best_on_the_other(DAMPINGS, (first, second), lambda d, make, test: held_out_value(d, make, test, 2))
    together = tuple((a + b) / 2 for a, b in zip(first, second, strict=True))
    return chosen, {damping: held_out_value(damping, together, many, 2) for damping in DAMPINGS}


def test_with_a_strong_signal_and_plenty_of_data_a_small_damping_is_chosen():
    assert all(chosen_and_values(seed, 5000, 0.3)[0] == min(DAMPINGS) for seed in range(5))


def test_on_pure_noise_nothing_is_lost():
    for seed in range(10):
        chosen, values = chosen_and_values(seed, 100, 0.0)
        assert max(values.values()) - values[chosen] < 0.002


@pytest.mark.parametrize(("n", "signal"), [(30, 0.1), (100, 0.1), (1000, 0.03), (1000, 0.3)])
def test_the_chosen_damping_is_worth_at_least_the_fixed_one_on_average(n, signal):
    found = [chosen_and_values(seed, n, signal) for seed in range(40)]
    chosen = sum(values[damping] for damping, values in found)
    fixed = sum(values[1.0] for _, values in found)
    assert chosen >= 0.98 * fixed


def test_the_value_is_what_k_fac_says_of_the_step_of_a_linear_map():
    make, test, _ = samples(0, 50, 0.3)
    D = closed_form(*make, 3, 0.1)
    V = -make[1].mT @ D @ D.mT
    slope, curvature = -(V * test[1].mT).sum(), torch.trace(V @ test[0] @ V.mT)
    assert held_out_value(0.1, make, test, 3) == pytest.approx(float(slope**2 / (2 * curvature)))
