"""A copied block shares what its block shares, and optimizers and averages follow it."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from outgrow.net.carry import carry_average_
from outgrow.net.deepen import deepen_
from outgrow.net.places import places
from outgrow.net.preserve import change
from outgrow.net.twin import twin
from place_cases import CASES, IMAGE, ROW, WORDS, step
from place_snapshot import everything_in, run


class Sharing(nn.Module):
    """Blocks that share a layer, a weight and an object with the rest."""

    def __init__(self):
        super().__init__()
        self.config = {"scale": 0.5}
        self.stem, self.act = nn.Linear(3, 4), nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(SharingBlock(self) for _ in range(2)))

    def forward(self, x):
        return self.act(self.blocks(self.stem(x)))


class SharingBlock(nn.Module):
    def __init__(self, owner: Sharing):
        super().__init__()
        self.config, self.act = owner.config, owner.act
        self.tied, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.tied.weight = owner.act.weight

    def forward(self, x):
        y = torch.tanh(self.act(x)) + torch.tanh(self.tied(x))
        return x + self.config["scale"] * self.down(torch.tanh(self.up(y)))


def test_a_copy_shares_what_its_block_shares():
    model = Sharing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [*model.parameters()]
    edit = deepen_(model, "blocks", example=ROW, optimizer=optimizer)
    old, new = model.blocks[1], model.blocks[2]
    assert new.act is model.act
    assert new.tied.weight is model.act.weight
    assert new.config is model.config
    assert new.up.weight is not old.up.weight
    assert [*edit.insertions[0].like] == [
        f"0.{key}" for key in ("tied.bias", "up.weight", "up.bias", "down.weight", "down.bias")
    ]
    added = [p for p in optimizer.param_groups[0]["params"] if all(p is not q for q in before)]
    assert len(added) == 5
    edit.undo()
    assert len(optimizer.param_groups[0]["params"]) == len(before)


def test_a_weight_that_is_used_outside_too_is_never_set_to_zero():
    class Block(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.up, self.shared = nn.Linear(4, 4), shared

        def forward(self, x):
            return x + self.shared(torch.tanh(self.up(x)))

    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, nn.Sequential(Block(shared), Block(shared)))
    found = places(model, WORDS[..., :4])
    assert {p.name: p.what for p in found} == {
        f"1.{i}": "a copy of it (Block), up.weight, up.bias at zero" for i in (0, 1)
    }
    weight = shared.weight.detach().clone()
    deepen_(model, "1", example=WORDS[..., :4])
    assert torch.equal(weight, shared.weight)


def test_a_twin_leaves_the_original():
    block = CASES["basic"].model().layer1[0]
    copied = twin(block, block)
    assert all(a is not b and torch.equal(a, b) for a, b in zip(copied.parameters(), block.parameters(), strict=True))


# optimizers and averages


def test_new_parameters_join_the_group_of_what_they_are_like_and_frozen_ones_stay_frozen():
    model = CASES["basic"].model()
    model.layer1[1].bn1.weight.requires_grad_(False)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1 and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    step(model, IMAGE, optimizer)
    edit = deepen_(model, "layer1.1", example=IMAGE, optimizer=optimizer)
    new = dict(model.layer1[2].named_parameters())
    assert not new.pop("bn1.weight").requires_grad
    for parameter in new.values():
        groups = [any(parameter is p for p in group["params"]) for group in optimizer.param_groups]
        assert groups == [parameter.ndim > 1, parameter.ndim == 1]
    step(model, IMAGE, optimizer)
    edit.undo()
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(decayed), len(others)]


def test_undo_restores_the_optimizer():
    case = CASES["norms"]
    model = case.model()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, IMAGE, optimizer, 2)
    before = everything_in(model, optimizer)
    edits = [deepen_(model, name, example=IMAGE, optimizer=optimizer) for name in ("relu", "fc.1")]
    for edit in reversed(edits):
        edit.undo()
    assert everything_in(model, optimizer) == before


def test_averages_follow():
    model = CASES["counted"].model()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    out = run(averaged, ROW, False)
    edit = deepen_(model, "blocks", example=ROW, averages=[averaged])
    assert change(out, run(averaged, ROW, False)) <= 1e-6
    averaged.update_parameters(model)
    assert averaged.module.how_many == 4
    edit.undo()
    assert averaged.module.how_many == 3
    assert change(out, run(averaged, ROW, False)) <= 1e-6


def test_the_average_of_a_copy_shares_what_its_block_shares():
    model = Sharing()
    averaged = AveragedModel(model)
    out = run(averaged, ROW, False)
    before = dict(model.named_parameters(remove_duplicate=False))
    edit = deepen_(model, "blocks", example=ROW)
    carry_average_(averaged, edit, before)
    assert averaged.module.blocks[2].tied.weight is averaged.module.act.weight
    assert averaged.module.act.weight is not model.act.weight
    assert len([*averaged.module.parameters()]) == len([*model.parameters()])
    averaged.update_parameters(model)
    assert change(run(model, ROW, False), run(averaged, ROW, False)) <= 1e-6
    edit.undo()
    assert change(out, run(averaged, ROW, False)) <= 1e-6
