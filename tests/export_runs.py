"""Runs with a seed and a grown size, made without training: random weights, blocks and widths."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from outgrow.models import Seed, SeedNetwork
from outgrow.net.axes import axes
from outgrow.net.cost import flops, parameters
from outgrow.net.deepen import deepen_
from outgrow.net.places import places
from outgrow.net.resizing import settings_of
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.folder import RunFolder
from outgrow.train.saving import FamilyWriter

SEEDS = {
    "mlp": Seed("mlp", (5,), 3, (4, 4), (1.0,) * 5, (2.0, 1.0, 9.0, 0.1, 1.0)),
    "regression": Seed("mlp", (5,), 2, (3,), (), (), (1000.0, -3.0), (50.0, 0.01)),
    "convnet": Seed("convnet", (2, 8, 8), 3, (2, 2, 3, 3), (0.3, 0.4), (0.2, 0.5)),
    "resnet": Seed("resnet", (1, 8, 8), 4, (3, 4)),
}


def make_run(path: Path, seed: SeedNetwork, *, blocks: int = 1) -> Path:
    """A run with the size 1-N, the seed, and 2-N, with blocks inserted and wider at every other axis."""
    torch.manual_seed(0)
    folder = RunFolder(path)
    folder.claim(overwrite=False)
    task = "regression" if seed.output_mean else "classification"
    classes = [f"kind {i}" for i in range(seed.outputs)] if task == "classification" else []
    config = {"format": 1, "data": {"task": task, "classes": classes}, "seed_network": seed.to_json()}
    folder.write_json("config.json", config)
    writer, net, example, inserted = FamilyWriter(folder, task), seed.build().eval(), seed.example(), []
    _add(writer, net, example, inserted, 0.5)
    for _ in range(blocks):
        if found := [place.name for place in places(net, example) if place.growable]:
            deepen_(net, found[0], example=example)
            inserted.append(found[0])
    for axis in [axis.name for axis in axes(net, example) if axis.growable][::2]:
        widen_(net, axis, 2, example=example)
    with torch.no_grad():
        for name, tensor in tensors_of(net).items():
            if tensor.is_floating_point() and not name.endswith(("scale", "shift")):
                tensor.add_(0.3 * torch.rand_like(tensor))
    _add(writer, net, example, inserted, 0.75)
    return path


def _add(writer: FamilyWriter, net: nn.Module, example: torch.Tensor, blocks: list[str], worth: float) -> None:
    found = axes(net, example)
    facts = {
        "params": parameters(net),
        "flops": flops(net, example),
        "axes": {axis.name: axis.size for axis in found},
        "blocks": list(blocks),
        "settings": [asdict(setting) for setting in settings_of(net, found)],
        "validation": {"loss": 1.0, "accuracy": worth, "rmse": 1 - worth},
        "test": None,
        "train_flops": 0,
        "seconds": 0.0,
        "joules": None,
        "epoch": 1.0,
    }
    writer.add(tensors_of(net), facts)
