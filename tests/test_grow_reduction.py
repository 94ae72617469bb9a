"""Reductions: what is redundant goes without a trace, and what goes otherwise is missed less than any other units."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from outgrow.errors import GrowthError
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reduction import EXAMPLES, Reduction
from outgrow.net.axes import axes
from outgrow.net.cost import flops
from outgrow.net.remove import remove_
from outgrow.net.widen import widen_

OBJECTIVE = OutputLoss(F.cross_entropy)


class Residual(nn.Module):
    """A stream that two convolutions write to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.outer(self.inner(x).relu())).mean((2, 3)))


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)), (6,)),
    "residual": (Residual, (2, 6, 6)),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    x = torch.randn(600, *shape)
    loader = DataLoader(TensorDataset(x, x.flatten(1)[:, :3].argmax(1)), 100)
    return make().eval(), x, loader


def sizes_of(model, x):
    return {axis.name: axis.size for axis in axes(model, x[:1]) if axis.growable}


def reduce_(model, sizes, x, loader, known=()):
    reduction = Reduction(model, sizes, x[:1], known)
    reduction.apply_(loader, reduction.effort(1e9, len(x)), OBJECTIVE, torch.Generator().manual_seed(0))
    return reduction


def test_copies_go_without_a_trace(case):
    model, x, loader = case
    before, said = sizes_of(model, x), model(x)
    for axis in before:
        widen_(model, axis, 3, example=x[:1], init="net2net")
    reduce_(model, before, x, loader)
    assert sizes_of(model, x) == before
    assert (model(x) - said).abs().max() <= 1e-3 * said.abs().max()


def test_what_goes_is_missed_less_than_the_newest_units(case):
    model, x, loader = case
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    targets = loader.dataset.tensors[1]
    fewer = {name: size - 2 for name, size in sizes_of(model, x).items()}
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reduce_(model, fewer, x, loader)
    assert sizes_of(model, x) == fewer
    ours = F.cross_entropy(model(x), targets)
    other = type(model)() if isinstance(model, Residual) else NETWORKS["mlp"][0]()
    other.load_state_dict(kept)
    other.eval()
    for axis, size in fewer.items():
        remove_(other, axis, [size, size + 1], example=x[:1])
    assert ours < F.cross_entropy(other(x), targets)


def test_cut_twice_it_needs_no_search_for_the_axes_of_the_second_time(case):
    model, x, loader = case
    sizes = sizes_of(model, x)
    known = reduce_(model, {name: size - 1 for name, size in sizes.items()}, x, loader).axes
    assert list(map(str, known)) == list(map(str, axes(model, x[:1])))
    fewer, searched = {name: size - 3 for name, size in sizes.items()}, copy.deepcopy(model)
    reduce_(model, fewer, x, loader, known)
    reduce_(searched, fewer, x, loader)
    assert model.state_dict().keys() == searched.state_dict().keys()
    assert all(torch.equal(one, searched.state_dict()[name]) for name, one in model.state_dict().items())


def test_an_axis_that_cannot_be_judged_loses_its_newest_units():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2).requires_grad_(False))
    x = torch.randn(200, 3)
    kept = model[0].weight[:4].detach().clone()
    reduce_(model, {"0": 4}, x, DataLoader(TensorDataset(x, torch.arange(200) % 2), 50))
    assert torch.equal(model[0].weight, kept)


def test_its_effort_keeps_within_a_budget_that_can_work(case):
    model, x, _ = case
    sizes = sizes_of(model, x)
    name = next(iter(sizes))
    reduction = Reduction(model, {name: sizes[name] - 1}, x[:1])
    least = reduction.effort(0, 600)
    assert least.examples == EXAMPLES[0]
    assert least.flops >= least.examples * flops(model, x[:1])
    for factor in (1.5, 4, 1_000):
        more = reduction.effort(factor * least.flops, 10_000)
        assert more.flops <= factor * least.flops
        assert EXAMPLES[0] <= more.examples <= EXAMPLES[1]


def test_no_more_examples_are_counted_than_there_are(case):
    model, x, _ = case
    name, size = next(iter(sizes_of(model, x).items()))
    assert Reduction(model, {name: size - 1}, x[:1]).effort(1e12, 40).examples == 40
    assert Reduction(model, {name: size}, x[:1]).effort(1e12, 40).flops == 0  # nothing goes


class Attention(nn.Module):
    """Heads and their width lie in one dimension; the stream has a norm and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.heads, self.width = nn.Linear(5, 12), nn.LayerNorm(12), 3, 4
        self.qkv, self.out, self.back = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.back(x + self.out(y)).mean(1)


def test_heads_and_streams_get_smaller_and_the_network_runs():
    torch.manual_seed(0)
    x = torch.randn(200, 6, 5)
    model = Attention()
    fewer = {name: size - 1 for name, size in sizes_of(model, x).items() if size > 1}
    reduce_(model, fewer, x, DataLoader(TensorDataset(x, torch.arange(200) % 5), 50))
    assert sizes_of(model, x) == {**sizes_of(model, x), **fewer}
    assert model(x).shape == (200, 5)


def test_sizes_that_make_no_sense_are_refused(case):
    model, x, _ = case
    name, size = next(iter(sizes_of(model, x).items()))
    for sizes, told in (({"nothing": 3}, "got 'nothing'"), ({name: size + 1}, "as fewer"), ({name: 0}, "as fewer")):
        with pytest.raises(GrowthError, match=told):
            Reduction(model, sizes, x[:1])
