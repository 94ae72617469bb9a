"""Modules as users write them: shared, frozen, with buffers of their own, named by keywords; and files that fail."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.export import formats, python
from outgrow.export.agreement import TOLERANCE, difference
from outgrow.export.formats import FORMATS
from outgrow.models.affine import Affine
from test_export_python import CARD, IMAGES, ROWS, Forward, written

CARDS = [FORMATS[name] for name in ("state-dict", "torch-export", "python")]


def file_of(net, form, folder, x=ROWS):
    return formats.export(net.eval(), CARD, [x, x[:1]], form, folder / f"net{form.endings[0]}")


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


def alias():
    layer = nn.Linear(4, 4)
    return Forward(lambda m, x: m.b(m.a(x)), a=layer, b=layer)


def not_saved():
    net = Forward(lambda m, x: x + m.places)
    net.register_buffer("places", torch.arange(4.0), persistent=False)
    return net


@pytest.mark.parametrize("form", CARDS, ids=lambda form: form.name)
@pytest.mark.parametrize("make", [tied, alias, not_saved])
def test_tensors_of_two_names_or_that_are_not_saved(make, form, tmp_path):
    assert file_of(make(), form, tmp_path).difference <= 1e-6


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_told(tmp_path):
    with pytest.raises(InputError, match=r"can't write 0\._extra_state, which is no tensor; try --format torch-export"):
        file_of(nn.Sequential(Extra(4, 2)), FORMATS["state-dict"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_stands_at_two_places_stays_at_both(tmp_path):
    act, drop = nn.Hardtanh(-0.1, 0.1), nn.Dropout(0.5)
    net = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), drop, act, nn.Linear(4, 4), act, drop)
    _, loaded = written(net, ROWS, tmp_path)
    assert [type(module) for module in loaded] == [type(module) for module in net]
    assert difference(net, loaded, [100 * ROWS]) <= 1e-6


class NoBack(nn.Module):
    def __init__(self):
        super().__init__()
        self.back, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.back(x)
        return self.head(x)


class Still(nn.Module):
    """Keeps its statistics whatever it is told."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


def test_frozen_layers_stay_frozen(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 2))
    text, loaded = written(net, ROWS, tmp_path)
    assert "train() and eval() do what they did" in text
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in net.parameters()]


def test_a_network_without_gradients_is_written_as_classes(tmp_path):
    net = Forward(lambda m, x: torch.sigmoid(m.a(x)).mul_(m.weight), a=nn.Linear(4, 4))
    assert not file_of(net, FORMATS["python"], tmp_path).lost


def test_what_is_lost_of_the_training_is_told(tmp_path):
    done = file_of(NoBack(), FORMATS["python"], tmp_path)
    assert re.search("for prediction alone, .* in place of classes: they would train other weights", done.lost)
    torch.manual_seed(0)
    assert (
        "that of eval mode"
        in formats.export(Still().eval(), CARD, [ROWS], FORMATS["python"], tmp_path / "still.py").lost
    )
    assert not file_of(nn.Linear(4, 2), FORMATS["python"], tmp_path / "plain").lost


class Block(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, inner), nn.ReLU(), nn.Linear(inner, outer), nn.ReLU(), nn.Linear(outer, 4)
        )

    def forward(self, x):
        return x + self.net(x)


class Through(nn.Module):
    def forward(self, x):
        return x


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * torch.bernoulli(torch.full((x.shape[0], 1), 0.5))


class ConvNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())


def keywords():
    net = Forward(lambda m, x: m.get_submodule("in")(x))
    net.add_module("in", nn.Linear(4, 4))
    return net


MODULES = {
    "blocks that grew apart": (lambda: nn.Sequential(Block(2, 3), Block(5, 6)), ROWS),
    "an input handed on": (lambda: nn.Sequential(nn.Linear(4, 4), Through(), DropPath()), ROWS),
    "a subclass of Sequential": (lambda: nn.Sequential(ConvNorm(), nn.Flatten()), IMAGES),
    "a keyword": (keywords, ROWS),
    "numbers of numpy": (
        lambda: Forward(lambda m, x: x / np.sqrt(4.0), d=nn.Dropout(np.float64(0.1))),
        ROWS,
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_they_are_written_as_classes(name, tmp_path):
    make, x = MODULES[name]
    net = make()
    text, loaded = written(net, x, tmp_path)
    assert "torch.ops" not in text
    assert difference(net, loaded, [x]) <= 1e-6
    assert {key: value.shape for key, value in loaded.named_parameters()} == {
        key: value.shape for key, value in net.named_parameters()
    }


def test_a_name_with_quotes_is_text_in_a_graph(tmp_path):
    layers = nn.ModuleDict({'say "a"': nn.Linear(4, 4)})
    net = Forward(lambda m, x: m.layers['say "a"'](x) if x.shape[1] == 4 else x, layers=layers)
    _, loaded = written(net, ROWS, tmp_path)
    assert difference(net, loaded, [ROWS]) <= 1e-6


def test_a_mean_far_from_zero_hides_no_difference():
    def net():
        return nn.Sequential(nn.Linear(4, 1), Affine(torch.ones(1), torch.full((1,), 2e5)))

    one, other = net(), net()
    assert difference(one, other, [ROWS]) > TOLERANCE
    assert difference(one, one, [ROWS]) == 0
    assert difference(nn.Identity(), lambda x: x + 0.0156, [ROWS + 2e5]) < TOLERANCE  # one rounding error


@pytest.mark.parametrize("other", [float("-inf"), float("nan"), 1.0])
def test_what_is_not_finite_has_to_be_the_same(other):
    x = torch.tensor([[float("inf")], [1.0], [2.0]])
    assert difference(nn.Identity(), lambda x: x.nan_to_num(0.5), [x.masked_fill(x == 1, float("nan"))]) == float("inf")
    assert difference(nn.Identity(), lambda x: x, [x]) == 0
    assert difference(nn.Identity(), lambda x: x.masked_fill(x.isinf(), other), [x]) == float("inf")


def test_what_fails_when_it_is_read_back_is_one_line(tmp_path, monkeypatch):
    def fails(file, net):
        raise RuntimeError("NOT_IMPLEMENTED : Gemm(13)\nand more")

    monkeypatch.setattr(python, "read", fails)
    with pytest.raises(
        InputError, match=r"is not written: as python it can't be read back: NOT_IMPLEMENTED : Gemm\(13\)$"
    ):
        file_of(nn.Linear(4, 2), FORMATS["python"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_op_that_onnx_lacks_is_named(tmp_path):
    net = Forward(lambda m, x: torch.special.bessel_j0(x))
    with pytest.raises(InputError, match=r"as ONNX: .*bessel_j0"):
        file_of(net, FORMATS["onnx"], tmp_path)


@pytest.mark.parametrize("form", CARDS, ids=lambda form: form.name)
def test_a_full_disk_is_told(form, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match=r"can't write .*: No space left on device"):
        formats.export(nn.Linear(4, 2).eval(), CARD, [ROWS], form, tmp_path / f"net{form.endings[-1]}")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(InputError, match=r"can't write .*: File name too long"):
        formats.export(nn.Linear(4, 2).eval(), CARD, [ROWS], FORMATS["state-dict"], tmp_path / f"{'a' * 300}.pt")


def test_a_folder_beside_is_named(tmp_path):
    (tmp_path / "net.json").mkdir()
    with pytest.raises(InputError, match=r"net\.json is a folder"):
        formats.export(nn.Linear(4, 2).eval(), CARD, [ROWS], FORMATS["state-dict"], tmp_path / "net.pt")
