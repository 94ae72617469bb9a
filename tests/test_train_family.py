"""The family of a run: limits hold, the best is taken, what is loaded is what was saved."""

import json

import pytest
import torch
from torch import nn

import outgrow
from family_samples import MEASURES, SEED, change, facts, new_folder, run, whole, write_run
from outgrow import Family
from outgrow.errors import InputError
from outgrow.models import Seed
from outgrow.models.imported import ImportedSeed
from outgrow.net.axes import axes
from outgrow.net.deepen import deepen_
from outgrow.net.places import places
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import widen_
from outgrow.train.restored import restored
from outgrow.train.saving import FamilyWriter

__all__ = ["run", "whole"]  # fixtures


# choosing


@pytest.mark.parametrize("task", MEASURES)
def test_the_best_size_within_the_limits_is_chosen_of_equals_the_smallest(task, tmp_path):
    write_run(tmp_path / "run", task)
    family = Family(tmp_path / "run")
    first, best, worse, _ = family
    assert family.choose() is best
    assert family.choose(max_params=best.params - 1) is first
    assert family.choose(max_flops=best.flops - 1) is first
    assert family.choose(max_params=worse.params, max_flops=worse.flops) is best
    assert family.choose(max_latency=100.0) is best
    assert family.pareto() == [first, best]


def test_the_smallest_size_that_is_accurate_enough_is_chosen(run):
    family = Family(run)
    sizes = list(family)
    assert family.choose(min_accuracy=0.79) is sizes[1]
    assert family.choose(min_accuracy=0) is sizes[0]
    assert family.choose(min_accuracy=0.5, max_latency=100.0) is sizes[0]


def test_of_equal_sizes_the_best_is_chosen(tmp_path):
    measures = [{"accuracy": value} for value in (0.5, 0.7, 0.6)]
    sizes, net = FamilyWriter(new_folder(tmp_path / "run"), "classification"), SEED.build()
    for measure, quality in zip(measures, ("average", "branch", "branch"), strict=True):
        sizes.add(tensors_of(net), facts(net, measure, quality=quality))
    family = Family(tmp_path / "run")
    assert [size.quality for size in family] == ["average", "branch", "branch"]
    assert family.choose().validation["accuracy"] == 0.7
    assert family.choose(min_accuracy=0.6).validation["accuracy"] == 0.7
    assert [size.validation["accuracy"] for size in family.pareto()] == [0.7]


def test_a_size_whose_loss_was_not_finite_comes_last(tmp_path):
    write_run(tmp_path / "run", "regression", [{"rmse": 3.0}, {"rmse": float("nan")}])
    family = Family(tmp_path / "run")
    assert family.choose() is next(iter(family))
    assert len(family.pareto()) == 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_params": 60}, r"run has no size of at most 60 parameters: the smallest, 1-\d+, has \d+"),
        ({"max_flops": 90}, r"run has no size of at most 90 FLOPs: the cheapest, 1-\d+, takes 1?,?\d+"),
        ({"min_accuracy": 0.9}, r"no size with a validation accuracy of at least 0.9: the best, 2-\d+, has 0.8000"),
        (
            {"max_params": 100, "min_accuracy": 0.7},
            r"at most 100 parameters and with .* at least 0.7: the best of those that meet the rest, 1-\d+, has 0.6000",
        ),
        ({"max_latency": 1e-9}, r"no size that takes at most 1e-06 ms here: the fastest, \S+, takes \S+ ms"),
        ({"max_params": 0}, "expected max_params as a whole number above zero"),
        ({"max_params": 1e3}, "expected max_params as a whole number above zero"),
        ({"max_params": True}, "expected max_params as a whole number above zero"),
        ({"max_flops": -5}, "expected max_flops as a whole number above zero"),
        ({"max_latency": float("nan")}, "expected max_latency as a number of seconds above zero"),
        ({"min_accuracy": 79}, "expected min_accuracy as a number from 0 to 1, received 79"),
        ({"min_accuracy": "0.9"}, "expected min_accuracy as a number from 0 to 1"),
    ],
)
def test_limits_that_nothing_meets_are_told(limits, message, run):
    with pytest.raises(InputError, match=message):
        outgrow.load(run, **limits)


def test_what_a_run_has_not_is_told(tmp_path):
    write_run(tmp_path / "run", "regression")
    with pytest.raises(InputError, match="run is a regression: it has no accuracy"):
        outgrow.load(tmp_path / "run", min_accuracy=0.5)
    with pytest.raises(InputError, match=r"run has no size '7': it has 1-\d+, 2-"):
        Family(tmp_path / "run")["7"]
    write_run(tmp_path / "empty", measures=[])
    family = Family(tmp_path / "empty")
    assert (len(family), family.pareto(), "no sizes" in repr(family)) == (0, [], True)
    with pytest.raises(InputError, match="empty has not saved a size yet"):
        family.load()


# what a family tells


def test_a_family_tells_what_was_saved(run):
    family = Family(run)
    stored = json.loads((run / "family.json").read_text())["sizes"]
    assert (len(family), family.task, family.metric, family.inputs) == (4, "classification", "accuracy", (1, 8, 8))
    assert family.total == {"seconds": 3.0}
    for size, said in zip(family, stored, strict=True):
        assert family[said["name"]] is size
        told = {key: value for key, value in vars(size).items() if key in said}
        assert told | {"blocks": [], "settings": []} == said
        with pytest.raises(AttributeError):
            size.params = 1
    assert repr(family).endswith(
        f"run': classification, 4 sizes of {stored[0]['params']} to {stored[3]['params']} parameters)"
    )
    assert "loader" not in repr(family.choose())


def test_sizes_come_in_the_order_of_their_parameters(run):
    whole = json.loads((run / "family.json").read_text())
    change(run, ["sizes"], whole["sizes"][::-1])
    assert [size.name for size in Family(run)] == [size["name"] for size in whole["sizes"]]


@pytest.mark.parametrize("tested", [True, False])
def test_the_table_has_a_row_for_each_size(tested, run):
    if tested:
        change(run, ["sizes", 1, "test"], {"loss": 0.5, "accuracy": 0.4321})
    head, rule, *rows = Family(run).table().splitlines()
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    assert ("test accuracy" in head) == tested
    for row, size in zip(rows, Family(run), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:5] == [
            size.name,
            f"{size.params:,}",
            f"{size.flops:,}",
            "2",
            f"{100 * size.validation['accuracy']:.2f} %",
        ]
        assert cells[5:] == ([{"2": "43.21 %"}.get(size.name[0], "-")] if tested else []) + ["2.2"]


# loading


def test_a_loaded_size_has_the_tensors_that_were_saved(whole):
    run, nets = whole
    state = torch.get_rng_state()
    for size, saved in zip(Family(run), nets, strict=True):
        net = size.load()
        assert not net.training
        loaded = tensors_of(net)
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert net.convnet.blocks[1].conv.in_channels == 11
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(outgrow.load(run)(x), Family(run).choose().load()(x))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_size_is_loaded_on_the_cpu_whatever_the_default_device_is(whole, device):
    run, _ = whole
    with torch.device(device):
        net = outgrow.load(run)
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


class Counting(nn.Module):
    """Counts its forward passes in a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x):
        self.passes += 1
        return self.layer(x)


def test_loading_counts_for_nothing():
    seed = ImportedSeed("mynets:Counting", Counting, (2,), 2)
    saved = {name: tensor.clone() for name, tensor in tensors_of(seed.build()).items()}
    assert torch.equal(restored(seed, (), saved, ()).model.passes, saved["model.passes"])


@pytest.mark.parametrize("which", [0, -1])
def test_a_size_with_inserted_blocks_can_be_loaded(which, tmp_path):
    """Blocks that came in one after the other, with more units between them."""
    torch.manual_seed(0)
    seed = Seed("resnet", (1, 8, 8), 3, widths=(3, 4))
    sizes, net, blocks = FamilyWriter(new_folder(tmp_path / "run", seed), "classification"), seed.build().eval(), []
    answers = []
    x = torch.rand(5, 1, 8, 8)
    for _ in range(3):
        sizes.add(tensors_of(net), facts(net, {"accuracy": 0.5}, blocks=list(blocks)))
        answers.append(net(x))
        place = [place.name for place in places(net, seed.example()) if place.growable][which]
        widen_(net, next(axis.name for axis in axes(net, seed.example()) if axis.growable), 1, example=seed.example())
        deepen_(net, place, example=seed.example())
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        blocks.append(place)
    for size, answer in zip(Family(tmp_path / "run"), answers, strict=True):
        assert torch.equal(size.load()(x), answer)
    change(tmp_path / "run", ["sizes", 2, "blocks"], ["nowhere"])
    with pytest.raises(InputError, match=r"safetensors can't be loaded: the seed network is another one: .*nowhere"):
        list(Family(tmp_path / "run"))[2].load()
