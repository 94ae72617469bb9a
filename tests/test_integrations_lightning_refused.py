"""What can't grow in Lightning's loop, and what a user is told of it."""

import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import outgrow
from lightning_cases import CALM, Net, digits, quiet, shuffled
from outgrow.errors import InputError
from outgrow.lightning import Growing, regrown

pytestmark = CALM


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Several(Manual):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.head.parameters(), 0.1)]


class Early(Net):
    """Builds its optimizer before somebody edits it."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        outgrow.widen_(self, "body.0", 2, example=torch.zeros(1, 64))
        return optimizer


class Unused(Net):
    def configure_optimizers(self):
        return None


class NoForward(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)

    def training_step(self, batch):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (Manual, [], "received Manual with manual optimization: return the loss from training_step"),
        (Several, [], "expected automatic optimization with one optimizer, received Several"),
        (Early, [], r"the optimizer steps 3 parameters that Early no longer has .*built before the module was edited"),
        (NoForward, [], r"received NoForward without one: define it, or name the part.*network="),
        (Net, [StochasticWeightAveraging(0.1)], "use WeightAveraging"),
    ],
)
def test_what_can_not_grow_is_told(tmp_path, make, callbacks, message):
    trainer = quiet(tmp_path, [Growing(), *callbacks], max_epochs=2, limit_train_batches=3)
    with pytest.raises(InputError, match=message):
        trainer.fit(make(), shuffled())


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.* returned `None`")
def test_no_optimizer_is_told(tmp_path):
    with pytest.raises(InputError, match="the optimizer has none of the model's parameters"):
        quiet(tmp_path, [Growing()], max_epochs=2).fit(Unused(), shuffled())


def test_an_edit_by_somebody_else_is_told(tmp_path):
    class Edits(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                optimizer = trainer.optimizers[0]
                outgrow.widen_(pl_module, "body.0", 1, example=torch.zeros(1, 64), optimizer=optimizer)

    trainer = quiet(tmp_path, [Growing(every_n_epochs=1), Edits()], max_epochs=2, limit_train_batches=3)
    with pytest.raises(InputError, match="somebody else has edited Net since it was looked at"):
        trainer.fit(Net(), shuffled())


def test_a_strategy_that_starts_processes_from_here_is_told(tmp_path):
    trainer = quiet(tmp_path, [], devices=2, strategy="ddp_spawn")
    with pytest.raises(InputError, match='use strategy="ddp"'):
        Growing().setup(trainer, Net(), "fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_parms": 5}, "no option max_parms: expected one of .*max_params"),
        ({"every_n_steps": 0}, "expected every_n_steps of at least 1, received 0"),
        ({"every_n_steps": 1, "every_n_epochs": 1}, "received both"),
    ],
)
def test_bad_arguments_are_told(options, message):
    with pytest.raises(InputError, match=message):
        Growing(**options)


def test_batches_without_inputs_ask_for_an_example(tmp_path):
    class Dicts(Net):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["x"]), batch["y"])

    rows = [{"x": x, "y": y} for x, y in zip(*digits(), strict=True)]
    loader = DataLoader(rows, 64)
    with pytest.raises(InputError, match="received dict: set example_input_array"):
        quiet(tmp_path, [Growing()], max_epochs=2).fit(Dicts(), loader)
    net, growing = Dicts(), Growing(example=torch.zeros(1, 64), max_params=2_000, sample=256)
    quiet(tmp_path, [growing], max_epochs=3).fit(net, loader)
    assert any(event.growths for event in growing.history)


def test_a_checkpoint_without_a_record_is_told(tmp_path):
    net = Net()
    trainer = quiet(tmp_path, [], max_epochs=1, limit_train_batches=1)
    trainer.fit(net, shuffled())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(InputError, match=r"plain\.ckpt: expected a checkpoint of a run with outgrow\.light"):
        regrown(Net(), tmp_path / "plain.ckpt")


def test_a_missing_package_is_told():
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('lightning', 'lightning.pytorch', 'pytorch_lightning'))\n"
        "import outgrow.lightning"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'which is not installed: pip install "outgrow[lightning]"' in done.stderr.splitlines()[-1]


def test_data_that_can_be_read_once_needs_a_loader_for_checks(tmp_path):
    def batches():
        return (one for one in DataLoader(TensorDataset(*digits()), 32))

    with pytest.raises(InputError, match=r"received generator, of which checks would take .*Growing\(loader="):
        quiet(tmp_path, [Growing(F.cross_entropy)], max_steps=9).fit(Net(), batches())
    growing = Growing(F.cross_entropy, loader=[digits()], max_params=2_000, sample=64)
    quiet(tmp_path, [growing], max_steps=40).fit(Net(), batches())
    assert growing.history


def test_two_of_it_are_told(tmp_path):
    both = [Growing(network="body"), Growing(network="head")]
    with pytest.raises(InputError, match="expected one Growing, received 2"):
        quiet(tmp_path, both, max_epochs=1).fit(Net(), shuffled())
