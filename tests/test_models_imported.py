"""Seed networks of the user's own: grown from the command line, loaded bit for bit, and never imported by a file."""

import copy
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import outgrow
from outgrow import Family, data
from outgrow.cli import main
from outgrow.data import Batches
from outgrow.errors import InputError
from outgrow.models import ImportedSeed, Seed, imported_seed, seed_from_json
from outgrow.net.cost import parameters
from outgrow.train.evaluate import evaluate

NETS = Path(__file__).with_name("mynets.py").read_text()
PAGE = (Path(__file__).parents[1] / "docs" / "family.md").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's module, which is not imported yet."""
    (tmp_path / "usernets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "usernets", raising=False)
    return tmp_path


def seed_of(name, **statistics):
    return imported_seed(f"mynets:{name}", (1, 8, 8), 10, **statistics)


@pytest.mark.parametrize("name", ["vit", "conv", "decoder"])
def test_a_network_of_ones_own_grows_and_each_size_is_what_was_saved(name, here, capsys):
    assert main(["grow", "digits", "--model", f"usernets:{name}", "--epochs", "3", "--max-params", "5k"]) == 0
    assert f"usernets:{name}: " in capsys.readouterr().out
    family, digits = Family("runs/digits"), data.load("digits")
    assert len(family) > 1
    for size in family:
        net = size.load(f"usernets:{name}")
        assert parameters(net) == size.params
        for split, said in ((digits.validation, size.validation), (digits.test, size.test)):
            assert evaluate(net, Batches(split, 256), F.cross_entropy, "classification") == said
    if name == "vit":
        assert net.model.blocks[0].heads > 2


@pytest.mark.parametrize("name", ["vit", "conv", "decoder"])
def test_a_seed_starts_from_torchs_random_state_and_comes_back_from_json(name):
    state = torch.get_rng_state()
    seed = seed_of(name)
    assert torch.equal(torch.get_rng_state(), state)
    values = json.loads(json.dumps(seed.to_json()))
    again = seed_from_json(values, f"mynets:{name}")
    assert isinstance(again, ImportedSeed)
    assert again == seed
    x = torch.rand(3, 1, 8, 8)
    answers = []
    for one in (seed, again, seed):
        torch.manual_seed(len(answers) // 2)
        answers.append(one.build().eval()(x))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_units_go_in_and_out_as_with_built_in_seeds():
    units = {"input_mean": (1.0, 2.0), "input_std": (3.0, 4.0), "output_mean": (5.0,), "output_std": (7.0,)}
    seed = imported_seed("mynets:table", (2,), 1, **units)
    net, like = seed.build(), Seed("mlp", (2,), 1, **units).build()
    x = torch.randn(4, 2)
    assert torch.equal(net.input(x), like.input(x))
    assert torch.equal(net(x), like.output(net.model(net.input(x))))
    assert torch.equal(seed.example(), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "expected a function or class that makes a network, got int"),
        ("made", "expected a function or class that makes a network, got Sequential"),
        ("same", "expected a new network at every call, got one that shares weights"),
        ("tied", "expected a new network at every call, got one that shares weights"),
        ("changing", r"expected a network of the same shapes at every call; 1.weight was \[3, 64\] and is \[4, 64\]"),
        ("five", r"expected a network that gives \[2, 10\], .* got \[2, 5\]"),
        ("Tuple", r"expected a network that gives \[2, 10\], .* got tuple"),
        ("wrong", r"expected a network that reads \[2, 1, 8, 8\], .* it raised RuntimeError: mat1"),
        ("needs", r"expected .* to call with nothing, or with inputs=\(1, 8, 8\) and outputs=10; it raised TypeError"),
        ("fails", "it raised OSError: no$"),
        ("lazy", "got a lazy layer: give it its sizes"),
        ("seed_of", "module 'mynets' has no attribute 'seed_of'"),
    ],
)
def test_a_factory_that_can_not_be_a_seed_is_told(name, message):
    with pytest.raises(InputError, match=rf"^mynets:{name}: .*{message}"):
        seed_of(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["usernets:vit", "--widths", "3", "4"], "--widths 3 4: usernets:vit sets its own; leave --widths out"),
        (["usernets:vit", "--max-params", "99"], "or start with a smaller network than usernets:vit makes"),
        (["usernets:fixed"], "nothing of Sequential can grow"),
        (["usernets"], "unknown model 'usernets': choose one of mlp, convnet, resnet, or name your own as"),
        (["nowhere:net"], "nowhere:net: No module named 'nowhere'"),
    ],
)
def test_a_command_that_can_not_work_says_so_in_one_line(words, message, here, capsys):
    assert main(["grow", "digits", "--model", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (here / "runs").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch from the user's module."""
    path = tmp_path_factory.mktemp("trained")
    (path / "usernets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.delitem(sys.modules, "usernets", raising=False)
        assert main(["grow", "digits", "--model", "usernets:conv", "--epochs", "1", "--out", "run"]) == 0
    return path / "run"


@pytest.fixture
def run(trained, here):
    """That run, and the user's module, which is not imported."""
    return shutil.copytree(trained, here / "run")


def test_no_module_is_imported_because_a_file_names_it(run, here):
    family = Family(run)
    assert family.table()
    for load in (family.load, family.choose().load, lambda: outgrow.load(run)):
        with pytest.raises(InputError, match=r"give it as seed=usernets.conv or seed='usernets:conv'"):
            load()
    with pytest.raises(InputError, match=r"no module is imported because a file names it: .*--model usernets:conv"):
        family.choose(max_latency=1.0)
    assert "usernets" not in sys.modules


def test_a_seed_is_given_as_a_name_a_function_or_a_network(run, monkeypatch):
    x = torch.rand(4, 1, 8, 8)
    answer = outgrow.load(run, seed="usernets:conv")(x)
    monkeypatch.syspath_prepend(run.parent)
    import usernets

    network = usernets.conv()
    before = copy.deepcopy(network.state_dict())
    for seed in (usernets.conv, network):
        assert torch.equal(outgrow.load(run, seed=seed, max_latency=100.0)(x), answer)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    with pytest.raises(InputError, match="expected a function or class that makes a network, its name or a network"):
        outgrow.load(run, seed=3)


def test_a_seed_of_a_built_in_network_is_not_given(tmp_path):
    with pytest.raises(InputError, match="the seed network of this run is the built-in mlp: give no other"):
        seed_from_json(Seed("mlp", (4,), 3).to_json(), "mynets:table")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("nn.Linear(6, 10)", "nn.Linear(6, 10, bias=False)", r"9.bias was \[10\] and is absent"),
        ("nn.BatchNorm2d(6),", "nn.BatchNorm2d(6), nn.PReLU(),", r"6.weight was absent and is \[1\]"),
        (
            "nn.Conv2d(4, 6, 3, padding=1,",
            "nn.Conv2d(4, 6, 5, padding=1,",
            r"4.weight was .*, 3, 3\] and is .*, 5, 5\]",
        ),
        ("nn.MaxPool2d(2)", "nn.MaxPool2d(9)", "it does not run on an example of shape"),
    ],
)
def test_code_that_has_changed_is_told(before, after, message, run):
    assert before in NETS
    changed = {}
    exec(compile(NETS.replace(before, after), "usernets", "exec"), changed)
    with pytest.raises(InputError, match=rf"safetensors can't be loaded: .*{message}"):
        outgrow.load(run, seed=changed["conv"])


def test_another_network_is_told():
    values = seed_of("conv").to_json()
    with pytest.raises(
        InputError, match=r"the code of mynets:conv has changed since this run, or another one is given"
    ):
        seed_from_json(values, lambda: nn.Linear(64, 10)).build()


def test_the_page_on_families_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    blocks = dict(re.findall(r"<!-- (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "mynets.py").write_text(blocks["mynets.py"])
    assert main(["grow", "digits", "--model", "mynets:small", "--out", "runs/own", "--epochs", "1"]) == 0
    exec(compile(blocks["load"], "family.md", "exec"), {})
    sys.modules.pop("mynets")
    assert main(["grow", "digits", "--epochs", "1"]) == 0
    capsys.readouterr()
    exec(compile(blocks["choose"], "family.md", "exec"), {})
    assert capsys.readouterr().out.startswith("| size ")
