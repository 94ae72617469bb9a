"""What a check costs, against what is counted when it runs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from outgrow.grow.effort import (
    A_PASSES,
    B_PASSES,
    DROPS,
    TRIED,
    Load,
    Passes,
    Workload,
    loads_of,
    on_trial,
    passes_of,
)
from outgrow.grow.moments import ROWS_PER_FEATURE, take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.patches import has_rows
from outgrow.grow.policy import Plan
from outgrow.grow.proposals import NAMES, PASSES
from outgrow.grow.sample import Batch
from outgrow.models.seed import Seed
from outgrow.net.cost import flops

CE = OutputLoss(F.cross_entropy)


class Tokens(nn.Module):
    """Attention over 12 tokens, with a layer that is called twice and one that reads all tokens in a row."""

    def __init__(self):
        super().__init__()
        self.up, self.twice, self.flat, self.head = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        x = self.twice(self.twice(self.up(x)).tanh()).tanh()
        return self.head(self.flat(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1))


def layers_of(model):
    return [path for path, module in model.named_modules() if has_rows(module)]


def networks():
    torch.manual_seed(0)
    return [
        (Seed("convnet", (1, 8, 8), 10, (4, 6)).build(), (1, 8, 8)),
        (Seed("resnet", (3, 16, 16), 10, (8, 16)).build(), (3, 16, 16)),
        (Seed("mlp", (20,), 10, (16, 24)).build(), (20,)),
        (Tokens(), (12, 8)),
    ]


@pytest.mark.parametrize(("model", "shape"), networks(), ids=["convnet", "resnet", "mlp", "tokens"])
def test_the_factors_take_the_flops_that_were_predicted(model, shape):
    layers, n = layers_of(model.eval()), 24
    loads = loads_of(model, layers, torch.zeros(1, *shape))
    batch = Batch(torch.randn(n, *shape), torch.zeros(n, dtype=torch.long), n)
    found = take_moments(model, layers, [batch], CE, torch.Generator())
    assert set(loads) == set(found)
    for path, load in loads.items():
        assert found[path].flops == pytest.approx(load.flops(n, load.positions(n)), rel=0.01)
        assert (load.features, load.outputs) == (found[path].A.shape[-1], found[path].S.shape[-1])


@pytest.mark.parametrize(("model", "shape"), networks(), ids=["convnet", "resnet", "mlp", "tokens"])
def test_moments_take_the_passes_that_were_predicted(model, shape):
    layers, n = layers_of(model.eval()), 32
    loads = loads_of(model, layers, torch.zeros(1, *shape))
    batch = Batch(torch.randn(n, *shape), torch.zeros(n, dtype=torch.long), n)
    with FlopCounterMode(display=False) as counter:
        take_moments(model, layers, [batch], CE, torch.Generator())
    products = sum(load.flops(n, load.positions(n)) - load.flops(0, 1) for load in loads.values())
    passes = (counter.get_total_flops() - products) / n / flops(model, torch.zeros(1, *shape))
    assert (
        A_PASSES - 1.9 <= passes <= A_PASSES - 1 + 0.1
    )  # without that of statistics; the first layer's inputs need none


@pytest.mark.parametrize("size", [1, 3])
def test_loads_count_positions_of_one_example_in_every_call(size):
    model = Tokens()
    loads = loads_of(model, ["up", "twice", "flat", "head"], torch.zeros(size, 12, 8))
    assert {path: load.calls for path, load in loads.items()} == {
        "up": (12,),
        "twice": (12, 12),
        "flat": (12,),
        "head": (1,),
    }
    grouped = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.ReLU())
    assert loads_of(grouped, ["0", "1"], torch.zeros(size, 4, 5, 5)) == {"0": Load(18, 3, 2, (9,))}


def test_looking_leaves_the_model_alone():
    model = Seed("convnet", (1, 8, 8), 10, (4, 6)).build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loads_of(model, layers_of(model), torch.randn(2, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())


WORK = Workload(
    {"conv": Load(145, 16, 1, (64,)), "deep": Load(577, 64, 1, (16, 16)), "head": Load(65, 10, 1, (1,))},
    forward=2_000_000,
    passes=Passes(2e7, 4e7, 30.0),
    wider=1.5,
    start=6e6,
)


@pytest.mark.parametrize("budget", [1e8, 1e9, 1e10, 1e11, 1e12])
def test_a_check_keeps_within_its_budget_and_uses_it(budget):
    found = WORK.affordable(budget, least=0)
    assert found == WORK.effort(found.examples)
    assert found.flops <= budget or found.examples == 0
    assert WORK.effort(found.examples + 1).flops > budget * 0.95


def test_more_of_anything_costs_more():
    base = WORK.effort(256)
    more = [
        WORK.effort(512),
        WORK.effort(256, 2 * ROWS_PER_FEATURE),
        replace(WORK, passes=Passes(3e7, 4e7, 30.0)).effort(256),
        replace(WORK, passes=Passes(2e7, 5e7, 30.0)).effort(256),
        replace(WORK, wider=1.6).effort(256),
        replace(WORK, parts=2).effort(256),
    ]
    assert all(effort.flops > base.flops for effort in more)
    assert WORK.effort(5_000).start > base.start > replace(WORK, start=5e6).effort(256).start > 0
    assert replace(WORK, start=0.0).effort(256).flops == base.flops  # what starting costs is no operation
    assert replace(WORK, loads={}).effort(256).flops == 256 * 6e7
    assert replace(WORK, loads={}, parts=2).effort(256).flops == 256 * 8e7


@pytest.mark.parametrize("rows", [1, 20])
def test_a_damping_is_chosen_with_factors_of_its_own(rows):
    load = Load(40, 30, 2, (rows,))
    more = load.flops(10, rows, 1.5, TRIED) - load.flops(10, rows, 1.5)
    assert more == pytest.approx((TRIED - 1) * load.flops(0, rows, 1.5))


@pytest.mark.parametrize("proposal", NAMES)
def test_what_a_plan_asks_for_is_counted(proposal):
    units, blocks = {"0": 2, "2": 3}, ("1", "3")

    def found(units=units, **options):
        return passes_of(Plan(units, "", **options), proposal, 100, 150, 180)

    judged, scored = found(), found(evidence="score")
    assert (judged.a, scored.b) == (scored.a, 0.0)
    assert judged.a == A_PASSES * 150 + PASSES[proposal] * 100
    assert judged.b == pytest.approx((B_PASSES + 3 * DROPS) * 150)
    assert found(evidence="none").a == (PASSES[proposal] + 1) * 100 * bool(PASSES[proposal])
    assert found(diagonal=True).a > judged.a
    both, alone = found(blocks=blocks), found({}, blocks=blocks)
    assert (both.a, both.b) == (judged.a + alone.a, judged.b + alone.b)
    assert found({}, blocks=blocks[:1]).a < alone.a
    assert found({}, removals={"0": 1}).b < found({}, removals={"0": 1, "2": 1}).b
    assert found({}) == Passes()
    assert all(trial >= count for trial, count in zip(on_trial(units, proposal).values(), units.values(), strict=True))
    assert on_trial(units, "mixed") == {"0": 4, "2": 6}


@pytest.mark.parametrize("examples", [1, 32, 128, 1024, 50_000])
def test_a_layer_has_rows_for_its_features_as_long_as_it_has_positions(examples):
    for path, positions in WORK.effort(examples).positions.items():
        load = WORK.loads[path]
        assert 1 <= positions <= max(load.calls)
        wanted = ROWS_PER_FEATURE * max(load.features, load.outputs)
        assert examples * positions >= min(wanted, examples * max(load.calls))
        assert positions == 1 or examples * (positions - 1) < wanted


def test_where_the_budget_is_short_positions_go_before_examples():
    rich = WORK.affordable(1e12, least=128)
    assert rich.examples >= 128
    assert rich.positions == WORK.effort(rich.examples).positions
    budget = WORK.effort(128).flops * 0.9
    short = WORK.affordable(budget, least=128)
    assert WORK.affordable(budget).examples < 128 <= short.examples
    assert short.flops <= budget
    assert short.positions["deep"] < WORK.effort(short.examples).positions["deep"]
    poor = WORK.affordable(1e9, least=128)
    assert 0 <= poor.examples < 128
    assert set(poor.positions.values()) == {1}


def test_no_more_examples_than_there_are():
    assert WORK.affordable(1e15, most=1000).examples == 1000
    assert WORK.affordable(0).examples == 0
