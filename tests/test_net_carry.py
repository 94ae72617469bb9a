"""An optimizer follows every edit: old entries never notice, and undo is as if nothing had been."""

import copy

import pytest
import torch
from torch import Tensor, nn

import outgrow
from net_cases import noise
from optimizer_cases import EDITS, Make, carried, every_edit, every_optimizer, old_entries, seed, steps, widened
from optimizer_snapshot import everything_in
from outgrow.net.axes import axes, find_axis
from outgrow.net.edit import Edit
from outgrow.net.enlargement import widen
from outgrow.net.widening import Widening


@pytest.mark.parametrize("name", ["wider", "narrower"])
@every_optimizer
def test_old_entries_never_notice(make: Make, name: str):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(alone.parameters())
    steps(model, optimizer, 0, 5)
    steps(alone, other, 0, 5)
    old = old_entries(EDITS[name](model, optimizer))
    for path, parameter in alone.named_parameters():
        state = optimizer.state[model.get_parameter(path)]
        now, then = old.get(path, (..., ...))
        for key, value in other.state[parameter].items():
            if isinstance(value, Tensor) and value.ndim:
                assert torch.equal(state[key][now], value[then]), (path, key)
            else:
                assert state[key] == value, (path, key)
    if name == "narrower":
        return  # the gradients of these tests depend on the place, and places have moved
    steps(model, optimizer, 5, 12)
    steps(alone, other, 5, 12)
    for path, parameter in alone.named_parameters():
        now, then = old.get(path, (..., ...))
        assert torch.equal(model.get_parameter(path)[now], parameter[then]), path


@every_edit
@every_optimizer
def test_undo_goes_on_as_if_nothing_had_been(make: Make, edit):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(alone.parameters())
    steps(model, optimizer, 0, 4)
    steps(alone, other, 0, 4)
    first = widened(model, "2", 2, optimizer)
    before = everything_in(optimizer)
    second = EDITS["wider"](model, optimizer) if edit is EDITS["deeper"] else edit(model, optimizer)
    assert everything_in(optimizer) != before
    second.undo()
    assert everything_in(optimizer) == before
    first.undo()
    third = edit(model, optimizer)
    third.undo()
    steps(model, optimizer, 4, 9)
    steps(alone, other, 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


@every_edit
@every_optimizer
def test_every_live_parameter_is_in_and_no_dead_one(make: Make, edit):
    model = seed()
    optimizer = make(model.parameters())
    steps(model, optimizer, 0, 2)
    edit(model, optimizer)
    for _ in range(2):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
        assert set(map(id, optimizer.state)) <= set(map(id, model.parameters()))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        steps(model, optimizer, 2, 4)
        assert all((a != b).all() for a, b in zip(before, model.parameters(), strict=True))


def test_undo_after_some_training_keeps_what_the_edit_did_not_touch():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, optimizer, 0, 2)
    edit = widened(model, "0", 2, optimizer)
    steps(model, optimizer, 2, 4)
    edit.undo()
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [2, 2, 2, 4, 4, 4]


def test_state_is_laid_out_as_the_parameter_is():
    """A fused step walks memory, so strides have to agree."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(noise(2, 2, 6, 6)).sum().backward()
    optimizer.step()
    found = axes(model, noise(2, 2, 6, 6))

    def edit() -> Edit:
        made = widen(model, found, [Widening(find_axis(found, "0"), 2)])
        with torch.no_grad():
            for change in made.changes:
                if change.new.ndim == 4:
                    change.new.data = change.new.data.to(memory_format=torch.channels_last)
        return made

    carried(model, edit, optimizer)
    for parameter in model.parameters():
        assert optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_a_sparse_gradient_is_carried():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ids = torch.tensor([[0, 1], [3, 1]])
    for _ in range(2):
        optimizer.zero_grad()
        model(ids).sum().backward()
        optimizer.step()
    before = model[0].weight.grad.to_dense()
    outgrow.widen_(model, "0", 2, example=ids, optimizer=optimizer)
    assert model[0].weight.grad.is_sparse
    assert torch.equal(model[0].weight.grad.to_dense()[:, :3], before)
    optimizer.step()


def test_hooks_on_parameters_stay():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    seen = []
    handles = [p.register_hook(lambda g: g.clamp(-0.5, 0.5)) for p in model.parameters()]
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    outgrow.widen_(model, "0", 2, example=noise(2, 3))
    (100 * model(noise(8, 3))).sum().backward()
    assert max(p.grad.abs().max() for p in model.parameters()) <= 0.5
    assert seen == [torch.Size([6, 3])]
    for handle in handles:
        handle.remove()
    model.zero_grad()
    (100 * model(noise(8, 3))).sum().backward()
    assert max(p.grad.abs().max() for p in model.parameters()) > 0.5
