"""Latency: a positive number of seconds, and nothing of the model changed by measuring it."""

import random

import pytest
import torch
from torch import nn

from net_cases import CASES, Case
from outgrow.errors import InputError
from outgrow.net import latency as measuring
from outgrow.net.latency import LEAST, WARM_UPS, latency

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing(case: Case, training: bool):
    model = case.model().train(training)
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    tensors = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    states = torch.get_rng_state(), random.getstate()
    assert latency(model, case.example, repeats=2) > 0
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in tensors.items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(parameter.grad is None for parameter in model.parameters())


class Witness(nn.Module):
    """Notes how it is run."""

    def __init__(self):
        super().__init__()
        self.runs: list[tuple[bool, bool]] = []
        self.seen = self.runs.append

    def forward(self, x, other=None):
        self.seen((self.training, torch.is_grad_enabled()))
        return x


@pytest.mark.parametrize("example", [torch.zeros(1), (torch.zeros(1), 2), [torch.zeros(1)], {"x": 1, "other": None}])
def test_examples_of_every_form_run_in_eval_mode_without_gradients(example):
    runs = []
    model = Witness()
    model.seen = runs.append
    assert latency(model, example, repeats=3) > 0
    assert runs == [(False, False)] * (WARM_UPS + 3)


@pytest.mark.parametrize(("ticks", "passes"), [(1.0, LEAST), (0.03125, 7), (1e-9, 100)])
def test_slow_networks_run_a_few_times_and_fast_ones_often(ticks, passes, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock) * ticks)
    runs = []
    model = Witness()
    model.seen = runs.append
    assert latency(model, torch.zeros(1)) == pytest.approx(ticks)
    assert len(runs) == WARM_UPS + passes


def test_the_median_of_the_repeats_counts(monkeypatch):
    clock = iter([0, 9, 0, 9, 0, 1, 0, 2, 0, 90])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert latency(Witness(), torch.zeros(1), repeats=3) == 2


def test_what_can_not_be_measured_is_refused():
    with pytest.raises(InputError, match=r"Linear does not run on this example: .* give the example as"):
        latency(nn.Linear(3, 2), torch.zeros(1, 4))
    with pytest.raises(InputError, match="at least 1 repeat of a forward pass, got 0"):
        latency(nn.Linear(3, 2), torch.zeros(1, 3), repeats=0)
