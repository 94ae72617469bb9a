"""New entries go on as under an optimizer of their own that is as old as they are."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from optimizer_cases import (
    AGEING,
    AGELESS,
    CLOSE,
    SCHEDULED,
    Make,
    X,
    births_in,
    carried,
    every_ageing,
    every_entrywise,
    gradient,
    inserted,
    layer,
    narrowed,
    old_entries,
    seed,
    steps,
    widened,
)
from outgrow.net import newborns
from outgrow.net.axes import axes, find_axis
from outgrow.net.edit import Change, Edit
from outgrow.net.enlargement import widen
from outgrow.net.laws import LAWS
from outgrow.net.newborns import BIRTHS, FIRST_RATE, Newborns
from outgrow.net.surgery import replace_
from outgrow.net.widening import Widening


@every_entrywise
def test_new_entries_are_as_under_an_optimizer_of_their_own(make: Make):
    """Three births in one parameter, along both dimensions: each entry moves as under an optimizer from its birth."""
    model = seed()
    optimizer = make(model.parameters())
    births = {0: None, 5: ("0", 2), 9: ("2", 1), 14: ("0", 3)}
    references: list[tuple[nn.Parameter, Optimizer, Tensor]] = []
    seen = torch.zeros(0, 0, dtype=torch.bool)
    for start, stop in [(0, 5), (5, 9), (9, 14), (14, 40)]:
        if births[start]:
            widened(model, *births[start], optimizer)
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
            rounds = isinstance(optimizer, torch.optim.NAdam)  # its product of momenta, to float32
            close = {"rtol": 1e-7, "atol": 1e-9} if rounds else CLOSE
            torch.testing.assert_close(weight[rows, columns].detach(), reference.detach(), **close)
    rows, columns = references[0][2]
    assert torch.equal(model[2].weight[rows, columns], references[0][0])  # the first ones bit for bit


STARTS = {
    "Adam, amsgrad": {"exp_avg": 0, "exp_avg_sq": 0, "max_exp_avg_sq": 0},
    "NAdam": {"exp_avg": 0, "exp_avg_sq": 0},
    "Adamax": {"exp_avg": 0, "exp_inf": 0},
    "SGD, momentum": {"momentum_buffer": 0},
    "RMSprop, momentum, centered": {"square_avg": 0, "momentum_buffer": 0, "grad_avg": 0},
    "Adagrad, initial value": {"sum": 0.5},
    "Adadelta": {"square_avg": 0, "acc_delta": 0},
    "Rprop": {"prev": 0, "step_size": 0.02},
}


@pytest.mark.parametrize("name", STARTS)
def test_new_entries_start_as_those_of_a_fresh_parameter(name: str):
    model = seed()
    optimizer = (AGEING | AGELESS)[name](model.parameters())
    steps(model, optimizer, 0, 3)
    widened(model, "0", 2, optimizer)
    state = optimizer.state[model[0].weight]
    assert {key for key, value in state.items() if isinstance(value, Tensor) and value.ndim} == set(STARTS[name])
    for key, start in STARTS[name].items():
        assert (state[key][4:] == start).all()


@pytest.mark.parametrize("name", ["ASGD", "ASGD, averaging"])
def test_averages_of_new_entries_start_at_the_weights(name: str):
    model = seed()
    optimizer = SCHEDULED[name](model.parameters())
    steps(model, optimizer, 0, 5)
    widened(model, "0", 2, optimizer)
    assert torch.equal(optimizer.state[model[0].weight]["ax"][4:], model[0].weight[4:])


@pytest.mark.filterwarnings("ignore:.*Muon does not train 0.bias")
def test_momenta_of_matrices_go_on():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    model = seed()
    optimizer = torch.optim.Muon([p for p in model.parameters() if p.ndim == 2])
    steps(model, optimizer, 0, 3)
    before = optimizer.state[model[2].weight]["momentum_buffer"].clone()
    widened(model, "0", 2, optimizer)
    after = optimizer.state[model[2].weight]["momentum_buffer"]
    assert torch.equal(after[:, :4], before)
    assert not after[:, 4:].any()
    inserted(model, layer(), optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters() if p.ndim == 2]
    steps(model, optimizer, 3, 5)
    assert model[2].weight[:, 4:].all()


@pytest.mark.filterwarnings("ignore:.*SparseAdam does not train 2.weight")
@torch.sparse.check_sparse_tensor_invariants(True)
def test_sparse_gradients():
    """Columns come into an embedding: each moves as in an embedding of its own from its birth."""
    torch.manual_seed(0)
    table = nn.Embedding(5, 3, sparse=True).double()
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(6, 2).double())
    optimizer = torch.optim.SparseAdam([table.weight], lr=0.01)

    def step(parameter: nn.Parameter, own: Optimizer, at: int, columns: slice) -> None:
        rows = torch.tensor([at % 5, (2 * at + 1) % 5]).unique()
        values = gradient((5, 6), at)[rows][:, columns]
        parameter.grad = torch.sparse_coo_tensor(rows[None], values, parameter.shape).coalesce()
        own.step()

    for at in range(4):
        step(table.weight, optimizer, at, slice(0, 3))
    found = axes(model, torch.zeros(2, 2, dtype=torch.long))
    widening = Widening(find_axis(found, "0"), 2)
    carried(model, lambda: widen(model, found, [widening]), optimizer)
    alone = nn.Parameter(table.weight.detach()[:, 3:].clone())
    own = torch.optim.SparseAdam([alone], lr=0.01, eps=1e-12)
    optimizer.param_groups[0]["eps"] = 1e-12  # which SparseAdam does not correct for age
    for at in range(4, 30):
        step(table.weight, optimizer, at, slice(0, 5))
        step(alone, own, at, slice(3, 5))
    torch.testing.assert_close(table.weight[:, 3:], alone, **CLOSE)


def test_sparse_entries_in_half_precision_keep_their_dtype():
    table = nn.Parameter(torch.ones(4, 3, dtype=torch.bfloat16))
    optimizer = torch.optim.SparseAdam([table], lr=0.1)
    with torch.sparse.check_sparse_tensor_invariants(True):
        for _ in range(4):
            table.grad = torch.sparse_coo_tensor([[0, 1]], torch.ones(2, 3).bfloat16(), (4, 3)).coalesce()
            optimizer.step()
            optimizer.state[table].setdefault(BIRTHS, ((), (0, 0, 1)))
            Newborns.follow(optimizer)
    assert table.dtype == torch.bfloat16
    assert table.isfinite().all()


@pytest.mark.parametrize("make", [AGEING["Adam, amsgrad"], AGEING["NAdam, L2, maximize"]])
def test_complex_parameters(make: Make):
    model = nn.ParameterDict({"weight": torch.randn(2, 3, dtype=torch.complex128)})
    optimizer = make(model.parameters())

    def step(parameter: nn.Parameter, own: Optimizer, at: int, rows: slice) -> None:
        parameter.grad = torch.complex(gradient((4, 3), at), gradient((4, 3), 2 * at))[rows]
        own.step()

    def taller() -> Edit:
        old = model["weight"]
        put_back = replace_(model, {"weight": torch.cat([old.detach(), torch.ones_like(old.detach())])})
        change = Change("weight", old, model["weight"], (torch.arange(2), torch.arange(3)))
        return Edit("two more rows", (change,), _undo=[put_back])

    for at in range(3):
        step(model["weight"], optimizer, at, slice(0, 2))
    carried(model, taller, optimizer)
    alone = nn.Parameter(model["weight"].detach()[2:].clone())
    own = make([alone])
    for at in range(3, 20):
        step(model["weight"], optimizer, at, slice(0, 4))
        step(alone, own, at, slice(2, 4))
    torch.testing.assert_close(model["weight"][2:], alone, rtol=1e-7, atol=1e-9)


# ages


def test_every_optimizer_of_torch_that_corrects_a_bias_has_a_law():
    kinds = [kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, Optimizer)]
    with_betas = {kind for kind in kinds if "betas" in kind.__init__.__annotations__}
    assert with_betas == set(LAWS)


def test_the_first_step_of_a_newborn_is_one_learning_rate():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, 0, 500)
    widened(model, "0", 2, optimizer)
    before = model[0].weight[4:].detach().clone()
    steps(model, optimizer, 500, 501)
    assert ((model[0].weight[4:] - before).abs() - 0.01).abs().max() < 1e-6


def test_newborns_grow_up():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.9))
    steps(model, optimizer, 0, 3)
    widened(model, "0", 2, optimizer)
    assert births_in(optimizer) == 3
    steps(model, optimizer, 3, 95)
    assert births_in(optimizer) == 0


@every_ageing
def test_new_entries_may_start_at_a_lower_rate_that_rises_to_the_groups_own(make: Make, monkeypatch):
    """They take the share of their steps; the gradients of `steps` do not depend on where they are."""
    monkeypatch.setattr(newborns, "YOUTH", 20)
    models, optimizers = [seed(), seed()], []
    for model in models:
        optimizers.append(make(model.parameters()))
        optimizers[-1].param_groups[0]["weight_decay"] = 0.0
        steps(model, optimizers[-1], 0, 5)
        widened(model, "0", 2, optimizers[-1])
    slow, usual = models
    rate = optimizers[0].param_groups[0]["lr"]
    optimizers[0].param_groups[0][FIRST_RATE] = 0.3 * rate
    for age in range(1, 40):
        before = [(model[0].bias.detach().clone()) for model in models]
        for model, optimizer in zip(models, optimizers, strict=True):
            steps(model, optimizer, 4 + age, 5 + age)
        moved, whole = (model[0].bias.detach() - old for model, old in zip(models, before, strict=True))
        share = min(max(0.3, age / 20), 1.0)
        torch.testing.assert_close(moved[4:], share * whole[4:], rtol=1e-6, atol=1e-9)
    assert torch.equal(slow[0].bias[:4], usual[0].bias[:4])


def test_a_rate_to_start_with_that_is_not_lower_changes_nothing():
    ends = []
    for first in ({}, {FIRST_RATE: 0.01}):
        model = seed()
        optimizer = torch.optim.AdamW([{"params": [*model.parameters()], **first}], lr=0.01)
        steps(model, optimizer, 0, 5)
        widened(model, "0", 2, optimizer)
        steps(model, optimizer, 5, 30)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*ends)


def test_newborns_that_start_at_a_lower_rate_are_young_until_they_have_the_groups_own(monkeypatch):
    monkeypatch.setattr(newborns, "YOUTH", 100)
    model = seed()
    optimizer = torch.optim.Adam([{"params": [*model.parameters()], FIRST_RATE: 1e-3}], lr=0.01, betas=(0.9, 0.9))
    steps(model, optimizer, 0, 3)
    widened(model, "0", 2, optimizer)
    steps(model, optimizer, 3, 102)
    assert births_in(optimizer) == 3
    steps(model, optimizer, 102, 103)
    assert births_in(optimizer) == 0


def test_newborns_that_are_removed_are_forgotten():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, optimizer, 0, 3)
    widened(model, "0", 2, optimizer)
    steps(model, optimizer, 3, 5)
    narrowed(model, [1, 4], optimizer)
    assert optimizer.state[model[2].weight][BIRTHS] == ((), (0, 0, 0, 3))
    narrowed(model, [3], optimizer)
    assert births_in(optimizer) == 0


def test_before_the_first_step_there_is_nothing_to_correct():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    widened(model, "0", 2, optimizer)
    assert not optimizer.state
    twin = copy.deepcopy(model)
    own = torch.optim.Adam(twin.parameters())
    steps(model, optimizer, 0, 3)
    steps(twin, own, 0, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_parameter_that_rests_is_left_alone():
    model = seed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, 0, 3)
    widened(model, "0", 2, optimizer)
    before = model[0].weight.detach().clone()
    optimizer.zero_grad()
    model[2].weight.grad = gradient(model[2].weight.shape, 3)
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def saved_and_loaded(optimizer: Optimizer) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every_ageing
def test_a_saved_state_goes_on_in_a_new_optimizer(make: Make, dtype: torch.dtype):
    """Dates of birth are in the state dict, and exact in every dtype."""
    model = seed().to(dtype)
    optimizer = make(model.parameters())
    steps(model, optimizer, 0, 300 if dtype == torch.bfloat16 else 3)  # bfloat16 has no 300
    widened(model, "0", 2, optimizer)
    steps(model, optimizer, 3, 5)
    twin = copy.deepcopy(model)
    other = make(twin.parameters())
    other.load_state_dict(saved_and_loaded(optimizer))
    Newborns.follow(other)
    Newborns.follow(other)
    steps(model, optimizer, 5, 9)
    steps(twin, other, 5, 9)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):  # loading casts NAdam's product of momenta
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert births_in(other) == births_in(optimizer) == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_moves_nothing(fused: bool):
    model = seed().float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(spoiled: bool) -> None:
        optimizer.zero_grad()
        scaler.scale(model(X.float()).square().sum()).backward()
        if spoiled:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()

    step(False)
    widened(model, "0", 2, optimizer)
    for spoiled in (True, False, True):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        step(spoiled)
        assert all(torch.equal(a, b) == spoiled for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


SCHEDULES = {
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    "cosine after warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, 40)], [5]
    ),
}


@pytest.mark.parametrize("name", ["Adam", "AdamW, fused", "Adamax", "RAdam", "SGD, momentum"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_go_on(name: str, schedule):
    """Old entries as without the edit, new ones as under an optimizer of their own with the same schedule."""
    make = (AGEING | AGELESS)[name]
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(alone.parameters())
    schedules = [schedule(optimizer), schedule(other)]
    own, newborn = None, None
    for at in range(30):
        if at == 4:
            old = old_entries(widened(model, "0", 2, optimizer))
            newborn = nn.Parameter(model[0].weight.detach()[4:])
            own = make([newborn])
        steps(model, optimizer, at, at + 1)
        steps(alone, other, at, at + 1)
        if own is not None:
            own.param_groups[0].update({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
            newborn.grad = gradient((6, 3), at)[4:]
            own.step()
        for each in schedules:
            each.step()
        if own is not None:
            torch.testing.assert_close(model[0].weight[4:], newborn, **CLOSE)
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    assert torch.equal(model[0].weight[old["0.weight"][0]], alone[0].weight)
