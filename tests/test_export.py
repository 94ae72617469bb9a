"""`outgrow export`: every file gives what the loaded size gives, by itself; what can't be written leaves nothing."""

import functools
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from export_runs import SEEDS, make_run
from outgrow import Family
from outgrow.cli import main
from outgrow.export import formats, onnx, state_dict
from outgrow.export.batches import batches_of
from outgrow.models import imported_seed

ROWS = (1, 2, 7)
FORMATS = {"state-dict": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx", "python": ".py"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind of network."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(folder / name, seed) for name, seed in SEEDS.items()}


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """The file net.* of a run and a format, written once."""
    folder = tmp_path_factory.mktemp("files")
    return functools.cache(lambda name, form: export(runs[name], form, folder / name / f"net{FORMATS[form]}"))


def inputs(family):
    shape = (max(ROWS), *family.inputs)
    return 3 * torch.rand(shape, generator=torch.Generator().manual_seed(5))


def gap(net, compute, x):
    """The largest difference of outputs, relative to the largest output."""
    with torch.no_grad():
        return max(float((net(x[:n]) - compute(x[:n])).abs().max() / net(x[:n]).abs().max()) for n in ROWS)


def export(run, form, out, *options):
    assert main(["export", str(run), "--format", form, "--out", str(out), *options]) == 0
    return out


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", SEEDS)
def test_a_state_dict_is_all_that_a_network_of_that_shape_needs(runs, tmp_path, name, ending):
    family = Family(runs[name])
    file = export(family.path, "state-dict", tmp_path / f"net{ending}")
    tensors = load_file(file) if ending == ".safetensors" else torch.load(file, weights_only=True)
    net, other = family.load(), family.load()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(tensors)
    assert gap(net, other, inputs(family)) == 0


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_state_dict_says_what_it_is_the_state_of(runs, tmp_path, ending):
    file = export(runs["resnet"], "state-dict", tmp_path / f"net{ending}")
    if ending == ".pt":
        card = json.loads(file.with_suffix(".json").read_text())
    else:
        with safe_open(file, "pt") as opened:
            card = {key: json.loads(value) for key, value in opened.metadata().items()}
    size = Family(runs["resnet"]).choose()
    assert card["network"] == "resnet"
    assert card["inputs"] == [1, 8, 8]
    assert card["classes"] == ["kind 0", "kind 1", "kind 2", "kind 3"]
    assert card["widths"] == dict(size.axes)
    assert card["blocks"] == list(size.blocks)
    assert (card["parameters"], card["validation"]["accuracy"]) == (size.params, 0.75)


@pytest.mark.parametrize("name", ["regression", "resnet"])
def test_an_onnx_graph_answers_in_onnxruntime(runs, exported, name):
    family = Family(runs[name])
    session = onnxruntime.InferenceSession(exported(name, "onnx"))
    output = "prediction" if name == "regression" else "logits"
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["batch", *family.inputs])]
    assert [(o.name, o.shape[0]) for o in session.get_outputs()] == [(output, "batch")]
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert classes == ([] if name == "regression" else [f"kind {i}" for i in range(SEEDS[name].outputs)])
    answer = lambda x: torch.from_numpy(session.run([output], {"x": x.numpy()})[0])  # noqa: E731
    assert gap(family.load(), answer, inputs(family)) <= 1e-5


ALONE = """
import json, runpy, sys, torch
sys.modules["outgrow"] = None  # every import of it fails
found = {}
for name, file in json.loads(sys.argv[1]).items():
    x, expected = torch.load(file + ".answers", weights_only=True)
    net = runpy.run_path(file)["load"]() if file.endswith(".py") else torch.export.load(file).module()
    with torch.no_grad():
        gaps = [(net(x[:n]) - expected[:n]).abs().max() / expected[:n].abs().max() for n in (1, 2, 7)]
    found[name] = max(map(float, gaps))
print(json.dumps(found))
"""


def test_files_that_hold_code_or_a_graph_need_torch_alone(runs, exported, tmp_path):
    files = {}
    for name, run in runs.items():
        for form in ("python",) if name == "mlp" else ("python", "torch-export"):
            file = exported(name, form)
            x = inputs(Family(run))
            with torch.no_grad():
                torch.save((x, Family(run).load()(x)), f"{file}.answers")
            files[f"{name} as {form}"] = str(file)
    command = [sys.executable, "-I", "-c", ALONE, json.dumps(files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    gaps = json.loads(done.stdout)
    assert gaps.keys() == files.keys()
    assert {name: found for name, found in gaps.items() if not found <= 1e-5} == {}


def test_the_examples_of_the_docs_run_on_the_files(exported, monkeypatch, capsys):
    folder = {exported("resnet", form).parent for form in FORMATS}.pop()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        known: dict[str, object] = {}
        exec(code, known)
        assert "logits" not in known or known["logits"].shape == (5, 4)
    assert capsys.readouterr().out.count("kind") == 2
    del sys.modules["net"]


def test_a_program_has_the_card_and_no_paths_of_this_machine(exported):
    file = exported("convnet", "torch-export")
    extra = {"outgrow.json": ""}
    torch.export.load(file, extra_files=extra)
    assert json.loads(extra["outgrow.json"])["network"] == "convnet"
    assert str(Path(formats.__file__).parents[1]).encode() not in file.read_bytes()


@pytest.mark.parametrize("form", ["state-dict", "torch-export", "python"])
def test_a_size_is_written_into_the_run_by_default_and_told(runs, capsys, form):
    assert main(["export", str(runs["mlp"]), "--format", form, "--overwrite"]) == 0
    size = Family(runs["mlp"]).choose()
    for line in capsys.readouterr().out.splitlines():
        told = re.fullmatch(r"(\S+)  ([\d,]+) bytes, ([\d,]+) parameters, outputs agree (exactly|to \de-\d\d)", line)
        assert told, line
        file = Path(told[1])
        assert file.parent == runs["mlp"] / "export"
        assert file.stat().st_size == int(told[2].replace(",", ""))
        assert told[3] == str(size.params)
    assert not [path for path in (runs["mlp"] / "export").iterdir() if path.name.startswith(".")]


def test_the_size_is_the_one_that_was_asked_for(runs, tmp_path):
    small, large = Family(runs["mlp"])
    asked = {
        "limit": ["--max-params", str(large.params - 1)],
        "flops": ["--max-flops", str(small.flops)],
        "accuracy": ["--min-accuracy", "0.4"],
        "name": ["--size", small.name],
    }
    for name, options in asked.items():
        file = export(runs["mlp"], "state-dict", tmp_path / f"{name}.safetensors", *options)
        assert sum(t.numel() for k, t in load_file(file).items() if k.startswith("mlp")) == small.params
    file = export(runs["mlp"], "state-dict", tmp_path / "best.safetensors")
    assert sum(t.numel() for k, t in load_file(file).items() if k.startswith("mlp")) == large.params


BAD = {
    "an unknown format": (["--format", "tflite"], "expected one of state-dict, torch-export, onnx, python"),
    "an unknown size": (["--size", "huge"], "has no size 'huge': it has 1-"),
    "a name and a limit": (["--size", "huge", "--max-params", "9"], "--size huge and --max-params"),
    "a limit that no size meets": (["--max-params", "2"], "no size of at most 2 parameters"),
    "a limit that is none": (["--max-flops", "few"], "--max-flops few: expected a count"),
    "a folder": (["--out", "there"], "is a folder"),
    "another ending": (["--out", "net.txt"], "ends in .safetensors or .pt"),
    "a file that is there": (["--out", "there/net.pt"], "is there already"),
    "a file whose card is there": (["--out", "there/card.pt"], "card.json is there already"),
    "a folder that is a file": (["--out", "there/net.pt/net.pt"], "can't write to there/net.pt"),
    "a factory for a built-in network": (["--model", "torch.nn:Identity"], "built-in mlp"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_code_2_and_nothing_is_written(runs, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    for name in ("net.pt", "card.json"):
        (Path("there") / name).write_text("mine")
    options, message = BAD[case]
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(runs["mlp"]), *options]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert (Path("there") / "net.pt").read_text() == "mine"


def test_what_is_no_run_is_told(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "is no run of outgrow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_where_that_is_asked_for(runs, tmp_path):
    file = tmp_path / "net.pt"
    file.write_text("old")
    export(runs["mlp"], "state-dict", file, "--overwrite")
    assert torch.load(file, weights_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.pt"]


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_file_that_computes_something_else_is_not_left(runs, tmp_path, monkeypatch, capsys, error):
    right = state_dict.read
    monkeypatch.setattr(state_dict, "read", lambda file, net: lambda x: right(file, net)(x) * (1 + error))
    out = tmp_path / "new" / "net.pt"
    assert main(["export", str(runs["mlp"]), "--out", str(out)]) == 2
    assert "the outputs differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_needs_is_told(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert main(["export", str(runs["mlp"]), "--format", "onnx", "--out", str(tmp_path / "net.onnx")]) == 2
    assert 'pip install "outgrow[onnx]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


NETS = """
from torch import nn


class Gated(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.a = nn.Linear(inputs[0], 4)
        self.b = nn.Linear(inputs[0], 4)
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.a(x).sigmoid() * self.b(x))
"""


def test_a_network_of_the_users_own_is_written_given_its_factory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("gated_nets.py").write_text(NETS)
    run = make_run(tmp_path / "run", imported_seed("gated_nets:Gated", (5,), 3))
    assert main(["export", str(run), "--format", "python"]) == 2
    assert "--model gated_nets:Gated" in capsys.readouterr().err
    file = export(run, "python", tmp_path / "net.py", "--model", "gated_nets:Gated")
    family = Family(run)
    assert gap(family.load(seed="gated_nets:Gated"), runpy.run_path(str(file))["load"](), inputs(family)) <= 1e-5
    assert "class Gated(nn.Module):" in file.read_text()


def test_without_onnxruntime_the_file_is_written_and_said_to_be_not_compared(runs, tmp_path, monkeypatch, capsys):
    present = onnx.find_spec
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else present(name))
    monkeypatch.setattr(onnx, "write", lambda net, card, x, file: file.touch())
    export(runs["mlp"], "onnx", tmp_path / "net.onnx")
    assert "not compared, since onnxruntime is not installed" in capsys.readouterr().out


def test_inputs_to_compare_on_are_like_those_of_the_run(runs):
    images = batches_of(Family(runs["convnet"]))
    assert [len(x) for x in images] == [7, 1, 2]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in images)
    (rows, *_) = batches_of(Family(runs["mlp"]))
    assert rows.std(0)[2] > rows.std(0)[3]  # deviations 9 and 0.1
