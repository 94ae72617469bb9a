"""Lightning: a callback that lets a LightningModule grow while Lightning trains it."""

import importlib
import inspect
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.curvature import Loss
from outgrow.grow.event import Event
from outgrow.grow.policies.pace import is_free
from outgrow.grow.sample import rows_in
from outgrow.grow.step import Step
from outgrow.integrations.lightning_batches import Batches, TrainingStep, inputs_of
from outgrow.integrations.lightning_checkpoint import KEY, record_of, regrow_
from outgrow.integrations.lightning_demands import demand_forward, demand_held, demand_supported, only_one
from outgrow.train.allowance import Allowance
from outgrow.train.grower import Grower
from outgrow.train.ranks import Ranks

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
OPTIONS = {
    name
    for name, parameter in inspect.signature(Grower).parameters.items()
    if parameter.kind == parameter.KEYWORD_ONLY and name not in ("averages", "step")
}

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:

    def _package():
        """The user's Lightning: the package that is imported already, else the first that is installed."""
        for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError:
                continue
        raise InputError(
            "outgrow.lightning: to grow in Lightning's loop takes the package lightning, which is not installed: "
            'pip install "outgrow[lightning]"'
        )

    Callback = _package().Callback


class Growing(Callback):
    """Lets a LightningModule grow while `Trainer.fit` trains it; optimizer and schedulers go on with it.

    A look comes before the first batch of a step, so that gradients are never half summed, and whatever a step leaves
    behind, checkpoints and validation, is of one size. Checkpoints hold what has grown: a fit from `ckpt_path` starts
    with a fresh module and ends as one that was not interrupted. On several processes (`strategy="ddp"`) all grow
    alike.

    A loss and batches (inputs, target) are cheaper and better judged than `training_step`, of which only a mean is
    known; see `outgrow.grow.step`. Either is run in eval mode. What `training_step` logs by `self.log` is dropped then.

    Args:
        loss: Mean loss of an output and a target, as in `outgrow.Grower`; the loss of `training_step` if None.
        example: One input of what grows, as in `outgrow.Grower`; if None, the module's `example_input_array`, or the
            inputs of the first batch.
        network: Name of the submodule that grows; the LightningModule itself, by its `forward`, if None.
        every_n_epochs: Look before every n-th epoch but the first.
        every_n_steps: Look after every n optimizer steps. With neither, the policy is asked before each step, or
            before each epoch if the end of the run isn't known or latency is limited.
        loader: What looks read; the loaders of the training part if None. Best shuffled, without augmentation.
        monitor: Name of a logged loss of the validation part, as `held_out` of `outgrow.Grower.check`. After a
            growth it is not known until the next validation; where nothing limits the size looks wait for that.
        step: In place of both losses, as in `outgrow.Grower`; called with what grows and a batch.
        verbose: Whether to print what was seen and done.
        options: Further options of `outgrow.Grower`: `max_params`, `policy` and so on. Without `sample` and
            `check_flops` looks take about 2 % of a run whose end is known, 10 % where it is short, and one that is too
            short for that has fewer of them, at least one.

    Attributes:
        grower: The Grower, from the start of training on.
        history: Every check so far.

    Raises:
        InputError: An argument is unknown or out of range; later, the module, the optimizer or the strategy is not
            one that can grow.
    """

    def __init__(
        self,
        loss: Loss | None = None,
        *,
        example: Any = None,
        network: str | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        loader: Iterable[Any] | None = None,
        monitor: str | None = None,
        step: Step | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        if unknown := options.keys() - OPTIONS:
            raise InputError(f"Growing: no option {sorted(unknown)[0]}: expected one of {', '.join(sorted(OPTIONS))}")
        given = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}
        for name, every in given.items():
            if every is not None and every < 1:
                raise InputError(f"Growing: expected {name} of at least 1, received {every}")
        if None not in given.values():
            raise InputError("Growing: expected every_n_epochs or every_n_steps, received both")
        self._loss, self._step, self._example, self._network = loss, step, example, network or ""
        self._every_n_epochs, self._every_n_steps = every_n_epochs, every_n_steps
        self._loader, self._monitor, self._verbose, self._options = loader, monitor, verbose, options
        self.grower: Grower | None = None
        self._module: LightningModule | None = None
        self._record: dict[str, Any] | None = None  # of a checkpoint, or of the fit before
        self._looked = (0, 0)  # epoch and step of the last look
        self._steps = math.inf  # of the run
        self._allowance: Allowance | None = None
        self._held_out = math.nan

    @property
    def history(self) -> list[Event]:
        """Every check so far."""
        return self.grower.history if self.grower else []

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Check that this module can grow here, and wait for a checkpoint."""
        if self._module is not pl_module:
            self._module, self.grower, self._record = pl_module, None, None
        if stage == "fit":
            demand_supported(trainer, pl_module)
            callbacks: Any = vars(trainer)["callbacks"]
            if (count := sum(isinstance(callback, Growing) for callback in callbacks)) > 1:
                raise InputError(
                    f"expected one Growing, received {count}, and checkpoints hold the record of one: let it grow the "
                    "part of the module that holds all that should grow, Growing(network=...)"
                )
            self._record = self._recorded()
            self.grower = None
        self._listen(trainer, pl_module)

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Make the Grower, and go on from a checkpoint."""
        optimizer = only_one(trainer.optimizers)
        demand_held(optimizer, pl_module)
        self._batches = Batches(trainer, pl_module, self._loader)
        self._steps = trainer.estimated_stepping_batches
        with self._batches.own_chance(0):
            self.grower = self._grower(trainer, pl_module, optimizer)
            self._allow(trainer, self.grower)
        self._take_up(trainer.current_epoch, trainer.global_step)
        self._own = set(map(id, self.grower.model.parameters()))
        self._log(trainer, [])

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Look whether the module should grow, if it is time and no gradients are pending."""
        assert self.grower is not None
        if batch_idx % trainer.accumulate_grad_batches or not self._due(trainer, batch_idx):
            return
        self._looked = (trainer.current_epoch, trainer.global_step)
        demand_held(only_one(self.grower.optimizers), pl_module, self._own, self.grower.model)
        if self._allowance is not None:
            self._allowance.renew_()
        seen = len(self.history)
        with self._batches.own_chance(trainer.global_step):
            self.grower.check(self._batches, *self._moment(trainer, batch_idx), held_out=self._held_out)
        events = self.history[seen:]
        if any(event.growths for event in events):
            self._own = set(map(id, self.grower.model.parameters()))
            self._held_out = math.nan  # was that of the smaller network
            wrap_again_(trainer, pl_module)
        self._log(trainer, events)
        if self._verbose:
            for event in events:
                pl_module.print(f"step {trainer.global_step}: {event}")

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Note the loss of the validation part, which is that of the network until it grows."""
        if self._monitor is not None and not trainer.sanity_checking:
            told = Ranks().mean(float(trainer.callback_metrics.get(self._monitor, math.nan)))  # each logs its own
            self._held_out = self._held_out if math.isnan(told) else told

    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """Add the record of the growth."""
        self._save(checkpoint)

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Leave the module's own hooks as they were."""
        self._stop_listening(pl_module)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Leave the module's own hooks as they were."""
        self._stop_listening(pl_module)

    def _allow(self, trainer: "Trainer", grower: Grower) -> None:
        """Let looks take a small share of the run, where its end is known and no option says what they read."""
        self._allowance = None
        if math.isfinite(self._steps) and not self._options.keys() & {"sample", "check_flops"}:
            rows = sum(Ranks().gathered(rows_in(next(iter(self._batches), ()))))
            events = self._record["events"] if self._record else None
            self._allowance = Allowance.of_run(grower, int(self._steps), rows * trainer.accumulate_grad_batches, events)

    def _take_up(self, epoch: int, step: int) -> None:
        """Go on where the record ends; the last look was now, if there is none, or it is of a longer run."""
        assert self.grower is not None
        self._looked, self._held_out = (epoch, step), math.nan
        if self._record is None:
            return
        self.grower.load_state_dict(self._record["grower"])
        looked = self._record["looked"]
        if looked[0] <= epoch and looked[1] <= step:
            self._looked, self._held_out = (looked[0], looked[1]), self._record["held_out"]

    def _grower(self, trainer: "Trainer", module: "LightningModule", optimizer: Optimizer) -> Grower:
        model = module.get_submodule(self._network)
        demand_forward(model)
        step = self._step
        if self._loss is None and step is None:
            step = TrainingStep(module, self._network)
        example = self._example if self._example is not None else module.example_input_array
        if example is None:
            example = Ranks().agreed(inputs_of(self._batches))
        example = pytree.tree_map(lambda x: x.to(module.device) if hasattr(x, "to") else x, example)
        averages = averages_of(trainer)
        if averages and self._network:
            raise InputError("Growing: averages are of the whole module: expected network=None, received a name")
        return Grower(model, optimizer, self._loss, example, step=step, averages=averages, **self._options)

    def _due(self, trainer: "Trainer", batch_idx: int) -> bool:
        epoch, step = trainer.current_epoch, trainer.global_step
        if (epoch, step) == self._looked or self._waits():
            return False
        if self._every_n_steps:
            return step // self._every_n_steps > self._looked[1] // self._every_n_steps
        if self._every_n_epochs:
            return epoch // self._every_n_epochs > self._looked[0] // self._every_n_epochs
        assert self.grower is not None
        if math.isinf(self._steps) or self.grower.budget.max_latency is not None:
            return epoch > self._looked[0]
        return self.grower.plan(*self._moment(trainer, batch_idx)) is not None

    def _waits(self) -> bool:
        """Whether the validation part has yet to judge what grew last, where nothing else ends the growth."""
        assert self.grower is not None
        grown = any(event.growths for event in self.history[-1:])
        tells = not all(math.isnan(event.held_out) for event in self.history)
        return grown and tells and math.isnan(self._held_out) and is_free(self.grower.situation())

    def _moment(self, trainer: "Trainer", batch_idx: int) -> tuple[float | None, float]:
        """Share of the run that is over, where it is known, and epochs so far."""
        progress = None if math.isinf(self._steps) else min(trainer.global_step / self._steps, 1.0)
        return progress, trainer.current_epoch + batch_idx / max(trainer.num_training_batches, 1)

    def _log(self, trainer: "Trainer", events: Sequence[Event]) -> None:
        assert self.grower is not None
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(metrics(self.grower, events), step=trainer.global_step)

    def _listen(self, trainer: "Trainer", module: "LightningModule") -> None:
        """Let the module grow again before a checkpoint's weights are loaded, and save the record with its weights."""
        self._stop_listening(module)
        load, save = module.on_load_checkpoint, module.on_save_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._record = checkpoint.get(KEY)
            regrow_(module, checkpoint, averages_of(trainer))
            load(checkpoint)

        def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._save(checkpoint)
            save(checkpoint)

        vars(module).update(on_load_checkpoint=on_load_checkpoint, on_save_checkpoint=on_save_checkpoint)

    def _stop_listening(self, module: "LightningModule") -> None:
        for name in ("on_load_checkpoint", "on_save_checkpoint"):
            vars(module).pop(name, None)

    def _save(self, checkpoint: dict[str, Any]) -> None:
        if (record := self._recorded()) is not None:
            checkpoint[KEY] = record

    def _recorded(self) -> dict[str, Any] | None:
        if self.grower is None:
            return self._record
        events = self._allowance.events if self._allowance else None
        looked = list(self._looked)
        return record_of(self.grower, self._network, looked=looked, held_out=self._held_out, events=events)


def averages_of(trainer: "Trainer") -> list[AveragedModel]:
    """List the averaged weights that callbacks of a trainer keep."""
    found = [getattr(callback, "_average_model", None) for callback in vars(trainer)["callbacks"]]
    return [average for average in found if isinstance(average, AveragedModel)]


def metrics(grower: Grower, events: Sequence[Event]) -> dict[str, float]:
    """Return what is logged after some checks.

    Args:
        grower: As it is now.
        events: The checks.

    Returns:
        Parameters, units of each axis, seconds; of growths that were judged also gains [nats], promised and realised.
    """
    found: dict[str, float] = {"outgrow/params": sum(p.numel() for p in grower.model.parameters())}
    found |= {f"outgrow/units/{name}": size for name, size in grower.sizes.items()}
    if events:
        found["outgrow/check_seconds"] = sum(event.seconds for event in events)
    judged = [growth for event in events for growth in event.growths if not math.isnan(growth.gain)]
    if judged:
        found["outgrow/gain"] = sum(growth.gain for growth in judged)
        found["outgrow/realised"] = sum(growth.realised for growth in judged)
    return found


def wrap_again_(trainer: "Trainer", module: "LightningModule") -> None:
    """Wrap a module that has grown for several processes anew, where the strategy does that."""
    strategy: Any = trainer.strategy
    if strategy.model is not module and hasattr(strategy, "configure_ddp"):
        strategy.model = module
        strategy.configure_ddp()
