"""What goes with removed units is made up for by least squares, as well as any weights can."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from net_cases import ROW, Case, noise
from outgrow.net.axis import Member
from outgrow.net.compensate import compensation, regression, step_size
from outgrow.net.inputs import call
from outgrow.net.remove import remove_
from outgrow.net.surgery import tensors_of
from removal_snapshot import contents, plain, run, same

DOUBLE = noise(32, 3).double()
IMAGES = noise(16, 3, 6, 6).double()


class Flat(nn.Module):
    """A linear layer behind a flattened convolution, beside other features."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 2, 3), nn.Linear(28, 3)

    def forward(self, x):
        x = F.avg_pool2d(torch.cat([self.b(x), self.a(x)], 1).relu(), 2)
        return self.last(x.flatten(1))


class Twice(nn.Module):
    """A consumer that is called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return torch.cat([self.last(self.a(x).relu()), self.last(input=self.a(-x).relu())], 1)


def convolutions(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), last)


READERS = {
    "linear": Case(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), DOUBLE, {"0": 5}),
    "no bias": Case(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)), DOUBLE, {"0": 5}),
    "one tap": Case(lambda: convolutions(nn.Conv2d(5, 2, 1)), IMAGES, {"0": 5}),
    "taps": Case(lambda: convolutions(nn.Conv2d(5, 4, 3)), IMAGES, {"0": 5}),
    "no bias, taps": Case(lambda: convolutions(nn.Conv2d(5, 4, 3, bias=False)), IMAGES, {"0": 5}),
    "padded": Case(lambda: convolutions(nn.Conv2d(5, 4, 3, 2, 2, 2)), IMAGES, {"0": 5}),
    "reflected": Case(lambda: convolutions(nn.Conv2d(5, 4, 3, padding=1, padding_mode="reflect")), IMAGES, {"0": 5}),
    "transposed": Case(lambda: convolutions(nn.ConvTranspose2d(5, 4, 3, 2)), IMAGES, {"0": 5}),
    "one dimension": Case(
        lambda: nn.Sequential(nn.Conv1d(3, 5, 3), nn.ELU(), nn.Conv1d(5, 2, 3)), noise(8, 3, 12).double(), {"0": 5}
    ),
    "flat": Case(Flat, IMAGES, {"a": 5}),
    "twice": Case(Twice, DOUBLE, {"a": 5}),
}
every_reader = pytest.mark.parametrize("case", READERS.values(), ids=READERS)
ONE_TAP = [name for name in READERS if name in ("linear", "no bias", "one tap", "flat", "twice")]


def error(case: Case, model: nn.Module, units: list[int], compensate: bool) -> float:
    """Mean squared change of the output when units go."""
    smaller, (axis,) = copy.deepcopy(model), case.growable
    remove_(smaller, axis, units, example=case.example, compensate=case.example if compensate else None)
    return sum(float((a - b).square().mean()) for a, b in zip(run(model, case), run(smaller, case), strict=True))


def built(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.build().double()


@every_reader
@pytest.mark.parametrize("units", [[0], [1, 3], [0, 1, 2, 4]], ids=str)
def test_compensation_never_makes_it_worse(case: Case, units: list[int]):
    model = built(case)
    assert error(case, model, units, compensate=True) < error(case, model, units, compensate=False)


@every_reader
def test_a_copy_can_go_without_loss(case: Case):
    model, (axis,) = built(case), case.growable
    with torch.no_grad():
        for tensor in model.get_submodule(axis).parameters():
            tensor[3] = tensor[1]
    assert error(case, model, [3], False) > 1e-6
    assert error(case, model, [3], True) < 1e-16
    assert error(case, model, [1], True) < 1e-16


LINEAR = {
    "linear": lambda: nn.Linear(5, 2),
    "one tap": lambda: nn.Conv2d(5, 2, 1),
    "taps": lambda: nn.Conv2d(5, 2, 3, stride=2),
    "transposed": lambda: nn.ConvTranspose2d(5, 2, 1),
    "padded": lambda: nn.Conv2d(5, 2, 3, padding=1),
    "no bias": lambda: nn.Linear(5, 2, bias=False),
}


@pytest.mark.parametrize("last", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_a_linear_combination_can_go_without_loss(last, constant: float):
    torch.manual_seed(0)
    layer = last()
    first = nn.Linear(8, 5) if isinstance(layer, nn.Linear) else nn.Conv2d(3, 5, 3)
    model = nn.Sequential(first, layer).double()
    with torch.no_grad():
        for tensor in first.parameters():
            tensor[0] = 2 * tensor[1] - tensor[4]
        first.bias[0] += constant
    case = Case(lambda: model, noise(32, 8).double() if isinstance(layer, nn.Linear) else IMAGES, {"0": 5})
    can_take_a_constant = layer.bias is not None and not any(getattr(layer, "padding", ()))
    assert (error(case, model, [0], True) < 1e-16) == (can_take_a_constant or not constant)


@every_reader
def test_compensated_tensors_are_changes_like_any_other(case: Case):
    model, (axis,) = built(case), case.growable
    plain_edit = remove_(model, axis, [2], example=case.example)
    plain_edit.undo()
    before = tensors_of(model)
    edit = remove_(model, axis, [2], example=case.example, compensate=case.example)
    only_values = [c for c in edit.changes if c.name not in {other.name for other in plain_edit.changes}]
    assert [c.name.rpartition(".")[2] for c in only_values] == ["bias"] * (list(model.children())[-1].bias is not None)
    for found in edit.changes:
        assert found.old is before[found.name]
        assert found.new is tensors_of(model)[found.name]
        assert found.new.shape == tuple(map(len, found.keep)) == tuple(map(len, found.kept))
        assert found.carry(found.old.detach()).shape == found.new.shape
    assert plain(edit.axes) == plain(plain_edit.axes)


@pytest.mark.parametrize("name", ONE_TAP)
def test_it_is_the_best_of_all_weights(name: str):
    """No other weights and bias of the consumer do better on the batch."""
    case = READERS[name]
    model, (axis,) = built(case), case.growable
    smaller = copy.deepcopy(model)
    remove_(smaller, axis, [1, 4], example=case.example, compensate=case.example)
    last = list(smaller.children())[-1]
    loss = sum(
        (a - b).square().mean() for a, b in zip(call(smaller, case.example), call(model, case.example), strict=True)
    )
    for gradient in torch.autograd.grad(loss, list(last.parameters())):
        assert gradient.abs().max() <= 1e-7


def test_it_does_not_depend_on_how_large_features_are():
    rows, scale = noise(50, 4).double(), torch.tensor([1e-6, 1.0, 1e6, 1e3]).double()
    kept, removed = torch.arange(3), torch.tensor([3])
    expected = regression([rows], kept, removed, constant=True) * scale[3] / scale[:3]
    scaled = regression([rows[:20] * scale, rows[20:] * scale], kept, removed, constant=True)
    assert torch.allclose(scaled, expected, rtol=1e-9)


def test_features_that_repeat_or_never_change_do_no_harm():
    rows = noise(50, 4).double()
    rows[:, 1], rows[:, 2], rows[:, 3] = rows[:, 0], 5.0, rows[:, 0]
    coefficients = regression([rows], torch.arange(3), torch.tensor([3]), constant=True)
    assert torch.allclose(coefficients, torch.tensor([[0.5, 0.5, 0.0]]).double(), atol=1e-8)
    assert step_size(rows, 0 * rows, constant=True).tolist() == [0.0] * 4


def test_a_batch_of_fewer_rows_than_features_is_met_exactly():
    case = READERS["flat"]
    case = Case(case.build, IMAGES[:3], case.growable)
    assert error(case, built(case), [0, 1], False) > 1e-6
    assert error(case, built(case), [0, 1], True) < 1e-12


def test_averages_are_compensated_by_what_they_read_themselves():
    case = READERS["taps"]
    model = built(case)
    averaged = AveragedModel(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * noise(*parameter.shape)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    expected = copy.deepcopy(averaged.module)
    remove_(expected, "0", [1], example=case.example, compensate=case.example)
    remove_(model, "0", [1], example=case.example, compensate=case.example, averages=[averaged])
    assert same(contents(averaged.module), contents(expected))


class Used(nn.Module):
    """One of two consumers is used as a function."""

    def __init__(self):
        super().__init__()
        self.a, self.last, self.other = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x).relu()
        return F.linear(x, self.last.weight, self.last.bias) + self.other(x)


def test_layers_used_as_functions_stay_as_they_are():
    torch.manual_seed(0)
    model = Used()
    before = contents(model)
    remove_(model, "a", [3], example=ROW, compensate=ROW)
    assert torch.equal(model.last.weight, before["last.weight"][:, :3])
    assert torch.equal(model.last.bias, before["last.bias"])
    assert not torch.allclose(model.other.weight, before["other.weight"][:, :3])


class Own(nn.Linear):
    """A layer of the user's own, which makes something of its weight and of what comes out."""

    def __init__(self, prepare, finish):
        super().__init__(5, 5)
        self._prepare, self._finish = prepare, finish

    def forward(self, x):
        return self._finish(x @ self._prepare(self.weight) + self.bias)


OWN = {  # and whether it is the sum of what each column reads
    "linear": (Tensor.t, lambda y: y, True),
    "scaled": (lambda w: 3 * w.t(), lambda y: y / 2, True),
    "standardised": (lambda w: (w / w.norm()).t(), lambda y: y, False),
    "activated": (Tensor.t, torch.relu, False),
    "single precision": (lambda w: w.float().t(), lambda y: y, False),
}


@pytest.mark.parametrize(("prepare", "finish", "is_a_sum"), OWN.values(), ids=OWN)
def test_layers_of_the_users_own_are_tried(prepare, finish, is_a_sum: bool):
    torch.manual_seed(0)
    reader = Own(prepare, finish)
    gone = [(Member("0.weight", 1, torch.arange(5)[:, None], frozenset({"in"})), torch.tensor([1]))]
    found = compensation(nn.Sequential(reader), gone, noise(9, 5))
    assert list(found) == (["0.weight", "0.bias"] if is_a_sum else [])


def test_a_weight_stored_the_other_way_round_is_compensated():
    reader = Own(lambda w: w, lambda y: y)
    values = noise(9, 5)
    values[:, 1] = values[:, 0] - values[:, 4]
    gone = [(Member("weight", 0, torch.arange(5)[:, None], frozenset({"in"})), torch.tensor([1]))]
    found = compensation(reader, gone, values)
    expected = reader(values)
    reader.load_state_dict(found)
    with torch.no_grad():
        reader.weight[1] = 0.0
    assert torch.allclose(reader(values), expected, atol=1e-5)


def test_dropout_and_statistics_have_no_part_in_it():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.9), nn.Linear(5, 2)).train()
    before = contents(model)
    twins = [copy.deepcopy(model) for _ in range(2)]
    for twin in twins:
        remove_(twin, "0", [1], example=ROW, compensate=ROW)
        assert twin.training
        assert torch.equal(twin[1].running_mean, before["1.running_mean"][[0, 2, 3, 4]])
    assert same(*map(contents, twins))
