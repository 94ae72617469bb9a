"""What a layer reads, against what the layer computes."""

import pytest
import torch
from torch import nn

from outgrow.grow.patches import is_mixer, position_count, read_rows, written_rows

LAYERS = [
    (nn.Linear(5, 3), (5,)),
    (nn.Linear(5, 3), (4, 5)),
    (nn.Linear(5, 3), (2, 4, 5)),
    (nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    (nn.Conv1d(3, 4, 3, dilation=2, padding="same"), (3, 8)),
    (nn.Conv1d(2, 4, 4, padding="same", dilation=2), (2, 7)),
    (nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 5, 6)),
    (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), (3, 7, 6)),
    (nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 5, 5)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 5, 4)),
    (nn.Conv2d(3, 4, 3, padding="valid"), (3, 5, 4)),
    (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v))
def test_rows_times_weight_is_what_the_layer_computes(layer, shape):
    layer = layer.double()
    x = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    rows = read_rows(layer, x) @ layer.weight.flatten(1).mT
    rows = rows if layer.bias is None else rows + layer.bias
    torch.testing.assert_close(rows, written_rows(layer, y))
    assert position_count(layer, y) == rows.shape[1]
    chosen = torch.randperm(rows.shape[1])[: max(rows.shape[1] // 2, 1)]
    torch.testing.assert_close(read_rows(layer, x, chosen), read_rows(layer, x)[:, chosen])
    torch.testing.assert_close(written_rows(layer, y, chosen), rows[:, chosen])


def test_grouped_and_other_layers_are_left_alone():
    assert is_mixer(nn.Conv2d(4, 4, 3))
    assert not any(map(is_mixer, (nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3), nn.ReLU())))
