"""A saved run of a few small sizes, for tests that choose, load and damage it."""

import json
import shutil

import pytest
import torch

from outgrow.models import Seed
from outgrow.net.cost import parameters
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.folder import RunFolder
from outgrow.train.saving import FamilyWriter

SEED = Seed("convnet", (1, 8, 8), 3, widths=(2, 2))
MEASURES = {
    "classification": [{"loss": 1.0, "accuracy": value} for value in (0.6, 0.8, 0.79, 0.8)],
    "regression": [{"loss": 1.0, "rmse": value, "r2": 0.5} for value in (9.0, 7.0, 7.5, 7.0)],
}


def facts(net, validation, **changes):
    """What a trainer says of a size."""
    return {
        "params": parameters(net),
        "flops": 10 * parameters(net),
        "axes": {"convnet.blocks.0.conv": 2},
        "blocks": [],
        "settings": [],
        "validation": validation,
        "test": None,
        "train_flops": 1.5e6,
        "seconds": 2.25,
        "joules": {"value": 3.0, "how": "guessed"},
        "epoch": 0.5,
        **changes,
    }


def new_folder(path, seed=SEED):
    folder = RunFolder(path)
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"format": 1, "seed_network": seed.to_json()})
    return folder


def write_run(path, task="classification", measures=None):
    """A run of sizes that were widened one after the other, and the networks."""
    torch.manual_seed(0)
    sizes, net, nets = FamilyWriter(new_folder(path), task), SEED.build(), []
    for measure in MEASURES[task] if measures is None else measures:
        sizes.add(tensors_of(net), facts(net, measure))
        nets.append({name: tensor.clone() for name, tensor in tensors_of(net).items()})
        widen_(net, "convnet.blocks.0.conv", 3, example=SEED.example())
    sizes.total = {"seconds": 3.0}
    sizes.write()
    return nets


def change(run, path, value, file="family.json"):
    """Set a value of a JSON file; `...` deletes it."""
    whole = json.loads((run / file).read_text())
    *way, last = path
    inner = whole
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    (run / file).write_text(json.dumps(whole))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is not changed, and the tensors of its sizes."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, write_run(path)


@pytest.fixture
def run(tmp_path, whole):
    """A run for one test."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"
