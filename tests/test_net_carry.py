"""Optimizers and averages go on after an edit as if old entries had always been alone and new ones had their own."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from net_cases import CASES, noise
from outgrow.errors import InputError
from outgrow.net.carry import Newborns, adopt_shapes_
from outgrow.net.edit import Edit
from outgrow.net.widen import widen_

X = noise(4, 3).double()


def seed() -> nn.Sequential:
    """An MLP in double precision, so that what is compared is the arithmetic and not its rounding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def gradient(shape: Sequence[int], at: int) -> Tensor:
    """What the gradient is at a step, whatever the weights are: a function of place and time."""
    where = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")) + 1.0
    weights = torch.tensor([1.3, 2.9])[: len(shape)].view(-1, *[1] * len(shape))
    return (torch.sin((where * weights).sum(0) + 0.7 * at) + 0.3).double()


def steps(model: nn.Module, optimizer: Optimizer, start: int, stop: int) -> None:
    for at in range(start, stop):
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = gradient(parameter.shape, at)
        optimizer.step()


Make = Callable[[object], Optimizer]

ADAMS: dict[str, Make] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12),
    "Adam, other betas": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-12),
    "Adam, foreach": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, foreach=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, fused=True),
    "Adam, one by one": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, foreach=False),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, amsgrad=True),
    "Adam, maximize": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, maximize=True),
    "Adam, L2": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-12, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-12, weight_decay=0.1),
    "AdamW, no decay": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-12, weight_decay=0.0),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-12, fused=True),
    "AdamW, tensor rate": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01).double(), eps=1e-12, foreach=False),
}

OTHERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, lr_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
    "Rprop": lambda p: torch.optim.Rprop(p),
}

every_adam = pytest.mark.parametrize("make", ADAMS.values(), ids=ADAMS)
every_optimizer = pytest.mark.parametrize("make", (ADAMS | OTHERS).values(), ids=[*ADAMS, *OTHERS])


def old_entries(edit: Edit) -> dict[str, tuple[Tensor, ...]]:
    return {c.name: torch.meshgrid(*c.keep, indexing="ij") for c in edit.changes}


@every_optimizer
def test_old_entries_never_notice(make: Make):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(alone.parameters())
    steps(model, optimizer, 0, 5)
    steps(alone, other, 0, 5)
    edit = widen_(model, "0", 2, example=X, optimizer=optimizer)
    old = old_entries(edit)
    for name, parameter in alone.named_parameters():
        grown = model.get_parameter(name)
        for key, value in other.state[parameter].items():
            if isinstance(value, Tensor):
                carried = optimizer.state[grown][key]
                carried = carried[old[name]] if value.ndim and name in old else carried
                assert torch.equal(carried, value), (name, key)
    steps(model, optimizer, 5, 12)
    steps(alone, other, 5, 12)
    for name, parameter in alone.named_parameters():
        grown = model.get_parameter(name)
        assert torch.equal(grown[old[name]] if name in old else grown, parameter), name


@every_optimizer
def test_new_entries_start_without_moments(make: Make):
    model = seed()
    optimizer = make(model.parameters())
    steps(model, optimizer, 0, 3)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    for value in optimizer.state[model[0].weight].values():
        if isinstance(value, Tensor) and value.ndim:
            assert value.shape == (6, 3)
            assert not value[4:].any()


@every_adam
def test_newborns_are_as_under_an_adam_of_their_own(make: Make):
    """Three births in one parameter, along both dimensions: each entry moves as under an Adam from its own birth."""
    model = seed()
    optimizer = make(model.parameters())
    births = {0: None, 5: ("0", 2), 9: ("2", 1), 14: ("0", 3)}
    references: list[tuple[nn.Parameter, Optimizer, Tensor]] = []
    seen = torch.zeros(0, 0, dtype=torch.bool)
    for start, stop in [(0, 5), (5, 9), (9, 14), (14, 40)]:
        if births[start]:
            axis, units = births[start]
            widen_(model, axis, units, example=X, optimizer=optimizer)
        weight = model[2].weight
        new = torch.ones(weight.shape, dtype=torch.bool)
        new[: seen.shape[0], : seen.shape[1]] = False
        seen = new
        newborn = nn.Parameter(weight.detach()[new])
        references.append((newborn, make([newborn]), new.nonzero().T))
        for at in range(start, stop):
            for reference, own, (rows, columns) in references:
                reference.grad = gradient(weight.shape, at)[rows, columns]
                own.step()
            steps(model, optimizer, at, at + 1)
        for reference, _, (rows, columns) in references:
            torch.testing.assert_close(weight[rows, columns].detach(), reference.detach(), rtol=1e-9, atol=1e-11)
    rows, columns = references[0][2]
    assert torch.equal(model[2].weight[rows, columns], references[0][0])  # the first ones bit for bit


def test_the_first_step_of_a_newborn_is_one_learning_rate():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, 0, 500)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    before = model[0].weight[4:].detach().clone()
    steps(model, optimizer, 500, 501)
    assert ((model[0].weight[4:] - before).abs() - 0.01).abs().max() < 1e-6


def test_newborns_grow_up():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.9))
    steps(model, optimizer, 0, 3)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    assert len(Newborns.of(optimizer).births) == 3
    steps(model, optimizer, 3, 75)
    assert not Newborns.of(optimizer).births


def test_before_the_first_step_there_is_nothing_to_correct():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    assert not Newborns.of(optimizer).births
    twin = copy.deepcopy(model)
    own = torch.optim.Adam(twin.parameters())
    steps(model, optimizer, 0, 3)
    steps(twin, own, 0, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@every_optimizer
def test_undo_goes_on_as_if_nothing_had_been(make: Make):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(alone.parameters())
    steps(model, optimizer, 0, 4)
    steps(alone, other, 0, 4)
    first = widen_(model, "0", 2, example=X, optimizer=optimizer)
    second = widen_(model, "2", 2, example=X, optimizer=optimizer)
    second.undo()
    first.undo()
    steps(model, optimizer, 4, 9)
    steps(alone, other, 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_a_parameter_that_rests_is_left_alone():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, 0, 3)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    before = model[0].weight.detach().clone()
    optimizer.zero_grad()
    model[2].weight.grad = gradient(model[2].weight.shape, 3)
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_groups_keep_their_options_and_parameters():
    model = seed()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[0].weight, model[2].weight], "lr": 0.1},
            {"params": [model[0].bias], "weight_decay": 0.0},
            {"params": [*model[4].parameters(), model[2].bias]},
        ],
        lr=0.01,
    )
    steps(model, optimizer, 0, 2)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    assert options == [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in group]
        for group in ([model[0].weight, model[2].weight], [model[0].bias], [*model[4].parameters(), model[2].bias])
    ]
    assert set(map(id, optimizer.state)) == set(map(id, model.parameters()))


def test_a_scheduler_goes_on():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    steps(model, optimizer, 0, 2)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    steps(model, optimizer, 2, 3)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_state_dict_fits_a_new_optimizer():
    model = seed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    steps(model, optimizer, 0, 2)
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, 2, 5)
    steps(twin, other, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_parameters_that_the_optimizer_does_not_have():
    model = seed()
    optimizer = torch.optim.Adam(model[4].parameters())
    widen_(model, "0", 2, example=X, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[4].parameters()]


def test_state_of_another_shape_is_refused():
    model = seed().float()
    optimizer = torch.optim.Adafactor(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = [id(p) for p in model.parameters()]
    held = {id(p) for p in optimizer.state}
    with pytest.raises(InputError, match="Adafactor keeps 'row_var' in shape"):
        widen_(model, "0", 2, example=X.float(), optimizer=optimizer)
    assert [id(p) for p in model.parameters()] == before == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert {id(p) for p in optimizer.state} == held
    assert model[0].out_features == 4


def test_averages_grow_along():
    case = CASES["convnet"]
    model = case.model()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    averaged.update_parameters(model)
    old = {name: tensor.clone() for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    edit = widen_(model, "convnet.blocks.1.conv", 2, example=case.example, averages=[averaged])
    now, live = averaged.module.state_dict(), model.state_dict()
    for name, where in old_entries(edit).items():
        assert torch.equal(now[name][where], old[name])
        new = torch.ones(now[name].shape, dtype=torch.bool)
        new[where] = False
        assert torch.equal(now[name][new], live[name][new])
    averaged.update_parameters(model)
    averaged(case.example)
    kept = {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}
    again = widen_(model, "convnet.blocks.1.conv", 2, example=case.example, averages=[averaged])
    again.undo()
    assert kept == {name: id(tensor) for name, tensor in averaged.module.state_dict(keep_vars=True).items()}


def test_an_average_of_another_model_is_refused_and_nothing_has_changed():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    before = [id(p) for p in model.parameters()]
    with pytest.raises(KeyError):
        widen_(model, "0", 2, example=X, optimizer=optimizer, averages=[AveragedModel(nn.Linear(2, 2))])
    assert [id(p) for p in model.parameters()] == before == [id(p) for p in optimizer.param_groups[0]["params"]]


# a saved network into a fresh seed


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet", "inverted", "tied language"])
def test_a_saved_network_fits_its_seed(name):
    case = CASES[name]
    model = case.model()
    for axis in case.growable:
        widen_(model, axis, 3, example=case.example)
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
