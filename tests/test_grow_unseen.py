"""What comes in without evidence: it keeps the function, costs what it says, and nothing else is known of it."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.check import add_unseen
from outgrow.grow.policy import Plan
from outgrow.grow.proposals import PROPOSALS
from outgrow.net.cost import flops, parameters
from outgrow.net.deepen import insert_block_
from outgrow.train.grower import Grower
from test_grow_panel import NETS, WITH_PLACES, setup_of
from test_grow_policy import JUDGED, SCORED, Plans, answers, grower_of, wider

CASES = [
    *(("mlp", init) for init in PROPOSALS if init != "mixed"),
    *((name, init) for name in NETS if name != "mlp" for init in ("random", "closed", "twins")),
]


@pytest.mark.parametrize(("name", "init"), CASES)
def test_unseen_units_keep_the_function_and_nothing_is_known_of_them(name, init):
    grower, x, y = grower_of(name, lambda now: wider(now, init=init, evidence="none"))
    sizes, before = grower.sizes, answers(grower.model, x)
    event = grower.check([(x, y)])
    torch.testing.assert_close(answers(grower.model, x), before, rtol=1e-9, atol=1e-9)
    assert grower.sizes == {axis: size + 2 for axis, size in sizes.items()}
    assert event.event == len(grower.history) == 1
    assert (event.examples, event.reason) == (0, "wider")
    record = json.loads(json.dumps(event.to_json(), allow_nan=False))
    assert record["gain_now"] is None
    assert len(record["candidates"]) == len(record["growths"]) == len(sizes)
    assert all(candidate[key] is None for candidate in record["candidates"] for key in (*JUDGED, *SCORED, "diagonal"))
    assert all(growth[key] is None for growth in record["growths"] for key in ("gain", "se", "realised"))
    assert "nan" not in str(event)
    assert all(grown.where in line for grown, line in zip(event.growths, str(event).split("\n"), strict=True))


@pytest.mark.parametrize("init", ["random", "net2net", "twins"])
def test_units_that_need_no_examples_read_none(init):
    grower, _, _ = grower_of("mlp", lambda now: wider(now, init=init, evidence="none"))

    def untouched():
        raise AssertionError("the loader was read")
        yield

    event = grower.check(untouched())
    assert event.growths
    assert event.flops == 0


@pytest.mark.parametrize("name", WITH_PLACES)
def test_an_unseen_block_costs_what_inserting_it_adds(name):
    for place in setup_of(name).places:
        setup = setup_of(name)
        model, before = setup.model, (parameters(setup.model), flops(setup.model, setup.example))
        verdict = add_unseen(setup, Plan({}, "deeper", (place.name,), evidence="none"))
        ((block,), (candidate,)) = verdict.blocks, verdict.candidates
        kept = answers(model, setup.example)
        insert_block_(model, block.insertion, example=setup.example)
        torch.testing.assert_close(answers(model, setup.example), kept, rtol=1e-9, atol=1e-9)
        assert (candidate.kind, candidate.where, candidate.units) == ("insert", place.name, 1)
        assert parameters(model) - before[0] == candidate.params == block.params > 0
        assert flops(model, setup.example) - before[1] == candidate.flops * len(setup.example) > 0


@pytest.mark.parametrize("name", WITH_PLACES)
def test_unseen_blocks_keep_the_function_and_nothing_is_known_of_them(name):
    grower, x, y = grower_of(name, lambda now: Plan({}, "deeper", now.places(), evidence="none"))
    places, before = [place.name for place in grower.places], answers(grower.model, x)
    event = grower.check([(x, y)])
    torch.testing.assert_close(answers(grower.model, x), before, rtol=1e-9, atol=1e-9)
    assert {growth.where for growth in event.growths} == {*places}
    record = json.loads(json.dumps(event.to_json(), allow_nan=False))
    assert all(entry["gain"] is None for entry in (*record["candidates"], *record["growths"]))
    assert sum(growth.params for growth in event.growths) == event.params_after - event.params_before


def test_an_unseen_block_is_not_made_for_old_widths():
    grower, x, y = grower_of("mlp", lambda now: wider(now, blocks=now.places(), evidence="none"))
    with pytest.raises(InputError, match="units or blocks to add unseen, received both"):
        grower.check([(x, y)])


def test_a_pool_to_choose_from_needs_evidence():
    grower, x, y = grower_of("mlp", lambda now: wider(now, init="mixed", evidence="none"))
    with pytest.raises(InputError, match="'mixed' proposes a pool to choose from"):
        grower.check([(x, y)])


@pytest.mark.parametrize("name", NETS)
def test_what_can_not_be_tried_is_not_added_unseen(name):
    setup = setup_of(name)
    fixed = {axis.name: 1 for axis in setup.axes if not axis.growable}
    verdict = add_unseen(setup, Plan({**fixed, "no such axis": 1}, "odd", evidence="none"))
    assert (verdict.candidates, verdict.flops, bool(verdict)) == ((), 0, False)


@pytest.mark.parametrize("kind", ["batch norm", "none"])
def test_one_example_is_enough_to_verify_what_comes_unseen(kind):
    norm = nn.BatchNorm1d(3) if kind == "batch norm" else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 3), norm, nn.ReLU(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    policy = Plans(lambda now: wider(now, evidence="none"))
    grower = Grower(model, optimizer, F.cross_entropy, torch.randn(1, 4), policy=policy)
    (growth,) = grower.check([]).growths
    assert (growth.size_before, growth.size_after) == (3, 5)
    assert growth.moved < 1e-6
