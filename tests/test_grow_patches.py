"""What a layer reads, against what the layer computes."""

import pytest
import torch
from torch import nn

from outgrow.grow.patches import (
    groups_of,
    has_rows,
    is_mixer,
    picked_reads,
    picked_writes,
    position_count,
    read_rows,
    stratified,
    summed_reads,
    summed_writes,
    written_rows,
)

LAYERS = [
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(5, 3), (4, 5)),
    (nn.Linear(5, 3), (2, 4, 5)),
    (nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    (nn.Conv1d(3, 4, 3, dilation=2, padding="same"), (3, 8)),
    (nn.Conv1d(2, 4, 4, padding="same", dilation=2), (2, 7)),
    (nn.Conv1d(4, 6, 3, groups=2, padding_mode="replicate", padding=1), (4, 7)),
    (nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 5, 6)),
    (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), (3, 7, 6)),
    (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 5, 5)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 5, 4)),
    (nn.Conv2d(3, 4, 3, padding="valid"), (3, 5, 4)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 4)),
    (nn.Conv2d(4, 6, 3, stride=2, padding="valid", dilation=(1, 2), groups=2, bias=False), (4, 6, 7)),
    (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
    (nn.Conv3d(2, 4, (1, 3, 2), padding="same", padding_mode="circular", groups=2), (2, 3, 4, 3)),
]


def case(layer, shape):
    layer = layer.double()
    x = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return layer, x, layer(x).detach()


each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v))


@each_layer
def test_rows_times_weight_is_what_the_layer_computes(layer, shape):
    layer, x, y = case(layer, shape)
    groups = groups_of(layer)
    reads = read_rows(layer, x).unflatten(2, (groups, -1))
    rows = torch.einsum("npgf,gof->npgo", reads, layer.weight.flatten(1).unflatten(0, (groups, -1))).flatten(2)
    rows = rows if layer.bias is None else rows + layer.bias
    torch.testing.assert_close(rows, written_rows(layer, y))
    assert position_count(layer, y) == rows.shape[1]


@each_layer
def test_picked_and_summed_rows_are_those_of_all_rows(layer, shape):
    layer, x, y = case(layer, shape)
    reads, writes = read_rows(layer, x), written_rows(layer, y)
    where = torch.randint(reads.shape[0] * reads.shape[1], (9,))
    torch.testing.assert_close(picked_reads(layer, x, where), reads.flatten(0, 1)[where], rtol=0, atol=0)
    torch.testing.assert_close(picked_writes(layer, y, where), writes.flatten(0, 1)[where], rtol=0, atol=0)
    torch.testing.assert_close(summed_reads(layer, x), reads.sum(1))
    torch.testing.assert_close(summed_writes(layer, y), writes.sum(1))


def test_rows_do_not_depend_on_the_memory_format():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(4, 3, 5, 6)
    last, where = x.to(memory_format=torch.channels_last), torch.tensor([0, 7, 31, 119])
    assert torch.equal(picked_reads(layer, last, where), picked_reads(layer, x, where))
    assert torch.equal(summed_reads(layer, last), summed_reads(layer, x))
    y = layer(x).detach()
    assert torch.equal(
        picked_writes(layer, y.to(memory_format=torch.channels_last), where), picked_writes(layer, y, where)
    )


@pytest.mark.parametrize(("count", "wanted"), [(12, 3), (10, 3), (7, 6), (5, 5), (5, 9)])
def test_every_row_is_drawn_equally_often(count, wanted):
    generator = torch.Generator().manual_seed(0)
    draws = [stratified(count, wanted, generator) for _ in range(3000)]
    assert all(len(where) == min(count, wanted) for where in draws)
    share = torch.bincount(torch.cat(draws), minlength=count) / 3000
    assert share == pytest.approx(min(wanted / count, 1), abs=0.05)


def test_each_example_is_drawn_its_share():
    for where in (stratified(8 * 10, 8 * 3, torch.Generator().manual_seed(seed)) for seed in range(20)):
        assert torch.bincount(where // 10).tolist() == [3] * 8


def test_only_layers_in_which_every_output_reads_every_input_are_mixers():
    plain, grouped, depthwise = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv1d(4, 4, 3, groups=4)
    assert all(map(is_mixer, (plain, nn.Linear(2, 3))))
    assert all(map(has_rows, (plain, grouped, depthwise, nn.Linear(2, 3))))
    others = nn.ConvTranspose2d(4, 4, 3), nn.ReLU(), nn.Bilinear(2, 2, 2)
    assert not any(map(is_mixer, (grouped, depthwise, *others)))
    assert not any(map(has_rows, others))
