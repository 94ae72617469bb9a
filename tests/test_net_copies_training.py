"""Training after units were copied: both sides learn, copies part, optimizers and averages follow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from copy_cases import (
    KEPT,
    able,
    axes_of_mlp,
    every_case,
    every_way,
    found_in,
    mlp,
    moved,
    seeded,
)
from net_cases import ROW, noise
from optimizer_cases import AGEING, AGELESS, SCHEDULED, births_in, steps
from outgrow.net.axes import find_axis
from outgrow.net.inits import divided
from outgrow.net.newborns import BIRTHS
from outgrow.net.widen import apply_


def square(model: nn.Module) -> Tensor:
    x = noise(64, 3).double()
    return F.mse_loss(model(x), torch.stack([x.prod(1), x.sum(1).cos()], 1))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> nn.Module:
    for _ in range(count):
        optimizer.zero_grad()
        square(model).backward()
        optimizer.step()
    return model


@every_way
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_equal_units_part_after_a_few_steps(way, make):
    model = mlp()
    optimizer = make(model.parameters(), lr=0.01)
    found = axes_of_mlp()
    widening = way(model, find_axis(found, "0"), 8, seeded())
    apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    before = square(model).item()
    trained(model, optimizer, 5)
    rows = model[0].weight.detach()
    assert square(model).item() < before
    assert float(torch.pdist(rows).min()) > 1e-7


@every_way
def test_every_new_weight_has_a_gradient_at_once(way):
    model = mlp()
    found = axes_of_mlp()
    apply_(model, found, [way(model, axis, 4, seeded()) for axis in able(found, way)], inputs=ROW.double())
    square(model).backward()
    assert bool((model[0].weight.grad != 0).all())
    assert bool((model[4].weight.grad != 0).all())


def test_the_gradient_of_outgoing_weights_is_the_parents():
    """And that of incoming ones falls with the share: why moments stay as they are."""
    model = mlp()
    square(model).backward()
    rows, columns = model[0].weight.grad, model[2].weight.grad
    wider = mlp()
    found = axes_of_mlp()
    widening = divided(wider, find_axis(found, "0"), 6, seeded())
    apply_(wider, found, [widening], inputs=ROW.double())
    square(wider).backward()
    origin = torch.cat([torch.arange(4), widening.copies.parents])
    share = torch.cat([widening.copies.kept(4), widening.copies.shares])
    torch.testing.assert_close(wider[2].weight.grad, columns[:, origin])
    torch.testing.assert_close(wider[0].weight.grad, rows[origin] * share[:, None])


OPTIMIZERS = AGEING | AGELESS | SCHEDULED


@every_way
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_follow(make, way):
    model = mlp()
    optimizer = make(model.parameters())
    steps(model, optimizer, 0, 3)
    states = [{k: copy.deepcopy(v) for k, v in optimizer.state[p].items()} for p in model.parameters()]
    found = axes_of_mlp()
    widening = way(model, find_axis(found, "0"), 3, seeded())
    edit = apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    changes = {id(c.new): c for c in edit.changes}
    for parameter, before in zip(model.parameters(), states, strict=True):
        after = {key: value for key, value in optimizer.state[parameter].items() if key != BIRTHS}
        assert after.keys() == before.keys()
        for key, value in after.items():
            if not isinstance(value, Tensor) or value.ndim == 0 or key == "ax":
                continue
            assert value.shape == parameter.shape
            kept = changes[id(parameter)].keep if id(parameter) in changes else [torch.arange(n) for n in value.shape]
            assert torch.equal(value[torch.meshgrid(*kept, indexing="ij")], before[key]), key
    assert births_in(optimizer) == (3 if make in AGEING.values() else 0)
    steps(model, optimizer, 3, 6)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_an_average_within_an_optimizer_is_divided_as_the_weight():
    model = mlp()
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.01, t0=1)
    steps(model, optimizer, 0, 4)
    found = axes_of_mlp()
    before = optimizer.state[model[2].weight]["ax"].clone()
    widening = divided(model, find_axis(found, "0"), 5, seeded())
    apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    after, copies = optimizer.state[model[2].weight]["ax"], widening.copies
    summed = after[:, :4].index_add(1, copies.parents, after[:, 4:])
    torch.testing.assert_close(summed, before, rtol=1e-12, atol=0)


@every_way
@every_case
def test_the_function_of_averages_is_kept(name: str, way):
    """Their own columns are divided and their own rows copied: they are not those of the live model."""
    model, inputs, found = found_in(name)
    model = copy.deepcopy(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(), dtype=parameter.dtype))
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    before = copy.deepcopy(averaged)
    apply_(
        model, found, [way(model, axis, 3, seeded()) for axis in able(found, way)], inputs=inputs, averages=[averaged]
    )
    assert moved(before.module, averaged.module, inputs) <= KEPT
    averaged.update_parameters(model)
