"""The journal alone says how each size came about: its edits, on a fresh seed, give the same architecture."""

import json

import pytest
import torch

from outgrow import Family, deepen_, remove_, widen_
from outgrow.data import Dataset, Split
from outgrow.grow.policy import Decision, Plan
from outgrow.models import Seed, imported_seed
from outgrow.net.axes import find_axis
from outgrow.net.surgery import tensors_of
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer

SEEDS = {
    "chain": imported_seed("mynets:chain", (1, 8, 8), 3),
    "residual": Seed("resnet", (1, 8, 8), 3, widths=(3,)),
    "attention": imported_seed("mynets:vit", (1, 8, 8), 3),
}


class Turns:
    """Widens, deepens and prunes in turn, everywhere it can, whatever that is worth."""

    def propose(self, now):
        turn = len(now.history)
        if now.epoch < turn + 1:
            return None
        if turn % 3 == 0:
            return Plan(dict.fromkeys(now.sizes, 2), "more units", evidence="score")
        if turn % 3 == 1:
            return Plan({}, "more blocks", now.places(), evidence="score")
        return Plan({}, "fewer units", removals=dict.fromkeys(now.sizes, 1), evidence="score")

    def decide(self, now, candidates, present):
        chosen = {kind: [one for one in candidates if one.kind == kind] for kind in ("widen", "insert", "remove")}
        units, removals = ({one.where: one.units for one in chosen[kind]} for kind in ("widen", "remove"))
        return Decision(units, "its turn", tuple(one.where for one in chosen["insert"]), removals)


def digits_like(count, seed):
    """Noise with a bright spot in one of three places."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 99, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 3, (count,), generator=generator)
    x[torch.arange(count), 0, 2 * y, 2 * y] = 255
    return Split(x, y)


def redo_(net, growth, example):
    """Do what the journal says of one growth."""
    if growth["kind"] == "insert":
        deepen_(net, growth["where"], example=example)
        return
    if growth["kind"] == "widen":
        edit = widen_(net, growth["where"], growth["units"], example=example)
    else:
        edit = remove_(net, growth["where"], list(range(growth["units"])), example=example)
    assert find_axis(edit.axes, growth["where"]).size == growth["size_after"]


def form(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", SEEDS)
def test_the_journal_replays_on_a_fresh_seed(name, tmp_path):
    seed, folder = SEEDS[name], RunFolder(tmp_path / "run")
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"format": 1, "seed_network": seed.to_json()})
    parts = (digits_like(count, i) for i, count in enumerate((128, 32, 32)))
    dataset = Dataset("spots", "classification", *parts, ("a", "b", "c"), False, {})
    Trainer(dataset, seed, Recipe(epochs=4, batch_size=32), folder, policy=lambda table: Turns()).run()

    family = Family(tmp_path / "run")
    journal = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    net, done = seed.build(), []
    for record in journal:
        if record.get("record") == "size":
            assert form(tensors_of(net)) == form(folder.read_tensors(family[record["name"]].file))
            loaded = family[record["name"]].load(getattr(seed, "make", None))
            assert repr(loaded) == repr(net.eval())
        for growth in record.get("growths", ()):
            redo_(net, growth, seed.example())
            done.append(growth["kind"])
    assert {"widen", "insert", "remove"} <= set(done)
    assert len(family) == 4
