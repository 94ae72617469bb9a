"""`outgrow inspect` as a user meets it: two tables, and one clear line for bad input."""

import re
import sys

import pytest

from outgrow.cli import main

NETS = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))

def small():
    return nn.Sequential(nn.Linear(3, 8), Attention(), nn.Linear(8, 2))

def pair():
    return small(), torch.randn(2, 5, 3)

def words():
    return nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 2))

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = words()

    def forward(self, ids):
        return self.net(ids)

def needs(width):
    return nn.Linear(width, 2)

def absent():
    raise FileNotFoundError("weights.pt")

def leaves():
    raise SystemExit("usage: mynets")

def lazy():
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))

def later():
    from beside import make
    return make()

model = small()
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("from torch import nn\n\nmake = lambda: nn.Linear(3, 2)\n")
    (tmp_path / "script.py").write_text("import argparse\n\nargparse.ArgumentParser().parse_args(['--none'])\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mynets", "beside", "script"):
        monkeypatch.setitem(sys.modules, name, None)  # what is imported goes again
        del sys.modules[name]
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [["small", "--example", "2x5x3"], ["pair"], ["model", "--example", "1x4x3"]],
    ids=["shape", "pair", "model"],
)
def test_axes_and_places_are_shown(here, capsys, words):
    assert main(["inspect", f"mynets:{words[0]}", *words[1:]]) == 0
    printed = capsys.readouterr().out
    assert "354 parameters" in printed
    assert re.search(r"1 of \d axes can grow, a block can go to 1 place$", printed, re.MULTILINE)
    assert re.search(r"1\.qkv +2 +12 channels +1\.qkv\.weight\[0\] by 12", printed)
    assert "1.heads" in printed
    assert "layer_norm: its mean and variance run over all channels" in printed
    assert "mynets.py" in printed  # where that is
    assert re.search(r"^ ?1 +residual +a copy of it \(Attention\)", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("words", [["words", "--example", "2x6:20"], ["Named", "--example", "ids=2x6:20"]])
def test_whole_numbers_and_keywords(here, capsys, words):
    assert main(["inspect", f"mynets:{words[0]}", *words[1:]]) == 0
    assert re.search(r"0 +4 +one channel", capsys.readouterr().out)


def test_a_script_that_ends_the_program_is_told(here, capsys):
    assert main(["inspect", "script:net"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("outgrow: script:net: importing script ends the program, as a script does")


def test_a_module_may_take_the_folder_out_of_the_path(here, capsys):
    (here / "script.py").write_text("import sys\nfrom mynets import small\n\nsys.path[:] = sys.path[1:]\n")
    assert main(["inspect", "script:small", "--example", "2x5x3"]) == 0


def test_a_factory_finds_what_lies_beside_it(here, capsys):
    assert main(["inspect", "mynets:later", "--example", "1x3"]) == 0
    assert "Linear, 8 parameters" in capsys.readouterr().out
    assert sys.path[-1] == str(here)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mynets"], "mynets: expected package.module:factory"),
        (["nothing:small"], "nothing:small: No module named 'nothing'"),
        (["mynets:nothing"], "mynets:nothing: module 'mynets' has no attribute 'nothing'"),
        (["mynets:needs"], "mynets:needs: expected a function or class to call with nothing; it raised TypeError: "),
        (["mynets:number"], "mynets:number: expected a function or class to call with nothing; it raised TypeError: "),
        (["mynets:absent"], "mynets:absent: expected a function or class to call with nothing; it raised FileNotFound"),
        (["mynets:leaves"], "mynets:leaves: expected a function or class to call with nothing; it raised SystemExit"),
        (["mynets:lazy", "--example", "1x3"], "Sequential: expected weights that have shapes, got a lazy layer"),
        (
            ["mynets:small", "--example", "1x1000000x1000000x1000000"],
            "--example 1x1000000x1000000x1000000: torch can't",
        ),
        (["mynets:small", "--example", "1:99999999999999999999"], "--example 1:99999999999999999999: torch can't"),
        (["mynets:small", "--example", "0=1x3"], "--example 0=1x3: expected a shape such as 1x3x32x32"),
        (["mynets:small"], "mynets:small gives no example of an input: add --example"),
        (["mynets:small", "--example", "3,4"], "--example 3,4: expected a shape such as 1x3x32x32"),
        (["mynets:small", "--example", "a=1x2", "3x4"], "--example: expected names for all inputs or for none"),
        (["mynets:small", "--example", "1x5x7"], "Sequential does not run on this example: mat1 and mat2"),
    ],
)
def test_bad_input_is_one_line(here, capsys, words, message):
    assert main(["inspect", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"outgrow: {message}")
    assert err.count("\n") == 1
