"""Files of a run that are damaged, tampered with or from elsewhere: one clear error, or what was saved."""

import hashlib
import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

import outgrow
from family_samples import change, run, whole
from outgrow import Family
from outgrow.errors import InputError
from outgrow.models import Seed
from outgrow.net.surgery import tensors_of

__all__ = ["run", "whole"]  # fixtures


def test_a_folder_that_is_no_run_is_told(tmp_path, run):
    for path, message in (
        (tmp_path / "nowhere", "nowhere is no run of outgrow: there is no such folder"),
        (run / "family.json", r"family\.json is no run of outgrow: it is a file"),
        (tmp_path, r"is no run of outgrow: it has no family\.json"),
    ):
        with pytest.raises(InputError, match=message):
            Family(path)
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"run is no run of outgrow: it has no config\.json"):
        Family(run)
    (run / "family.json").rename(run / "journal.jsonl")
    with pytest.raises(InputError, match="run has not saved a size yet"):
        Family(run)


@pytest.mark.parametrize("file", ["family.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b'{"format": 1, "si', "is damaged"),
        (b"[1]", r"is damaged: expected an object, received \[1\]"),
        (b'"text"', "is damaged: expected an object"),
        (b"\xff\xfe\x00", "is damaged"),
        (b'{"format": NaN}', "is damaged: expected finite numbers, received NaN"),
        (b'{"format": ' + b"9" * 5000 + b"}", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format": 2}', "was written by a newer outgrow: it has format 2, and this version reads 1; update outgrow"),
        (b'{"format": "1"}', "format: expected a whole number from 1, received '1'"),
        (b"{}", "expected a key 'format', but there is none"),
    ],
)
def test_a_json_file_that_is_damaged_is_named(file, content, message, run):
    (run / file).write_bytes(content)
    with pytest.raises(InputError, match=rf"{file}.*{message}"):
        Family(run)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["task"], "ranking", "task: expected one of classification, regression, received 'ranking'"),
        (["sizes"], ..., "expected a key 'sizes'"),
        (["sizes"], {"a": 1}, "sizes: expected a list of objects, received {'a': 1}"),
        (["sizes", 1], "2-20", r"sizes\[1\]: expected an object, received '2-20'"),
        (["sizes", 1, "params"], ..., r"sizes\[1\]: expected a key 'params'"),
        (["sizes", 1, "params"], "many", r"sizes\[1\].params: expected a whole number from 0, received 'many'"),
        (["sizes", 1, "params"], -3, r"sizes\[1\].params: expected a whole number from 0, received -3"),
        (["sizes", 1, "params"], 5.5, r"sizes\[1\].params: expected a whole number"),
        (["sizes", 1, "flops"], True, r"sizes\[1\].flops: expected a whole number"),
        (["sizes", 1, "axes"], [4], r"sizes\[1\].axes: expected an object"),
        (["sizes", 1, "axes", "a"], "b", r"sizes\[1\].axes.a: expected a whole number"),
        (["sizes", 1, "blocks"], "0", r"sizes\[1\].blocks: expected a list of texts"),
        (["sizes", 1, "blocks"], [0], r"sizes\[1\].blocks: expected a list of texts"),
        (["sizes", 1, "validation"], None, r"sizes\[1\].validation: expected an object"),
        (["sizes", 1, "validation", "accuracy"], "0.9", r"validation.accuracy: expected a number or null"),
        (["sizes", 1, "validation", "accuracy"], ..., r"expected the validation accuracy of 2-"),
        (["sizes", 1, "seconds"], "long", r"sizes\[1\].seconds: expected a number from 0"),
        (["sizes", 1, "quality"], "best", r"sizes\[1\].quality: expected one of average, cut, branch"),
        (["sizes", 1, "file"], 7, r"sizes\[1\].file: expected a text"),
        (["sizes", 1, "name"], "\x1b[2J", r"sizes\[1\].name: expected a text, received '.x1b"),
        (["sizes", 1, "seconds"], 10**400, r"sizes\[1\].seconds: expected a number from 0"),
        (["sizes", 1, "name"], "", r"sizes\[1\].name: expected a text, received ''"),
        (["sizes", 1, "settings"], [3], r"sizes\[1\].settings\[0\]: expected an object"),
    ],
)
def test_a_value_of_another_kind_is_named(path, value, message, run):
    change(run, path, value)
    with pytest.raises(InputError, match=rf"family\.json: {message}|{message}"):
        Family(run)


def test_numbers_too_large_for_a_float_and_names_that_come_twice_are_named(run):
    text = (run / "family.json").read_text()
    (run / "family.json").write_text(text.replace("2.25", "1e999", 1))
    with pytest.raises(InputError, match=r"sizes\[0\].seconds: expected a number from 0, received inf"):
        Family(run)
    (run / "family.json").write_text(text)
    change(run, ["sizes", 1, "name"], Family(run).choose().name)
    change(run, ["sizes", 2, "name"], Family(run).choose().name)
    with pytest.raises(InputError, match=r"expected names that differ, received 2-.* twice"):
        Family(run)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["seed_network"], ..., "expected a key 'seed_network'"),
        (["seed_network", "inputs"], [1, -8, 8], "seed_network.inputs: expected a list of whole numbers from 1"),
        (["seed_network", "model"], "vgg", "unknown model 'vgg'"),
        (["seed_network", "outputs"], "3", "seed_network.outputs: expected a whole number from 1"),
        (["seed_network", "widths"], [2, 2, 2], "even number of widths"),
        (["seed_network", "widths"], [10**9, 10**9], "the seed network can't be built"),
        (["seed_network", "widths"], [10**30, 10**30], "the seed network can't be built"),
        (["seed_network", "inputs"], [1, 10**12, 10**12], "the seed network can't be built"),
        (["seed_network", "inputs"], [1, 10**30, 8], "the seed network can't be built"),
        (["seed_network", "inputs"], [1, 8], "convnet reads images, but an example here has shape"),
        (["seed_network", "input_mean"], ["0"], "seed_network.input_mean: expected a list of numbers"),
        (["seed_network", "outputs"], 4, r"it gives \[1, 3\] for one example: expected \[1, 4\]"),
        (["seed_network"], Seed("mlp", (4,), 3, widths=(2,)).to_json(), "the seed network is another one"),
    ],
)
def test_a_seed_network_that_can_not_be_is_named(path, value, message, run):
    change(run, path, value, "config.json")
    with pytest.raises(InputError, match=message):
        outgrow.load(run)


@pytest.mark.parametrize(
    "name", ["../secret", "/elsewhere", "sizes/../../secret", "..\\secret", "C:\\x", "link", "out/x"]
)
def test_a_path_that_leaves_the_run_folder_is_refused(name, run):
    (run.parent / "secret").write_bytes((run / Family(run).choose().file).read_bytes())
    (run / "link").symlink_to(run.parent / "secret")
    (run / "out").symlink_to(run.parent)
    change(run, ["sizes", 1, "file"], name)
    with pytest.raises(InputError, match=r"names a file .*expected one inside of the run folder; it is not read"):
        outgrow.load(run)


def test_a_run_may_be_reached_by_a_link(run):
    (run.parent / "latest").symlink_to(run)
    assert outgrow.load(run.parent / "latest") is not None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "folder", "pipe", "another"])
def test_a_file_that_is_not_what_was_saved_is_named(damage, run):
    file = run / Family(run).choose().file
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "another":
        save_file({"x": torch.zeros(2)}, file)
    elif damage != "gone":
        file.write_bytes({"cut": data[:-4], "flip": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[damage])
    message = "can't read" if damage in ("gone", "folder", "pipe") else "is not what was saved: its checksum differs"
    with pytest.raises(InputError, match=message) as caught:
        outgrow.load(run)
    assert str(file) in str(caught.value)
    assert outgrow.load(run, max_params=Family(run).choose().params - 1) is not None


def with_checksum(run, data):
    """Put other bytes in place of the best size's file, with a checksum that agrees."""
    at = [size.name for size in Family(run)].index(Family(run).choose().name)
    (run / Family(run).choose().file).write_bytes(data)
    change(run, ["sizes", at, "sha256"], hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 8 + b"{}", "can't read"),
        (b"\x00\x00\x00\x00\x10\x00\x00\x00", "can't read"),
        (
            (2).to_bytes(8, "little") + b"{}",
            "the seed network is another one: convnet.*weight is .* and absent in the file",
        ),
        (save({"x": torch.zeros(2)}), r"conv.weight is \[2, 1, 3, 3\] in the seed and absent in the file.*; and more"),
    ],
)
def test_a_file_that_holds_another_network_is_named(data, message, run):
    with_checksum(run, data)
    with pytest.raises(InputError, match=message):
        outgrow.load(run)


@pytest.mark.parametrize(
    ("tensor", "other", "message"),
    [
        (
            "convnet.blocks.0.conv.weight",
            torch.zeros(5, 1, 3),
            r"conv.weight is \[2, 1, 3, 3\] in the seed and \[5, 1, 3\]",
        ),
        (
            "convnet.head.weight",
            torch.zeros(3, 2, dtype=torch.int64),
            r"\[3, 2\] in the seed and \[3, 2\] \(torch.int64\)",
        ),
        ("convnet.head.weight", torch.zeros(3, 7), "it does not run on an example"),
        ("convnet.head.bias", torch.zeros(0), "it does not run on an example|it gives"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensor, other, message, run):
    tensors = dict(tensors_of(Family(run).choose().load()))
    with_checksum(run, save({**{key: value.detach() for key, value in tensors.items()}, tensor: other}))
    with pytest.raises(InputError, match=message):
        outgrow.load(run)


def test_the_number_of_parameters_is_compared(run):
    change(run, ["sizes", 1, "params"], 99)
    with pytest.raises(InputError, match=r"safetensors has \d+ parameters, and family.json says 99"):
        Family(run)[Family(run).choose().name].load()


@pytest.mark.parametrize(
    ("module", "attribute", "value", "message"),
    [
        ("convnet", "forward", 3, "convnet.forward: expected a number to be set to 3, the seed network has <bound"),
        ("convnet", "training", 1, "convnet.training: expected a number to be set to 1, the seed network has"),
        ("convnet", "heads", 3, "convnet.heads: expected an attribute to be set to 3"),
        ("nowhere", "heads", 3, "nowhere.heads: expected an attribute to be set to 3"),
        ("", "__class__", 3, "the network.__class__: expected a number to be set to 3"),
    ],
)
def test_a_file_sets_nothing_but_numbers_that_a_module_has(module, attribute, value, message, run):
    change(run, ["sizes", 1, "settings"], [{"module": module, "attribute": attribute, "value": value}])
    with pytest.raises(InputError, match=message):
        outgrow.load(run)


@st.composite
def damaged(draw):
    """Bits that flip, and a part that is cut out, as functions of the bytes of a file."""
    flips = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=3))
    cut = draw(st.none() | st.tuples(st.floats(0, 1), st.integers(1, 40)))

    def damage(data):
        rotten = bytearray(data)
        for place, bit in flips:
            rotten[int(place * len(rotten))] ^= 1 << bit
        if cut:
            start = int(cut[0] * len(rotten))
            del rotten[start : start + cut[1]]
        return bytes(rotten)

    return damage


@pytest.mark.parametrize("file", ["family.json", "config.json", "tensors"])
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damaged())
def test_rotten_bytes_give_a_saved_network_or_an_error(file, damage, whole, tmp_path_factory):
    path, nets = whole
    run = tmp_path_factory.getbasetemp() / "rotten"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(path, run)
    target = run / (Family(path).choose().file if file == "tensors" else file)
    target.write_bytes(damage(target.read_bytes()))
    try:
        found = tensors_of(outgrow.load(run))
    except InputError:
        return
    assert any(
        found.keys() == saved.keys() and all(torch.equal(found[name], saved[name]) for name in saved) for saved in nets
    )
