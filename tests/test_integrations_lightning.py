"""The Lightning callback: a module grows in Lightning's loop, and all that Lightning keeps goes on with it."""

import copy
import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_cases import CALM, Net, digits, quiet, shuffled
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan
from outgrow.lightning import Growing, regrow_, regrown
from outgrow.train.account import Course

pytestmark = CALM


class Always:
    """Widens at each look, and inserts a block at the second."""

    def propose(self, now):
        if len(now.history) == 1:
            return Plan({}, "deeper", blocks=now.places()[:1], evidence="none")
        return Plan(dict.fromkeys(now.sizes, 1), "wider", evidence="none")

    def decide(self, now, candidates, present):
        raise AssertionError("nothing is on trial")


class Fixed:
    """Batches in an order that depends on the epoch alone, which a checkpoint takes up anywhere."""

    def __init__(self, batch_size=128):
        (self.x, self.y), self.size, self.epoch, self.at = digits(), batch_size, 0, 0
        self.sampler = self  # whose epoch Lightning sets

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.x) // self.size

    def __iter__(self):
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch)).split(self.size)
        for at in range(self.at, len(self)):
            self.at = (at + 1) % len(self)
            yield self.x[order[at]], self.y[order[at]]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Stop(pl.Callback):
    """Ends a run at a step, as a kill does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyError("killed")


def same(first, second):
    states = [one.state_dict() for one in (first, second)]
    return states[0].keys() == states[1].keys() and all(map(torch.equal, states[0].values(), states[1].values()))


@pytest.mark.parametrize("given", [{}, {"loss": F.cross_entropy}, {"network": "body"}], ids=["step", "loss", "network"])
def test_it_grows_within_the_budget_and_learns_more_than_without(tmp_path, given):
    losses = {}
    for growing in ([], [Growing(**given, example=torch.zeros(1, 64), max_params=2_000)]):
        pl.seed_everything(0, verbose=False)
        net = Net(width=4)
        trainer = quiet(tmp_path, growing, max_epochs=6)
        trainer.fit(net, shuffled())
        x, y = digits()
        with torch.no_grad():
            losses[len(growing)] = float(F.cross_entropy(net(x), y))
    assert losses[1] < losses[0]
    assert net.body[0].out_features > 4
    assert sum(p.numel() for p in net.body.parameters()) <= 2_000
    (optimizer,) = trainer.optimizers
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, net.parameters()))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)  # its schedule went on


def test_looks_leave_the_loop_as_it_is(tmp_path):
    """Without growth the run is the same to the last bit, with the same log and the same random numbers."""

    class Never(Always):
        def propose(self, now):
            return Plan(dict.fromkeys(now.sizes, 1), "look", evidence="gain")

        def decide(self, now, candidates, present):
            return Decision({}, "no")

    found = []
    for growing in ([], [Growing(policy=Never(), every_n_steps=3, sample=64)]):
        pl.seed_everything(0, verbose=False)
        net = Net()
        trainer = quiet(tmp_path, growing, max_epochs=1)
        loader = DataLoader(TensorDataset(*digits()), 64, shuffle=True, generator=torch.Generator().manual_seed(1))
        trainer.fit(net, loader)
        found.append((net, trainer.callback_metrics, torch.rand(1), random.random(), np.random.rand()))
    assert len(growing[0].history) == 9
    assert same(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


@pytest.mark.parametrize(
    ("given", "steps"),
    [({"every_n_epochs": 2}, [20]), ({"every_n_steps": 8}, [8, 16, 24]), ({"every_n_epochs": 1}, [10, 20])],
)
def test_looks_come_as_asked_for(tmp_path, given, steps):
    seen = []

    class Seen(Growing):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            before = len(self.history)
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.extend([trainer.global_step] * (len(self.history) - before))

    quiet(tmp_path, [Seen(policy=Always(), **given)], max_epochs=3, limit_train_batches=10).fit(Net(), shuffled())
    assert seen == steps


def test_gradients_are_not_pending_at_a_look(tmp_path):
    at = []

    class Seen(Always):
        def propose(self, now):
            at.append(now.epoch * 12)
            return super().propose(now)

    trainer = quiet(tmp_path, [], max_epochs=1, limit_train_batches=12, accumulate_grad_batches=4)
    trainer.callbacks.append(Growing(policy=Seen(), every_n_steps=1))
    trainer.fit(Net(), shuffled())
    assert sorted({round(place, 6) for place in at}) == [4, 8]


@pytest.mark.parametrize("policy", [Proportional(share=0.9, events=5), Always()], ids=["default", "wider and deeper"])
@pytest.mark.parametrize(("every", "stop"), [(14, 30), (13, 22)], ids=["at the end of an epoch", "within one"])
@pytest.mark.parametrize("given", [{}, {"loss": F.cross_entropy}], ids=["step", "loss"])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, policy, every, stop, given):
    def run(callbacks, path=None):
        net = Net()
        options = {"sample": 128, "loader": [digits()], "every_n_steps": 9 if isinstance(policy, Always) else None}
        growing = Growing(**given, **options, policy=policy, max_params=2_000)
        saved = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1)
        options = {"max_epochs": 3, "enable_checkpointing": True}
        trainer = quiet(tmp_path, [*callbacks, growing, saved], **options)
        trainer.fit(net, Fixed(), ckpt_path=path)
        return net, growing, trainer.optimizers[0]

    with pytest.raises(KeyError, match="killed"):
        run([Stop(stop)])
    path = max(tmp_path.glob("*.ckpt"), key=lambda file: torch.load(file)["global_step"])
    assert torch.load(path)["state_dict"]["body.0.weight"].shape[0] > 6
    again, taken_up, resumed = run([], path)
    whole, growing, optimizer = run([])
    assert len(growing.history) > len(torch.load(path)["outgrow"]["grower"]["history"])
    assert same(again, whole)
    assert [e.growths for e in taken_up.history] == [e.growths for e in growing.history]
    states = [one.state_dict()["state"] for one in (resumed, optimizer)]
    assert all(
        torch.equal(states[0][n][key], states[1][n][key]) for n in states[1] for key in ("exp_avg", "exp_avg_sq")
    )


def saved_run(folder, **options):
    """A run that has grown, with checkpoints of its first size and of its last."""
    net, growing = Net(), Growing(policy=Always(), every_n_epochs=1)
    saved = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, **options)
    trainer = quiet(folder, [growing, saved], max_epochs=4, enable_checkpointing=True, limit_train_batches=3)
    trainer.fit(net, shuffled())
    return net, trainer


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_of_any_size_comes_back(tmp_path, weights_only):
    net, _ = saved_run(tmp_path, save_weights_only=weights_only)
    assert same(regrown(Net(), tmp_path / "epoch=3.ckpt"), net)
    assert regrown(Net(), tmp_path / "epoch=0.ckpt").body[0].out_features == 6

    class Own(Net):
        def on_load_checkpoint(self, checkpoint):
            regrow_(self, checkpoint)

    assert same(Own.load_from_checkpoint(tmp_path / "epoch=3.ckpt"), net)


def test_an_earlier_size_is_tested_and_the_hooks_are_gone_afterwards(tmp_path):
    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.log("width", float(self.body[0].out_features))

    net, saved = Tested(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    growing = Growing(policy=Always(), every_n_epochs=1)
    trainer = quiet(tmp_path, [growing, saved], max_epochs=2, enable_checkpointing=True, limit_train_batches=3)
    trainer.fit(net, shuffled())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert same(regrown(Net(), tmp_path / "after.ckpt"), net)
    assert net.body[0].out_features == 7
    (found,) = trainer.test(
        net, DataLoader(TensorDataset(*digits()), 64), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False
    )
    assert found == {"width": 6.0}
    assert not {"on_load_checkpoint", "on_save_checkpoint", "log"} & vars(net).keys()


def test_sizes_and_gains_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    growing = Growing(F.cross_entropy, max_params=2_000, sample=256)
    quiet(tmp_path, [growing], max_epochs=2, logger=logger).fit(Net(), shuffled())
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    params = [int(row["outgrow/params"]) for row in rows if row["outgrow/params"]]
    assert params[0] == 502
    assert params[1:] == [event.params_after for event in growing.history]
    last = next(row for row in reversed(rows) if row["outgrow/params"])
    assert int(last["outgrow/units/body.0"]) == growing.grower.sizes["body.0"]
    assert float(last["outgrow/gain"]) == pytest.approx(sum(g.gain for g in growing.history[-1].growths))


def test_mixed_precision_keeps_the_weights_in_float32(tmp_path):
    growing, net = Growing(max_params=2_000, sample=256), Net()
    quiet(tmp_path, [growing], max_epochs=3, precision="bf16-mixed").fit(net, shuffled())
    assert net.body[0].out_features > 6
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in net.parameters())


def test_averaged_weights_grow_along(tmp_path):
    def run(path=None):
        net, average = Net(), EMAWeightAveraging(decay=0.9)
        saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        growing = Growing(policy=Always(), every_n_epochs=1, loader=[digits()])
        trainer = quiet(tmp_path, [growing, average, saved], max_epochs=3, enable_checkpointing=True)
        trainer.fit(net, Fixed(), ckpt_path=path)
        return net

    whole = run()
    assert whole.body[0].out_features == 7
    kept = copy.deepcopy(whole)
    assert same(run(tmp_path / "epoch=1.ckpt"), kept)


def test_a_fit_after_a_fit_goes_on(tmp_path):
    net, growing = Net(), Growing(policy=Always(), every_n_epochs=1)
    trainer = quiet(tmp_path, [growing], max_epochs=2, limit_train_batches=3)
    trainer.fit(net, shuffled())
    trainer.fit_loop.max_epochs = 4
    trainer.fit(net, shuffled())
    assert [event.event for event in growing.history] == [1, 2, 3]
    quiet(tmp_path, [growing], max_epochs=2, limit_train_batches=3).fit(Net(), shuffled())  # another module
    assert [event.event for event in growing.history] == [1]


def test_a_logged_loss_is_told_to_the_policy(tmp_path):
    class Judged(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", 0.25)

    growing = Growing(policy=Always(), every_n_epochs=1, monitor="val_loss")
    trainer = quiet(tmp_path, [growing], max_epochs=2, limit_train_batches=3, limit_val_batches=1)
    trainer.fit(Judged(), shuffled(), DataLoader(TensorDataset(*digits()), 64))
    assert [event.held_out for event in growing.history] == [0.25]


def test_data_without_a_length_is_read_by_checks_from_its_start(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        read = 0

        def __iter__(self):
            for row in zip(*digits(), strict=True):
                Stream.read += 1
                yield row

    growing = Growing(F.cross_entropy, max_params=2_000, sample=64)
    trainer = quiet(tmp_path, [growing], max_steps=40)
    trainer.fit(Net(), DataLoader(Stream(), 32))
    assert trainer.global_step == 40
    assert len(growing.history) > 1
    assert Stream.read > 40 * 32


def test_a_resumed_run_has_as_many_events_as_it_began_with(tmp_path, monkeypatch):
    """How many fit depends on the size of the network, which is another one by then."""
    monkeypatch.setattr(Course, "fitting_events", lambda *args: 5)
    first = Growing(F.cross_entropy, max_params=2_000)
    trainer = quiet(tmp_path, [first, Stop(30)], max_epochs=3)
    with pytest.raises(KeyError, match="killed"):
        trainer.fit(Net(), shuffled())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(Course, "fitting_events", lambda *args: 2)
    second = Growing(F.cross_entropy, max_params=2_000)
    quiet(tmp_path, [second], max_epochs=3).fit(Net(), shuffled(), ckpt_path=tmp_path / "last.ckpt")
    assert second.grower.policy.events == first.grower.policy.events == 5


def test_two_processes_grow_alike_bit_for_bit(tmp_path):
    script = Path(__file__).with_name("lightning_ddp.py")
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "MASTER_PORT")}
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, check=True, capture_output=True, timeout=300
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(map(torch.equal, first["weights"].values(), second["weights"].values()))
    assert first["events"] == second["events"]
    assert any(event["growths"] for event in first["events"])
    assert first["weights"]["body.0.weight"].shape[0] > 6


def test_the_page_and_the_example_run(printed):
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "lightning.md").read_text().split("<!-- lightning -->")[1].split("```python\n")[1]
    *_, grower, width = printed(page.split("```")[0]).splitlines()
    assert grower.startswith("Grower(")
    assert int(width) > 4
    example = (root / "examples" / "lightning_callback.py").read_text()
    assert len(example.splitlines()) <= 80
    said = printed(example)
    assert said.count("on the test part") == 2
    assert "grew net.0" in said


class Judged(Net):
    """A validation loss that tells the size of the network."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(sum(p.numel() for p in self.parameters())))


def test_a_logged_loss_is_that_of_the_present_size(tmp_path):
    growing = Growing(F.cross_entropy, policy=Always(), monitor="val_loss", every_n_steps=2)
    trainer = quiet(tmp_path, [growing], max_epochs=3, limit_train_batches=6, limit_val_batches=1)
    trainer.fit(Judged(), shuffled(), DataLoader(TensorDataset(*digits()), 64))
    told = [(event.params_before, event.held_out) for event in growing.history]
    assert [np.isnan(loss) for _, loss in told] == [True, True, False, False]  # two before the first validation
    assert all(size == loss for size, loss in told[2:])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("monitor", ["val_loss", "val_losss"])
def test_a_loss_that_is_never_told_keeps_nothing_waiting(tmp_path, monitor):
    growing = Growing(F.cross_entropy, policy=Always(), monitor=monitor, every_n_steps=3)
    trainer = quiet(tmp_path, [growing], max_epochs=2, limit_train_batches=6, limit_val_batches=1)
    validation = [DataLoader(TensorDataset(*digits()), 64)] if monitor == "val_losss" else []
    trainer.fit(Judged(), shuffled(), *validation)
    assert len(growing.history) == 3


def test_a_loader_of_the_loop_is_read_apart(tmp_path):
    loader = DataLoader(TensorDataset(*digits()), 64, num_workers=1, persistent_workers=True)
    growing = Growing(policy=Always(), every_n_steps=3, loader=loader)
    trainer = quiet(tmp_path, [growing], max_epochs=1, limit_train_batches=8)
    trainer.fit(Net(), loader)
    assert trainer.global_step == 8


class Around(Net):
    """Batch norm and dropout stand before what grows."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.Sequential(torch.nn.BatchNorm1d(64), torch.nn.Dropout(0.5))

    def forward(self, x):
        return super().forward(self.norm(x))


def test_what_stands_around_the_network_is_looked_at_in_eval_mode(tmp_path):
    growing = Growing(network="body", example=torch.zeros(2, 64), every_n_epochs=1, sample=64)
    module = Around()
    quiet(tmp_path, [growing], max_epochs=2, limit_train_batches=3).fit(module, shuffled())
    assert len(growing.history) == 1
    assert int(module.norm[0].num_batches_tracked) == 6
    assert module.norm.training
