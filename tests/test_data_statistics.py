"""The statistics are those of what a network sees, over the training part, and safe to divide by."""

import pytest
import torch

from data_samples import pixels
from outgrow.data import Batches, Dataset, Split, load
from outgrow.data.statistics import column_statistics, pixel_statistics


def test_pixel_statistics_agree_with_the_float_images():
    x = torch.from_numpy(pixels(20, 3, 9, 7))
    seen, _ = next(iter(Batches(Split(x, torch.arange(20)), 20)))
    mean, std = pixel_statistics(x)
    torch.testing.assert_close(mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(std, seen.std((0, 2, 3), correction=0))


def test_column_statistics_whiten_the_columns():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 10 ** torch.arange(5) + 1e4
    mean, std = column_statistics(x)
    white = (x.double() - mean) / std
    torch.testing.assert_close(white.mean(0), torch.zeros(5).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.std(0, correction=0), torch.ones(5).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, 123456.789])
def test_a_constant_has_standard_deviation_1(value):
    assert column_statistics(torch.full((1000, 1), value))[1].tolist() == [1.0]
    assert pixel_statistics(torch.full((3, 1, 2, 2), 77, dtype=torch.uint8))[1].tolist() == [1.0]


def test_statistics_ignore_validation_and_test():
    def built(other):
        return Dataset("d", "regression", Split(x, x), Split(other, other), Split(other, other), (), False, {})

    x = torch.arange(6.0).reshape(3, 2)
    for name in ("input_statistics", "target_statistics"):
        first, second = (getattr(built(other), name)() for other in (torch.zeros(2, 2), torch.full((2, 2), 1e9)))
        assert all(map(torch.equal, first, second))


def test_properties_of_a_data_set():
    digits = load("digits")
    assert (digits.inputs, digits.outputs, digits.kind, digits.augment) == ((1, 8, 8), 10, "image", False)
    with pytest.raises(ValueError, match="classification"):
        digits.target_statistics()
    table = Dataset("t", "regression", *[Split(torch.zeros(4, 3), torch.zeros(4, 2))] * 3, (), False, {})
    assert (table.inputs, table.outputs, table.kind) == ((3,), 2, "table")
