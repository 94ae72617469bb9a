"""Optimizers and averages follow every edit: what was there stays as it was, what is new has its place."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from net_cases import CASES, noise
from optimizer_cases import (
    CLOSE,
    EDITS,
    Make,
    X,
    births_in,
    carried,
    every_edit,
    every_optimizer,
    gradient,
    inserted,
    layer,
    named,
    narrowed,
    old_entries,
    seed,
    steps,
    widened,
)
from outgrow.errors import GrowthError
from outgrow.net.axes import axes, find_axis
from outgrow.net.carry import adopt_shapes_, carry_average_, carry_optimizer_
from outgrow.net.edit import Edit
from outgrow.net.laws import LAWS, law_of
from outgrow.net.newborns import Newborns
from outgrow.net.setting import Setting
from outgrow.net.surgery import insert_
from outgrow.net.widening import Widening, widen


def everything_in(optimizer: Optimizer) -> object:
    """Groups with their lists, and the state in its order: what is the same object, and its values."""
    groups = [(id(g["params"]), [id(p) for p in g["params"]], g.get("param_names")) for g in optimizer.param_groups]
    state = [
        (id(p), id(s), {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in s.items()})
        for p, s in optimizer.state.items()
    ]
    return copy.deepcopy(groups), state


# what was there


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


# groups


def test_groups_keep_their_options_and_parameters():
    model = seed()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[0].weight, model[2].weight], "lr": 0.1, "betas": (0.5, 0.7)},
            {"params": [model[0].bias], "weight_decay": 0.0},
            {"params": [*model[4].parameters(), model[2].bias]},
        ],
        lr=0.01,
    )
    steps(model, optimizer, 0, 2)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    widened(model, "0", 2, optimizer)
    assert options == [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in group]
        for group in ([model[0].weight, model[2].weight], [model[0].bias], [*model[4].parameters(), model[2].bias])
    ]
    assert set(map(id, optimizer.state)) == set(map(id, model.parameters()))
    newborns = [(nn.Parameter(model[0].weight.detach()[4:]), 0), (nn.Parameter(model[0].bias.detach()[4:]), 1)]
    alone = torch.optim.AdamW([{**options[at], "params": [newborn]} for newborn, at in newborns])
    for at in range(2, 9):
        steps(model, optimizer, at, at + 1)
        newborns[0][0].grad, newborns[1][0].grad = gradient((6, 3), at)[4:], gradient((6,), at)[4:]
        alone.step()
    torch.testing.assert_close(model[0].weight[4:], newborns[0][0], **CLOSE)
    torch.testing.assert_close(model[0].bias[4:], newborns[1][0], **CLOSE)


def test_an_optimizer_of_some_parameters():
    model = seed()
    optimizer = torch.optim.Adam(model[4].parameters())
    widened(model, "0", 2, optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[4].parameters()]


@every_edit
def test_an_optimizer_of_another_model_is_refused_and_nothing_has_changed(edit):
    model = seed()
    optimizer = torch.optim.Adam(seed().parameters())
    before, layers = [id(p) for p in model.parameters()], list(model)
    held = everything_in(optimizer)
    with pytest.raises(
        GrowthError, match="expected an optimizer of this model, got Adam with 6 other parameters; pass"
    ):
        edit(model, optimizer)
    assert [id(p) for p in model.parameters()] == before
    assert list(model) == layers
    assert everything_in(optimizer) == held


def decayed_and_not(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )


def test_new_parameters_join_the_groups_of_those_that_they_are_like():
    model = seed()
    optimizer = decayed_and_not(model)
    steps(model, optimizer, 0, 2)
    before = everything_in(optimizer)
    edit = inserted(model, layer(**{"0_weight": "2.weight", "0_bias": "2.bias"}), optimizer)
    fresh = decayed_and_not(model)  # in the order in which an optimizer of the grown model would have them
    ids = [[[id(p) for p in group["params"]] for group in each.param_groups] for each in (optimizer, fresh)]
    assert ids[0] == ids[1]
    fresh.load_state_dict(optimizer.state_dict())
    steps(model, optimizer, 2, 3)
    assert int(optimizer.state[model[3].weight]["step"]) == 1
    edit.undo()
    assert [group["params"] for group in decayed_and_not(model).param_groups] == [
        group["params"] for group in optimizer.param_groups
    ]
    assert [(p, s) for p, s, _ in everything_in(optimizer)[1]] == [(p, s) for p, s, _ in before[1]]


def test_a_new_parameter_that_is_like_none_joins_the_largest_group():
    model = seed()
    optimizer = decayed_and_not(model)
    inserted(model, layer(), optimizer)
    assert {id(p) for p in model[3].parameters()} <= {id(p) for p in optimizer.param_groups[0]["params"]}


def test_a_new_parameter_that_is_like_a_frozen_one_is_trained():
    model = seed()
    model[2].requires_grad_(False)
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    inserted(model, layer(**{"0_weight": "2.weight", "0_bias": "2.bias"}), optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters() if p.requires_grad
    ]


def test_a_new_parameter_that_is_like_one_of_another_optimizer_stays_out():
    model = seed()
    optimizers = [torch.optim.SGD(part.parameters()) for part in (model[:2], model[2:])]
    before = named(model)
    insertion = layer(**{"0_weight": "0.weight", "0_bias": "4.bias"})
    edit = Edit("inserting", insertions=(insertion,), _undo=[insert_(model, insertion)])
    for optimizer in optimizers:
        carry_optimizer_(optimizer, edit, model, before)
    assert [[id(p) for p in o.param_groups[0]["params"]] for o in optimizers] == [
        [id(p) for p in (*model[0].parameters(), model[3].weight)],
        [id(p) for p in (*model[2].parameters(), model[3].bias, *model[6].parameters())],
    ]


def test_frozen_and_tied_new_parameters_stay_out():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    insertion = layer()
    insertion.modules[0].weight = nn.Parameter(torch.eye(3).double(), requires_grad=False)
    insertion.modules[0].bias = model[2].bias
    inserted(model, insertion, optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters() if p.requires_grad
    ]


def test_a_new_parameter_that_is_like_nothing_there():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(GrowthError, match=r"expected a parameter of the model that a new one is like, got '9\.weight'"):
        inserted(model, layer(**{"0_weight": "9.weight"}), optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


@every_edit
def test_names_that_an_optimizer_keeps_follow(edit):
    model = seed()
    optimizer = torch.optim.Adam([("mine", model[0].weight), *list(model.named_parameters())[1:]])
    if "param_names" not in optimizer.param_groups[0]:
        pytest.skip("this torch keeps no names")
    before = list(optimizer.param_groups[0]["param_names"])
    done = edit(model, optimizer)
    assert optimizer.param_groups[0]["param_names"] == ["mine", *list(dict(model.named_parameters()))[1:]]
    done.undo()
    assert optimizer.param_groups[0]["param_names"] == before


# state that can't follow


@every_edit
def test_factored_state_starts_anew(edit):
    model = seed().float()
    optimizer = torch.optim.Adafactor(model.parameters())
    steps(model, optimizer, 0, 3)
    before = everything_in(optimizer)
    if edit is EDITS["deeper"]:
        pytest.skip("new modules leave the state of the others")
    with pytest.warns(UserWarning, match=r"Adafactor has state that can't .* anew for 0\.weight, 0\.bias, 2\.weight"):
        done = edit(model, optimizer)
    assert set(map(id, optimizer.state)) == {id(model[2].bias), *map(id, model[4].parameters())}
    steps(model, optimizer, 3, 4)
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 1, 4, 4, 4]
    done.undo()
    kept = {p: s for p, s, _ in before[1]}
    assert {id(p): id(s) for p, s in optimizer.state.items()} == kept
    steps(model, optimizer, 4, 5)


@every_edit
def test_a_history_of_all_parameters_starts_anew(edit):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = (torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=3) for m in (model, alone))

    def step(net: nn.Module, own: Optimizer) -> Tensor:
        def closure() -> Tensor:
            own.zero_grad()
            loss = net(X).square().mean()
            loss.backward()
            return loss

        return own.step(closure)

    for _ in range(2):
        step(model, optimizer)
        step(alone, other)
    with pytest.warns(UserWarning, match="LBFGS has state that can't follow .* anew for all parameters"):
        done = edit(model, optimizer)
    assert not optimizer.state
    first, last = step(model, optimizer), step(model, optimizer)
    assert last < first
    for parameter, old in zip(alone.parameters(), model.parameters(), strict=False):
        old.grad = parameter.grad = None
    done.undo()
    with torch.no_grad():  # those that the edit left alone have moved
        for parameter, old in zip(model.parameters(), alone.parameters(), strict=True):
            parameter.copy_(old)
    assert torch.equal(step(model, optimizer), step(alone, other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


class Signs(Optimizer):
    """An optimizer that nobody knows: signs of a momentum, times a rate that falls."""

    def __init__(self, parameters, extra: Callable[[nn.Parameter], dict[str, object]] = lambda p: {}) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self._extra = extra

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(
                        momentum=torch.zeros_like(parameter), rate=torch.tensor(1.0), count=0, **self._extra(parameter)
                    )
                state["momentum"].lerp_(parameter.grad, 0.5)
                state["rate"] *= 0.9
                state["count"] += 1
                parameter.sub_(state["momentum"].sign() * state["rate"] * group["lr"])


def test_an_unknown_optimizer_with_state_of_the_parameters_shape():
    model = seed()
    optimizer = Signs(model.parameters(), lambda p: {"notes": ["some"]})
    steps(model, optimizer, 0, 3)
    before = dict(optimizer.state[model[2].weight])
    edit = widened(model, "0", 2, optimizer)
    after = optimizer.state[model[2].weight]
    assert torch.equal(after["momentum"][:, :4], before["momentum"])
    assert not after["momentum"][:, 4:].any()
    assert (after["rate"], after["count"], after["notes"]) == (before["rate"], 3, ["some"])
    steps(model, optimizer, 3, 5)
    edit.undo()
    assert optimizer.state[model[2].weight]["count"] == 3
    assert float(optimizer.state[model[2].weight]["rate"]) == pytest.approx(0.9**3)


OF_OTHER_SHAPES = {
    "rows": lambda p: {"rows": torch.zeros(len(p))} if p.ndim > 1 else {},
    "list": lambda p: {"factors": [torch.eye(n) for n in p.shape]},
    "one number in brackets": lambda p: {"scale": torch.ones(1)},
}


@pytest.mark.parametrize("extra", OF_OTHER_SHAPES.values(), ids=OF_OTHER_SHAPES)
def test_an_unknown_optimizer_with_state_of_another_shape(extra):
    model = seed()
    optimizer = Signs(model.parameters(), extra)
    steps(model, optimizer, 0, 3)
    with pytest.warns(UserWarning, match=r"widening 0 by 2: Signs has state that can't .* 2\.weight"):
        widened(model, "0", 2, optimizer)
    assert model[2].weight not in optimizer.state
    steps(model, optimizer, 3, 5)
    assert optimizer.state[model[2].weight]["count"] == 2
    assert optimizer.state[model[4].weight]["count"] == 5


def test_an_adam_with_a_step_of_its_own_is_not_corrected():
    class Mine(torch.optim.Adam):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.sub_(parameter.grad)

    class Named(torch.optim.Adam):
        pass

    assert law_of(Mine(seed().parameters())) is None
    assert law_of(Named(seed().parameters())) is LAWS[torch.optim.Adam]


def test_an_optimizer_that_a_framework_has_wrapped():
    class Wrapped(Optimizer):
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, optimizer, 0, 2)
    widened(model, "0", 2, Wrapped(optimizer))
    Newborns.follow(Wrapped(optimizer))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert births_in(optimizer) == 3


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


# averages


def averaged_along(model: nn.Module, averaged: AveragedModel, example: Tensor) -> Edit:
    found = axes(model, example)
    edit = widen(model, found, [Widening(find_axis(found, "convnet.blocks.1.conv"), 2)])
    carry_average_(averaged, edit, {})
    return edit


def test_averages_grow_along():
    case = CASES["convnet"]
    model = case.model()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.update_parameters(model)
    old = {name: tensor.clone() for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    edit = averaged_along(model, averaged, case.example)
    now, live = averaged.module.state_dict(), model.state_dict()
    for name, (where, _) in old_entries(edit).items():
        assert torch.equal(now[name][where], old[name])
        new = torch.ones(now[name].shape, dtype=torch.bool)
        new[where] = False
        assert torch.equal(now[name][new], live[name][new])
    averaged.update_parameters(model)
    averaged(case.example)
    kept = {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    averaged_along(model, averaged, case.example).undo()
    assert kept == {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}


def test_averages_follow_removal():
    model = seed()
    averaged = AveragedModel(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.update_parameters(model)
    old = copy.deepcopy(averaged.module.state_dict())
    optimizer = torch.optim.SGD(model.parameters())
    edit = narrowed(model, [1], optimizer)
    carry_average_(averaged, edit, {})
    rest = [0, 2, 3]
    assert torch.equal(averaged.module[0].weight, old["0.weight"][rest])
    assert torch.equal(averaged.module[2].weight, old["2.weight"][:, rest])
    averaged.update_parameters(model)
    assert averaged(X).shape == (4, 2)
    edit.undo()
    assert all(torch.equal(averaged.module.state_dict()[name], tensor) for name, tensor in old.items())


def test_averages_follow_insertion():
    model = seed()
    averaged = AveragedModel(model, device="cpu")
    averaged.eval()
    layers = list(averaged.module)
    insertion = layer()
    edit = Edit("inserting", insertions=(insertion,), _undo=[insert_(model, insertion)])
    carry_average_(averaged, edit, {})
    assert not {id(p) for p in averaged.parameters()} & {id(p) for p in model.parameters()}
    assert torch.equal(averaged.module[3].weight, model[3].weight)
    assert not averaged.module[3].training
    with torch.no_grad():
        model[3].weight.add_(1.0)
    assert not torch.equal(averaged.module[3].weight, model[3].weight)
    averaged.update_parameters(model)
    averaged(X)
    edit.undo()
    assert list(averaged.module) == layers


@dataclass
class Config:
    heads: int


def test_averages_follow_settings():
    model = seed()
    model.config = Config(2)
    averaged = AveragedModel(model)
    edit = Edit("more heads", settings=(Setting("", "config.heads", 3),))
    carry_average_(averaged, edit, {})
    assert (model.config.heads, averaged.module.config.heads) == (2, 3)
    edit.undo()
    assert averaged.module.config.heads == 2


OTHER_MODELS = {
    "other names": (nn.ReLU(), "got none of this name"),
    "other shapes": (nn.Sequential(nn.Linear(3, 7)), r"got \[7, 3\]"),
}


@pytest.mark.parametrize(("other", "message"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_an_average_of_another_model_is_refused(other: nn.Module, message: str):
    model = seed()
    found = axes(model, X)
    edit = widen(model, found, [Widening(find_axis(found, "0"), 2)])
    shapes = [p.shape for p in other.parameters()]
    with pytest.raises(GrowthError, match=rf"expected an average of this model with 0\.weight \[4, 3\], {message}"):
        carry_average_(AveragedModel(other), edit, {})
    assert [p.shape for p in other.parameters()] == shapes


# a saved network into a fresh seed


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet", "inverted", "tied language"])
def test_a_saved_network_fits_its_seed(name):
    case = CASES[name]
    model = case.model()
    for axis in case.growable:
        found = axes(model, case.example)
        widen(model, found, [Widening(find_axis(found, axis), 3)])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fresh = case.build()
    adopt_shapes_(fresh, state)
    assert torch.equal(fresh.eval()(case.example), model.eval()(case.example))
    assert repr(fresh) == repr(model)
    with torch.no_grad():
        next(fresh.parameters()).add_(1.0)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())  # it is a copy


def test_a_saved_network_of_another_seed():
    with pytest.raises(KeyError, match="in the seed or in the file only: 6"):
        adopt_shapes_(seed(), nn.Sequential(*seed(), nn.Tanh(), nn.Linear(2, 2)).state_dict())
    assert seed()[0].out_features == 4


def test_buffers_that_are_not_saved_stay():
    class Counts(nn.Linear):
        def __init__(self, inputs: int):
            super().__init__(inputs, 2)
            self.register_buffer("seen", torch.ones(2), persistent=False)

    fresh = Counts(3)
    adopt_shapes_(fresh, Counts(5).state_dict())
    assert fresh.in_features == 5
    assert fresh.seen.tolist() == [1, 1]
