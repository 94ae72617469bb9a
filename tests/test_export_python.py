"""Networks as Python files: classes as by hand where their code can be read so, a graph elsewhere, right in either."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export_runs import SEEDS
from outgrow.errors import InputError
from outgrow.export import python
from outgrow.export.agreement import difference
from outgrow.export.card import Card
from outgrow.export.layers import layer_call
from outgrow.export.source import WIDTH, UnwritableError, flat

IMAGES = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Forward(nn.Module):
    """A forward that a test gives."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.how = forward
        self.weight = nn.Parameter(torch.rand(4))
        self.register_buffer("count", torch.tensor([3]))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.how(self, x)


class Residual(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x):
        shortcut = x
        x = self.down(F.relu(self.up(x)))
        x += shortcut
        return x


def wide(inner):
    return nn.Sequential(*(Residual(4, width) for width in inner))


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


CLASSES = {
    "residual": (lambda: wide((3, 5)), ROWS),
    "operators": (lambda: Forward(lambda m, x: (-2) ** m.count * x + x**2 / 3 - (1 - x) @ x.T @ x), ROWS),
    "slices": (lambda: Forward(lambda m, x: torch.cat([x[:, 1:], x[:, :1], x[..., None].flatten(1)], 1)), ROWS),
    "sizes": (lambda: Forward(lambda m, x: x.reshape(x.shape[0], -1, 2).transpose(1, 2).reshape(x.size(0), -1)), ROWS),
    "own tensors": (lambda: Forward(lambda m, x: F.gelu(x * m.weight) + m.count), ROWS),
    "read by a child": (lambda: Forward(lambda m, x: F.linear(x, m.a.weight) + m.a(x), a=nn.Linear(4, 4)), ROWS),
    "a masked row": (lambda: Forward(lambda m, x: x.masked_fill(x < 0, float("-inf")).softmax(-1)), ROWS),
    "pooling": (lambda: nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES),
    "attention": (lambda: Forward(lambda m, x: F.scaled_dot_product_attention(x, x, x, scale=0.5)), ROWS[None]),
    "a layer alone": (lambda: nn.Linear(4, 2), ROWS),
}
GRAPHS = {
    "tied": (tied, ROWS),
    "a branch on a shape": (lambda: Forward(lambda m, x: x * m.weight if x.shape[1] == 4 else x), ROWS),
    "recurrent": (
        lambda: Forward(lambda m, x: m.layer(x)[0][:, -1], layer=nn.LSTM(6, 3, batch_first=True)),
        IMAGES[:, 0],
    ),
    "a constant": (lambda: Forward(lambda m, x: x + torch.tensor([1.0, 2.0, 3.0, 4.0])), ROWS),
    "names that are numbers": (
        lambda: Forward(lambda m, x: x * m.list[0] if x.shape[1] == 4 else x, list=nn.ParameterList([torch.rand(4)])),
        ROWS,
    ),
    "hooks": (lambda: hooked(nn.Linear(4, 2)), ROWS),
}


def hooked(net):
    net.register_forward_hook(lambda module, args, output: output * 2)
    return net


CARD = Card("1-9", "net", "classification", (4,), 2, (), {}, (), 9, 9, {}, None)


def written(net, x, folder):
    """The file of a network, and what its own code loads."""
    torch.manual_seed(1)
    file = folder / "net.py"
    python.write(net.eval(), CARD, x, file)
    return file.read_text(), python.read(file, net)


@pytest.mark.parametrize("name", CLASSES)
def test_what_can_be_read_as_code_is_written_as_classes(name, tmp_path):
    make, x = CLASSES[name]
    net = make()
    text, loaded = written(net, x, tmp_path)
    assert "torch.ops" not in text
    assert difference(net, loaded, [x, x[:1], torch.cat([x, x])]) <= 1e-6
    assert {key: value.shape for key, value in loaded.named_parameters()} == {
        key: value.shape for key, value in net.named_parameters()
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_what_can_not_is_written_as_a_graph_that_keeps_the_names_of_parameters(name, tmp_path):
    make, x = GRAPHS[name]
    net = make()
    text, loaded = written(net, x, tmp_path)
    assert "torch.ops.aten" in text
    assert "not for more training" in " ".join(text.split())
    assert difference(net, loaded, [x, x[:1], torch.cat([x, x])]) <= 1e-6
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_what_can_be_written_in_neither_form_is_told(tmp_path):
    net = Forward(lambda m, x: x if x.sum() > 0 else -x)
    with pytest.raises(InputError, match=r"can't write this network for any number of rows"):
        written(net, ROWS, tmp_path)
    with pytest.raises(InputError, match=r"write x.shape\[0\] in place of len"):
        written(Forward(lambda m, x: x.reshape(len(x), -1)), ROWS, tmp_path)


@pytest.mark.parametrize("name", SEEDS)
def test_built_in_networks_train_as_before_and_import_torch_alone(name, tmp_path):
    seed = SEEDS[name]
    net = seed.build()
    x = torch.rand(6, *seed.inputs, generator=torch.Generator().manual_seed(0))
    text, loaded = written(net, x, tmp_path)
    assert "train() and eval() do what they did" in text
    imported = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= {"torch", "torch.nn.functional", "pathlib"}
    assert max(map(len, text.splitlines())) <= WIDTH
    for each in (net.train(), loaded.train()):
        each(x).square().sum().backward()
    gradients = [(p.grad, q.grad) for p, q in zip(net.parameters(), loaded.parameters(), strict=True)]
    assert all(torch.allclose(p, q) for p, q in gradients)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in loaded.state_dict().items())


def test_modules_that_differ_in_widths_alone_share_a_class(tmp_path):
    text, _ = written(wide((3, 5, 3)), ROWS, tmp_path)
    assert text.count("class ") == 1
    assert "nn.Sequential(Residual(3), Residual(5), Residual(3))" in text
    assert "self.up = nn.Linear(4, out_features)" in text
    assert "self.down = nn.Linear(out_features, 4)" in text


def test_a_class_never_hides_what_the_file_imports(tmp_path):
    kinds = [type(name, (Residual,), {}) for name in ("F", "Path", "nn")]
    net = nn.Sequential(*(kind(4, 3) for kind in kinds))
    text, loaded = written(net, ROWS, tmp_path)
    assert re.findall(r"^class (\w+)", text, re.MULTILINE) == ["F2", "Path2", "nn2"]
    assert difference(net, loaded, [ROWS]) <= 1e-6


def test_dropout_by_a_function_is_said_to_be_off(tmp_path):
    net = Forward(lambda m, x: F.dropout(x, 0.5, m.training))
    text, loaded = written(net, ROWS, tmp_path)
    assert "that of eval mode" in text
    assert torch.equal(loaded.train()(ROWS), ROWS)


def test_files_are_equal_every_time_and_free_of_lint(tmp_path):
    cases = {**CLASSES, **GRAPHS}
    for name, (make, x) in cases.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        torch.manual_seed(0)
        net = make()
        assert written(net, x, folder)[0] == written(net, x, folder)[0]
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F", str(tmp_path)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_names_from_files_are_text_and_never_code(tmp_path):
    file = tmp_path / "net.py"
    evil = '"""; raise SystemExit; """'
    python.write(nn.Linear(4, 2).eval(), replace(CARD, network=evil, classes=(evil, "ü\n\\", "it's")), ROWS, file)
    assert runpy.run_path(str(file))["CLASSES"] == (evil, "ü\n\\", "it's")


LAYERS = [
    nn.Linear(3, 2, bias=False),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(4, 6, (3, 1), padding="same", padding_mode="reflect"),
    nn.Conv1d(4, 6, 3, dilation=2),
    nn.ConvTranspose2d(4, 6, 2, stride=2, output_padding=1),
    nn.BatchNorm2d(5, eps=1e-3, momentum=None, affine=False),
    nn.GroupNorm(2, 6),
    nn.LayerNorm((4, 3), elementwise_affine=False),
    nn.LayerNorm(4, bias=False),
    nn.MaxPool2d(3, stride=2, padding=1),
    nn.AvgPool2d((2, 1)),
    nn.AdaptiveAvgPool2d((1, None)),
    nn.Dropout(0.3),
    nn.LeakyReLU(0.2, inplace=True),
    nn.PReLU(4),
    nn.GELU(approximate="tanh"),
    nn.Flatten(2),
    nn.Embedding(9, 4, padding_idx=0),
    nn.Upsample(scale_factor=2.0, mode="bilinear"),
    nn.MultiheadAttention(4, 2, batch_first=True),
    nn.Identity(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_is_made_again_by_its_call(layer):
    made = eval(flat(layer_call(layer, "layer")), {"nn": nn})
    assert repr(made) == repr(layer)
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


def test_a_layer_that_torch_would_make_otherwise_is_refused():
    layer = nn.Linear(3, 2)
    layer.gain = 2.0
    with pytest.raises(UnwritableError, match="a Linear of which torch"):
        layer_call(layer, "layer")


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.layer(x)


def test_a_network_that_counts_in_training_is_written(tmp_path):
    text, loaded = written(Counting(), ROWS, tmp_path)
    assert "class Counting" in text
    assert "that of eval mode" in text
    assert loaded.calls.item() == 0
