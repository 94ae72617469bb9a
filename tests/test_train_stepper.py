"""Training steps in mixed precision and compiled: weights stay float32, edits compile anew, runs resume bit for bit."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.data import load
from outgrow.errors import InputError
from outgrow.models import Seed
from outgrow.net.widen import widen_
from outgrow.train.checkpoints import Checkpoints
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.stepper import Stepper
from outgrow.train.trainer import Trainer


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def batch(count=64):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def steps(stepper, count=40):
    return [float(stepper.step_(F.cross_entropy, *batch())) for _ in range(count)]


def stepper(precision="fp32", compiled=False):
    model = net()
    return model, Stepper(model, torch.optim.AdamW(model.parameters(), 0.01), precision, compiled)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_what_full_precision_does_with_float32_weights(precision):
    model, half = stepper(precision)
    _, full = stepper()
    assert steps(half) == pytest.approx(steps(full), abs=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_full_precision_takes_the_steps_of_a_plain_loop():
    model, stepping = stepper()
    other = net()
    optimizer = torch.optim.AdamW(other.parameters(), 0.01)
    steps(stepping, 5)
    for _ in range(5):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(other(x), y).backward()
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_an_edited_network_is_compiled_anew_and_the_time_is_counted(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, compiled = stepper(compiled=True)
    plain, other = stepper()
    assert steps(compiled, 3) == pytest.approx(steps(other, 3), rel=1e-5)
    first = compiled.compile_seconds
    assert first > 0
    for one, stepping in ((model, compiled), (plain, other)):
        widen_(
            one,
            "0",
            2,
            example=torch.zeros(1, 4),
            optimizer=stepping._optimizer,
            generator=torch.Generator().manual_seed(0),
        )
        stepping.renew()
    assert steps(compiled, 3) == pytest.approx(steps(other, 3), rel=1e-5)
    assert compiled.compile_seconds > first
    assert other.compile_seconds == 0


def test_an_unknown_precision_is_told():
    with pytest.raises(InputError, match="precision fp8: expected one of fp32, bf16, fp16"):
        stepper("fp8")


def test_a_run_in_fp16_goes_on_with_its_scale(tmp_path):
    def trainer(path):
        folder = RunFolder(path)
        data = load("digits")
        network = Seed("mlp", data.inputs, data.outputs, (4,))
        run = Trainer(data, network, Recipe(3, 64, events=2), folder, precision="fp16", checkpoint_every=25)
        return folder, run

    folder, run = trainer(tmp_path)
    folder.claim(overwrite=False)
    run._stepper._scaler.set_growth_interval(7)  # so that the scale moves within a run
    checkpoints = []
    monitored = run._checkpoints.save

    def save(*args):
        monitored(*args)
        checkpoints.append(Checkpoints(folder).newest()[0])

    run._checkpoints.save = save
    run.run()
    found = next(one for one in checkpoints if one.step >= 25)
    assert found.facts["stepper"]["scale"]["scale"] > 65536.0
    ends = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    _, again = trainer(tmp_path)
    again.resume(found)
    again.run()
    assert all(torch.equal(ends[name], tensor) for name, tensor in again.model.state_dict().items())
