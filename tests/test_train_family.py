"""Choosing and loading a size: limits hold, the best is taken, damage is named."""

import json

import pytest
import torch

import outgrow
from outgrow.errors import InputError
from outgrow.models import Seed
from outgrow.net.axes import axes
from outgrow.net.deepen import deepen_
from outgrow.net.places import places
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.family import Family, choose
from outgrow.train.folder import RunFolder


def family(task="classification"):
    metric = "accuracy" if task == "classification" else "rmse"
    values = (0.6, 0.8, 0.79) if metric == "accuracy" else (9.0, 7.0, 7.5)
    sizes = [
        {"name": str(i), "params": 10 * 4**i, "flops": 100 * 4**i, "validation": {metric: value}}
        for i, value in enumerate(values)
    ]
    return {"task": task, "metric": metric, "sizes": sizes}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_best_size_within_the_limits_is_chosen(task):
    def names(**limits):
        full = {"max_params": None, "max_flops": None, "min_accuracy": None, **limits}
        return choose(family(task), run="x", **full)["name"]

    assert names() == "1"
    assert names(max_params=39) == "0"
    assert names(max_flops=1600) == "1"
    assert names(max_flops=399) == "0"


def test_the_smallest_size_that_is_accurate_enough_is_chosen():
    assert choose(family(), None, None, 0.79, "x")["name"] == "1"
    assert choose(family(), None, None, 0.5, "x")["name"] == "0"


@pytest.mark.parametrize(
    ("task", "limits", "message"),
    [
        ("classification", (9, None, None), "no size within these limits; its sizes have 10, 40, 160 parameters"),
        ("classification", (None, None, 0.9), "no size within these limits"),
        ("regression", (None, None, 0.9), "no accuracy"),
    ],
)
def test_limits_that_nothing_meets_are_told(task, limits, message):
    with pytest.raises(InputError, match=message):
        choose(family(task), *limits, "x")


@pytest.fixture
def run(tmp_path):
    """A run folder with a seed and a grown size, and the grown network."""
    seed = Seed("convnet", (1, 8, 8), 3, widths=(2, 2))
    folder = RunFolder(tmp_path / "run")
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"seed_network": seed.to_json()})
    sizes = Family(folder, "classification")
    net = seed.build()
    facts = {"flops": 1, "validation": {"accuracy": 0.5}}
    sizes.add(tensors_of(net), {**facts, "params": 10})
    widen_(net, "convnet.blocks.0.conv", 3, example=seed.example())
    sizes.add(tensors_of(net), {**facts, "params": 20, "validation": {"accuracy": 0.9}})
    return folder.path, net.eval()


def test_a_loaded_size_computes_what_the_saved_network_did(run):
    path, net = run
    x = torch.rand(5, 1, 8, 8)
    loaded = outgrow.load(path)
    assert torch.equal(loaded(x), net(x))
    assert not loaded.training
    assert loaded.convnet.blocks[1].conv.in_channels == 5


def test_damage_is_named(run, tmp_path):
    path, _ = run
    with pytest.raises(InputError, match=r"no run of outgrow: it has no family\.json"):
        outgrow.load(tmp_path)
    (path / "sizes" / "2-20.safetensors").write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"can't read .*2-20.safetensors"):
        outgrow.load(path)
    (path / "sizes" / "2-20.safetensors").unlink()
    with pytest.raises(InputError, match=r"can't read .*2-20.safetensors"):
        outgrow.load(path)
    assert outgrow.load(path, max_params=10) is not None
    (path / "family.json").write_text("{")
    with pytest.raises(InputError, match=r"family\.json is damaged"):
        outgrow.load(path)


def test_a_size_of_another_run_is_refused(run):
    path, _ = run
    other = Seed("mlp", (4,), 3, widths=(2,))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "seed_network": other.to_json()}))
    with pytest.raises(InputError, match="does not belong to this run"):
        outgrow.load(path)


@pytest.mark.parametrize("which", [0, -1])
def test_a_size_with_inserted_blocks_can_be_loaded(which, tmp_path):
    """Blocks that came in one after the other, with more units between them."""
    torch.manual_seed(0)
    seed = Seed("resnet", (1, 8, 8), 3, widths=(3, 4))
    folder = RunFolder(tmp_path / "run")
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"seed_network": seed.to_json()})
    sizes, net, blocks = Family(folder, "classification"), seed.build().eval(), []
    facts = {"flops": 1, "validation": {"accuracy": 0.5}}
    saved = {}
    x = torch.rand(5, 1, 8, 8)
    for count in range(3):
        sizes.add(tensors_of(net), {**facts, "params": count, "blocks": list(blocks)})
        saved[count] = net(x)
        place = [place.name for place in places(net, seed.example()) if place.growable][which]
        widen_(net, next(axis.name for axis in axes(net, seed.example()) if axis.growable), 1, example=seed.example())
        deepen_(net, place, example=seed.example())
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        blocks.append(place)
    family = folder.read_json("family.json")
    for count, answer in saved.items():
        folder.write_json("family.json", {**family, "sizes": [family["sizes"][count]]})
        assert torch.equal(outgrow.load(folder.path)(x), answer)
