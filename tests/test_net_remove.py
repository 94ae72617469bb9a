"""Removing leaves what masking would, and can be taken back."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from net_cases import CASES, ROW, Case, Chain, axes_of, noise
from outgrow.errors import EditError, GrowthError
from outgrow.net.axes import axes, find_axis
from outgrow.net.axis import Axis
from outgrow.net.edit import Edit
from outgrow.net.follow import followed
from outgrow.net.inputs import call
from outgrow.net.preserve import change, measured
from outgrow.net.remove import Removal, remove, remove_
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import apply_
from outgrow.net.widening import Widening
from removal_snapshot import contents, plain, run, same
from zoo import ZOO

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SPECIAL = {  # sizes beside the weights, heads, groups of them, and norms over the axis
    name: ZOO[name]
    for name in (
        "swiglu, stored split",
        "attention, stored heads",
        "fused, timm",
        "grouped, interleave",
        "factored embedding",
        "vision transformer",
        "rms norm",
    )
}
every_kind = pytest.mark.parametrize("case", [*CASES.values(), *SPECIAL.values()], ids=[*CASES, *SPECIAL])


def opened(case: Case) -> tuple[nn.Module, list[Axis], list[Axis]]:
    """A model, all its axes, and those that can change and have a unit to spare."""
    model = case.model()
    found = axes_of(case)
    return model, found, [axis for axis in found if axis.growable and axis.size > 1]


def choices(size: int) -> Iterator[list[int]]:
    """Units at the start, at the end, and all but one in the middle."""
    yield from ([0], [size - 1], [i for i in range(size) if i != size // 2])


@torch.no_grad()
def masked(model: nn.Module, axis: Axis, units: list[int]) -> nn.Module:
    """A copy in which nothing reads the units; where a norm sees them, nothing writes them either."""
    model = copy.deepcopy(model)
    for member in axis.members if axis.gains else axis.consumers:
        tensors_of(model)[member.tensor].index_fill_(member.dim, member.index[units].flatten(), 0.0)
    return model


@every_kind
def test_removed_is_what_masked_would_be(case: Case):
    model, found, growable = opened(case)
    for axis in growable:
        for number, units in enumerate(choices(axis.size)):
            smaller = copy.deepcopy(model)
            edit = remove(smaller, found, [Removal.of(axis, units)])
            for training in [False] if case.dropout else [False, True]:
                assert change(run(masked(model, axis, units), case, training), run(smaller, case, training)) <= 1e-5
            assert next(a for a in edit.axes if a.name == axis.name).size == axis.size - len(units)
            if not number and axis.size > 2:  # of a single unit one can't tell what its entries are
                assert plain(edit.axes) == plain(axes(smaller, case.example))


@every_case
def test_what_stays_is_bit_equal(case: Case):
    model, found, growable = opened(case)
    before = tensors_of(model)
    gains = {gain.tensor for axis in growable for gain in axis.gains}
    edit = remove(copy.deepcopy(model), found, [Removal.of(axis, [0]) for axis in growable])
    for found_change in edit.changes:
        expected = before[found_change.name].detach()
        for dim, kept in enumerate(found_change.kept):
            expected = expected.index_select(dim, kept)
        assert found_change.new.shape == expected.shape
        assert found_change.name in gains or torch.equal(found_change.new, expected)
        assert torch.equal(found_change.carry(before[found_change.name].detach()), expected)


def step(model: nn.Module, case: Case, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    leaves = pytree.tree_leaves(call(model, case.example))
    sum((leaf * noise(*leaf.shape).to(leaf)).sum() for leaf in leaves).backward()
    optimizer.step()


OPTIMIZERS = {  # by how many units are added
    1: lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    3: lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name} {key}": value.clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


@pytest.mark.parametrize("units", [1, 3])
@every_case
def test_widened_and_removed_is_nothing(case: Case, units: int):
    model = case.model().train()
    trainer = OPTIMIZERS[units](model.parameters())
    for _ in range(2):
        step(model, case, trainer)
    found = axes_of(case)
    tensors, state, shown = contents(model), moments(model, trainer), repr(model)
    for axis in (a for a in found if a.growable):
        now = apply_(model, found, [Widening(axis, units)], inputs=case.example, optimizer=trainer).axes
        removal = Removal.of(find_axis(now, axis.name), range(-units, 0))

        def edited(now=now, removal=removal) -> Edit:
            return measured(model, case.example, lambda: remove(model, now, [removal]))

        edit = followed(model, edited, trainer, ())
        assert edit.moved <= 1e-5
        assert repr(model) == shown
        assert same(contents(model), tensors) or axis.gains
        assert same(moments(model, trainer), state)
        assert plain(edit.axes) == plain(found)


def everything_in(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
    """Tensors by identity and by value, sizes of modules, groups and state of the optimizer."""
    tensors = {name: (id(t), t.tolist()) for name, t in model.state_dict(keep_vars=True).items()}
    sizes = [{k: v for k, v in vars(m).items() if isinstance(v, (int, tuple))} for m in model.modules()]
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    state = {
        id(p): {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in entries.items()}
        for p, entries in optimizer.state.items()
    }
    return tensors, sizes, groups, state


@every_kind
def test_undo_is_as_if_nothing_had_been(case: Case):
    model, _, growable = opened(case)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.01)
    step(model, case, optimizer)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    before = everything_in(model, optimizer), everything_in(averaged, optimizer), model.training
    for axis in growable:
        edit = remove_(
            model,
            axis.name,
            [*range(1, axis.size)],
            example=case.example,
            optimizer=optimizer,
            averages=[averaged],
            compensate=case.example,
        )
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == set(map(id, model.parameters()))
        assert [t.shape for t in averaged.module.state_dict().values()] == [
            t.shape for t in model.state_dict().values()
        ]
        edit.undo()
        assert (everything_in(model, optimizer), everything_in(averaged, optimizer), model.training) == before


@every_case
def test_one_after_the_other_is_both_at_once(case: Case):
    model, found, growable = opened(case)
    for axis in (a for a in growable if a.size > 2):
        at_once, in_turn = copy.deepcopy(model), copy.deepcopy(model)
        both = remove(at_once, found, [Removal.of(axis, [0, -1])])
        first = remove(in_turn, found, [Removal.of(axis, [0])])
        second = remove(in_turn, first.axes, [Removal.of(find_axis(first.axes, axis.name), [-1])])
        assert all(
            torch.allclose(a, b) for a, b in zip(contents(at_once).values(), contents(in_turn).values(), strict=True)
        )
        assert axis.gains or same(contents(at_once), contents(in_turn))
        assert plain(both.axes) == plain(second.axes)


@every_case
def test_axes_commute(case: Case):
    model, found, growable = opened(case)
    results = []
    for order in (growable, growable[::-1]):
        smaller, now = copy.deepcopy(model), found
        for axis in order:
            now = remove(smaller, now, [Removal.of(find_axis(now, axis.name), [0])]).axes
        results.append(contents(smaller))
    at_once = copy.deepcopy(model)
    remove(at_once, found, [Removal.of(axis, [0]) for axis in growable])
    assert same(*results)
    assert same(contents(at_once), results[0])


def test_a_smaller_network_trains_with_its_optimizer():
    case = CASES["inverted"]
    model = case.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step(model, case, optimizer)
    edit = remove_(model, "up", [1, 2], example=case.example, optimizer=optimizer)
    before = contents(model)
    step(model, case, optimizer)
    assert all((p != before[name]).any() for name, p in model.named_parameters())
    assert edit.what == "removing 2 of 6 units of up (1, 2)"
    assert 0 < edit.moved < float("inf")


def test_a_depthwise_convolution_of_one_channel_comes_back():
    case = CASES["inverted"]
    model = case.model()
    before = run(model, case)
    edit = remove_(model, "up", range(5), example=case.example)
    assert (model.depthwise.groups, model.depthwise.in_channels, model.depthwise.out_channels) == (1, 1, 1)
    edit.undo()
    assert repr(model) == repr(case.model())
    assert all(torch.equal(a, b) for a, b in zip(run(model, case), before, strict=True))


@pytest.mark.parametrize("indices", [[1, 3], (3, 1), [-3, -1], torch.tensor([1, 3]), range(1, 4, 2)], ids=repr)
def test_units_can_be_named_in_many_ways(indices):
    model = CASES["mlp"].model()
    expected = model[1].hidden[0].weight[[0, 2]].detach().clone()
    remove_(model, "mlp.hidden.0", indices, example=CASES["mlp"].example)
    assert torch.equal(model[1].hidden[0].weight, expected)


def test_frozen_and_tied_weights_stay_so():
    case = CASES["tied"]
    model = case.model()
    model.head.weight.requires_grad_(False)
    remove_(model, "a", [1], example=case.example, compensate=case.example)
    assert model.b.weight is model.c.weight
    assert model.c.weight.shape == (3, 3)
    assert [p.requires_grad for p in (model.head.weight, model.head.bias)] == [False, True]


# what it refuses


REFUSED = {
    "unknown axis": (lambda m: {"axis": "nowhere"}, "no axis is called 'nowhere'"),
    "output": (lambda m: {"axis": "2"}, "axis '2' can't (grow|change).*: it is an output of the network"),
    "none": (lambda m: {"indices": []}, "removing units of '0': expected 1 to 3 of its 4 units, got 0"),
    "all": (lambda m: {"indices": range(4)}, "expected 1 to 3 of its 4 units, got 4; at least one has to stay"),
    "too large": (lambda m: {"indices": [1, 4]}, r"expected numbers in 0..3 \(or -4..-1, from the end\), got 4"),
    "too small": (lambda m: {"indices": [-5]}, r"expected numbers in 0..3 \(or -4..-1, from the end\), got -5"),
    "twice": (lambda m: {"indices": [1, -3]}, "expected each unit once, got 1 more than once"),
    "mask": (lambda m: {"indices": torch.tensor([True, False, False, True])}, "expected a list or tensor of whole"),
    "fractions": (lambda m: {"indices": [0.5]}, r"expected a list or tensor of whole numbers, got \[0.5\]"),
    "a number": (lambda m: {"indices": 3}, "expected a list or tensor of whole numbers, got 3"),
    "another optimizer": (
        lambda m: {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        "expected an optimizer of this model",
    ),
    "another average": (lambda m: {"averages": [AveragedModel(nn.Linear(2, 2))]}, "expected an average of this model"),
    "another average, compensated": (
        lambda m: {"averages": [AveragedModel(nn.Linear(2, 2))], "compensate": ROW},
        "expected an average of this model",
    ),
    "wrong batch": (lambda m: {"compensate": noise(4, 5)}, "compensate: Sequential fails on these inputs"),
    "empty batch": (lambda m: {"compensate": noise(0, 3)}, "compensate: expected at least one example"),
    "not finite": (lambda m: {"compensate": ROW / 0}, "compensate: expected .* finite values in '2'"),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_removed(wrong, message):
    case = Case(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), ROW, {})
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = everything_in(model, optimizer)
    with pytest.raises(GrowthError, match=message):
        remove_(model, **{"axis": "0", "indices": [1], "example": ROW, **wrong(model)})
    assert everything_in(model, optimizer) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_network_that_fails_afterwards_is_as_it_was(monkeypatch):
    case = Case(lambda: Chain(nn.Linear(3, 4), lambda h: h + 0 * h.reshape(-1, h.shape[1]), nn.Linear(4, 2)), ROW, {})
    model = case.model()
    found = axes(model, ROW)
    model._between = lambda h: h + 0 * h.reshape(-1, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = everything_in(model, optimizer)
    monkeypatch.setattr("outgrow.net.remove.axes", lambda *_: found)
    with pytest.raises(EditError, match=r"removing 1 of 4 units of first \(0\) .*: the edited model fails: "):
        remove_(model, "first", [0], example=ROW, optimizer=optimizer)
    assert everything_in(model, optimizer) == before
