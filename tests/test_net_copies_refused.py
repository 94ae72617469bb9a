"""Where units can't be copied or have twins: refused with the reason, found by verification, or fresh ones instead."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from copy_cases import Rms, axes_of_mlp, every_way, found_in, mlp, seeded
from net_cases import CASES, ROW, Chain, noise, tokens
from outgrow.errors import EditError, GrowthError, InputError
from outgrow.grow.objective import OutputLoss
from outgrow.grow.proposals import PASSES, UNJUDGED, propose_all
from outgrow.grow.sample import Batch
from outgrow.grow.trial import Trial
from outgrow.net.axes import axes, find_axis
from outgrow.net.inits import twins
from outgrow.net.inputs import Example
from outgrow.net.widen import apply_, widen_
from outgrow.net.widening import Copies, Widening

REFUSED = {
    "RMS norm": (Rms, ROW, "stem", "an RMS norm divides by the mean square of its channels"),
    "tied": (CASES["tied language"].build, tokens(), "embed", "a tied weight reads it that is used in another way"),
}


@pytest.mark.parametrize("init", ["net2net", "twins"])
@pytest.mark.parametrize(("build", "example", "name", "why"), REFUSED.values(), ids=REFUSED)
def test_an_axis_that_cannot_be_divided_is_refused(build, example, name, why, init):
    model = build()
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(GrowthError, match=rf"{name}: its new units can be neither copies nor twins: {why}.*use fresh"):
        widen_(model, name, 2, example=example, init=init)
    assert [p.shape for p in model.parameters()] == shapes
    widen_(model, name, 2, example=example)


def test_twins_that_a_weight_multiplies_with_each_other_are_refused():
    model, _, found = found_in("bilinear")
    with pytest.raises(GrowthError, match=r"first: its new units can't be twins: last.both.weight multiplies them"):
        twins(model, found[0], 2)
    assert propose_all("twins", model, {found[0]: 2}, [], OutputLoss(F.mse_loss), seeded())[0].unread


def test_unknown_ways_and_what_does_not_fit():
    model, found = mlp(), axes_of_mlp()
    with pytest.raises(
        GrowthError, match="unknown init 'split': expected one of fresh, copy, net2net, twins, or tensors"
    ):
        widen_(model, "0", 2, example=ROW.double(), init="split")
    with pytest.raises(GrowthError, match="0: expected a parent and a share for each of 3, got 2 parents and 2 shares"):
        Widening(found[0], 3, copies=Copies(torch.tensor([0, 1]), torch.tensor([0.5, 0.5])))
    with pytest.raises(GrowthError, match="0: expected copies or given weights, got both"):
        Widening(found[0], 1, {"0.weight": noise(1, 3)}, copies=Copies(torch.tensor([0]), torch.tensor([0.5])))


@every_way
def test_verification_finds_a_consumer_that_is_not_linear(way):
    """Channel by channel is what the axis promises; a network that mixes channels on the way keeps it for no copy."""
    right = Chain(nn.Linear(3, 4), F.relu, nn.Linear(4, 2))
    wrong = Chain(nn.Linear(3, 4), lambda h: h.relu() / (1 + h.square().sum(1, keepdim=True)), nn.Linear(4, 2))
    found = axes(right, ROW)
    before = {name: id(p) for name, p in wrong.named_parameters()}
    with pytest.raises(EditError, match=r"widening first by 2 .* an output moved by .*; undone"):
        apply_(wrong, found, [way(wrong, found[0], 2, seeded())], inputs=ROW)
    assert {name: id(p) for name, p in wrong.named_parameters()} == before


def test_verification_finds_columns_that_do_not_cancel():
    model = mlp()
    found = axes_of_mlp()
    one = Widening(find_axis(found, "0"), 1, columns={"2.weight": torch.ones(5, 1)})
    with pytest.raises(EditError, match="an output moved by"):
        apply_(model, found, [one], inputs=ROW.double())


@pytest.mark.parametrize("kind", UNJUDGED)
def test_proposals_are_for_policies_that_do_not_judge(kind):
    model, objective = CASES["mlp"].model(), OutputLoss(F.cross_entropy)
    inputs = CASES["mlp"].example
    found = [axis for axis in axes(model, inputs) if axis.growable]
    batches = [Batch(inputs, torch.tensor([0, 1, 2, 0]), 4)]
    widenings = propose_all(kind, model, dict.fromkeys(found, 3), batches, objective, seeded())
    assert [one.units for one in widenings] == [3, 3]
    assert PASSES[kind] == 0
    words = f"{found[0].name}: {kind} units can't be put on trial: their columns are not zero; use them with a policy"
    with pytest.raises(InputError, match=words):
        Trial(model, axes(model, inputs), widenings, batches, objective, seeded())
    apply_(model, axes(model, inputs), widen_again(model, widenings, inputs), inputs=inputs)


def widen_again(model: nn.Module, widenings: list[Widening], inputs: Example) -> list[Widening]:
    """The same widenings on axes that are found anew."""
    found = axes(model, inputs)
    return [
        Widening(find_axis(found, w.axis.name), w.units, w.rows, w.channels, w.columns, w.copies) for w in widenings
    ]


@pytest.mark.parametrize("kind", UNJUDGED)
def test_an_axis_that_cannot_be_divided_gets_fresh_units(kind):
    model, objective = Rms(), OutputLoss(F.cross_entropy)
    found = axes(model, ROW)
    axis = find_axis(found, "stem")
    batches = [Batch(ROW, torch.tensor([0, 1, 1, 0]), 4)]
    (one,) = propose_all(kind, model, {axis: 2}, batches, objective, seeded())
    assert one.unread
    apply_(model, found, [one], inputs=ROW)
