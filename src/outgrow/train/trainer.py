"""The built-in training loop: it trains, lets a Grower grow the network, and saves a size before each growth."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.data import Dataset, Split
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.check import Verdict
from outgrow.grow.policies.pace import is_free
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Plan, Policy, Timetable
from outgrow.models import SeedNetwork
from outgrow.net.cost import parameters
from outgrow.net.resizing import settings_of
from outgrow.net.surgery import tensors_of
from outgrow.train.account import Account, Course
from outgrow.train.allowance import Allowance
from outgrow.train.average import restart_, settle_statistics_, settling_examples, update_
from outgrow.train.chance import seed_
from outgrow.train.checkpoints import Checkpoint, Checkpoints
from outgrow.train.circumstances import of_data, of_machine
from outgrow.train.divergence import FINITE_EVERY, DivergedError
from outgrow.train.energy import meter
from outgrow.train.evaluate import evaluate, loss_of
from outgrow.train.folder import RunFolder
from outgrow.train.grower import Grower
from outgrow.train.loaders import Loaders
from outgrow.train.overfitting import best_epoch, overfits
from outgrow.train.progress import Capture, Progress
from outgrow.train.ranks import Ranks
from outgrow.train.recipe import Recipe
from outgrow.train.saving import FamilyWriter
from outgrow.train.stages import staged
from outgrow.train.stepper import Stepper

Record = Mapping[str, Any]

HELD_OUT = 2_048  # validation examples, at most, that tell whether a growth has paid


class Trainer:
    """One run of `outgrow grow`.

    Args:
        dataset: What to learn.
        network: The seed network.
        recipe: How to train it.
        folder: Where everything is written; claimed already.
        budget: What the network may cost.
        max_train_flops: Floating-point operations that the whole run may take, checks included: the network stays so
            small that the rest of the run is affordable; None for no limit.
        reserved: Share of these that is left for what comes after the run.
        sizes: Sizes at which it shall stop for a stage each [parameters]; none for a run that is free.
        seed: Seed of everything random: runs with the same seed repeat bit for bit on one machine's CPU.
        device: Where to train.
        precision: In which precision to train; see `Stepper`.
        compiled: Whether to compile the network's training steps.
        policy: Makes the policy for this run's timetable: when to look and what to add.
        policy_name: What the journal calls it.
        on_record: Called with every record of the journal.
        on_step: Called with the number of steps done.
        checkpoint_every: Steps from one state in `resume/` to the next; as time allows if None.

    Raises:
        InputError: The budget is below the seed's size, or below what training the seed takes; or the precision is
            unknown, or batches can't be shared equally by the processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: SeedNetwork,
        recipe: Recipe,
        folder: RunFolder,
        *,
        budget: Budget | None = None,
        max_train_flops: float | None = None,
        reserved: float = 0.0,
        sizes: Sequence[int] = (),
        seed: int = 0,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
        policy: Callable[[Timetable], Policy] = Proportional.over,
        policy_name: str = "outgrow",
        on_record: Callable[[Record], None] = lambda record: None,
        on_step: Callable[[int], None] = lambda step: None,
        checkpoint_every: int | None = None,
    ) -> None:
        self._data, self._recipe, self._folder, self._device = dataset, recipe, folder, device
        self._on_record, self._on_step, self._seed = on_record, on_step, seed
        self._policy_name, self._compiled = policy_name, compiled
        seed_(device, seed)
        self._network = network
        self._model = network.build().to(device)
        recipe, self._budget = staged(recipe, budget or Budget(), sizes, parameters(self._model))
        self._planned = recipe
        self._optimizer = recipe.optimizer(self._model)
        self._average = AveragedModel(self._model)
        self._stepper = Stepper(self._model, self._optimizer, precision, compiled)
        self._loss, self._ranks = loss_of(dataset, recipe.smoothing), Ranks()
        self._told_loss = loss_of(dataset)
        self._loaders = Loaders(dataset, recipe, seed, device)
        self._train, self._full = self._loaders.train, self._loaders.full
        self._some = _spread(dataset.validation, HELD_OUT)
        if self._train.batch_size % self._ranks.count:
            raise InputError(
                f"--batch-size: expected a multiple of {self._ranks.count}, as so many processes share each batch "
                f"equally, received {self._train.batch_size}"
            )
        self._course = Course(
            steps=recipe.epochs * len(self._train),
            batch_size=self._train.batch_size,
            saving=settling_examples(self._model, self._full),
            share=recipe.share,
            events=recipe.events,
        )
        self._max_train_flops = max_train_flops
        self._account = Account(self._course, None if max_train_flops is None else (1 - reserved) * max_train_flops)
        self._grower = Grower(
            self._model,
            self._optimizer,
            self._loss,
            network.example().to(device),
            averages=[self._average],
            before_growth=self._before_growth,
            seed=seed,
        )
        self._grower.budget = self._budget
        try:
            self._budget.demand_room(self._grower.cost())
            self._account.demand_affordable(self._grower.flops, recipe.epochs)
        except InputError as error:
            kept = f" ({reserved:.0%} of what was given is kept for branches)" if reserved and max_train_flops else ""
            raise InputError(f"{error}{kept}: raise it, or {network.smaller}") from error
        table = Timetable(
            recipe.events, recipe.share, recipe.epochs, seed, device, parameters(self._model), tuple(sizes)
        )
        self._grower.policy = policy(table)  # says what its checks cost
        self._allowance = Allowance(self._grower, self._course)
        if sizes:
            self._allowance.events = recipe.events
        self._grower.policy = policy(replace(table, events=self._allowance.events))
        share = getattr(self._grower.policy, "share", recipe.share)
        self._recipe = recipe.holding_until(share)
        self._looks_until = getattr(self._grower.policy, "looks_until", share)
        self._family = FamilyWriter(folder, dataset.task)
        self._at = Progress(total=torch.zeros((), device=device))
        self._capture = Capture(self._grower, self._account, self._loaders, self._stepper, device)
        self._checkpoints = Checkpoints(folder, checkpoint_every)
        self._started, self._meter, self._resumed = time.perf_counter(), meter(device), False

    @property
    def policy(self) -> Policy:
        """What decides when and where the network grows."""
        return self._grower.policy

    @property
    def recipe(self) -> Recipe:
        """How the network is trained, with the events that wanted sizes ask for."""
        return self._planned

    @property
    def model(self) -> nn.Module:
        """The network as it is now."""
        return self._model

    @property
    def device(self) -> str:
        """Where the network is trained."""
        return self._device

    def resume(self, checkpoint: Checkpoint) -> None:
        """Put the run and its folder back to a state, from which `run` then goes on, bit for bit on the same CPU.

        Args:
            checkpoint: The state, of a run that was made with the same arguments.

        Raises:
            InputError: The network that comes out is not the one that was saved: its code has changed.
        """
        self._at = self._capture.put_back_(checkpoint)
        self._family.sizes = [dict(entry) for entry in checkpoint.family]
        self._family.write()
        self._checkpoints.rewind(checkpoint)
        self._started = time.perf_counter() - checkpoint.facts["seconds"]
        self._meter = meter(self._device, checkpoint.facts["joules"])
        self._resumed = True
        place = {"epoch": self._at.step / len(self._train), "step": self._at.step, "seconds": self._seconds()}
        self._record({"record": "resume", **place, **of_machine(self._device)})

    def run(self) -> dict[str, Any]:
        """Train to the end, from where the run is, or until the loss is no longer finite.

        Returns:
            What family.json holds.

        Raises:
            DivergedError: The loss became NaN or infinite; the last good size is saved.
            KeyboardInterrupt: The user stopped the run; what was saved before is whole.
        """
        if not self._resumed:
            self._record(self._start())
            self._checkpoint(if_due=False)
        try:
            for epoch in range(self._at.step // len(self._train) + 1, self._recipe.epochs + 1):
                mean = self._epoch()
                self._demand_finite(mean)
                record = self._epoch_record(epoch, mean)
                self._demand_finite(record["validation"]["loss"])
                self._record(record)
                self._keep_good()
                self._note(record["validation"])
                if self._overfits() and self._may_stop():
                    break
                self._checkpoint()
        except DivergedError as error:
            if self._at.good is not None:
                self._save_size(self._at.good)
            self._end(str(error))
            raise
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        self._save_last()
        self._end("finished")
        self._checkpoints.clear()
        return self._family.to_json()

    def _epoch(self) -> float:
        """Train for one epoch, or for what is left of it; return the mean loss."""
        at = self._at
        if at.epoch is None:
            at.epoch, at.total = iter(self._train), torch.zeros((), device=self._device)
        self._model.train()
        for x, y in at.epoch:
            if at.step % len(self._train) % FINITE_EVERY == 0:
                self._demand_finite(self._ranks.mean(float(at.total)))
                self._meter.read()
            self._check()
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate_at((self._at.step + 0.5) / self._course.steps)
            at.total += self._stepper.step_(self._loss, x, y)
            update_(self._average, self._model)
            at.step += 1
            self._account.train(self._grower.flops, len(y))
            self._on_step(at.step)
            if at.step % len(self._train):
                self._checkpoint()
        at.epoch = None
        self._ranks.level_(self._model.buffers())  # statistics of each one's share
        return self._ranks.mean(float(at.total)) / len(self._train)

    def _keep_good(self) -> None:
        """Keep a copy of the averaged weights."""
        self._at.good = self._kept(self._at.good)

    def _note(self, validation: Mapping[str, float]) -> None:
        """Note what the validation part said after an epoch, and keep the averaged weights of the best one."""
        at = self._at
        at.told.append(self._ranks.agreed(validation))
        if self._recipe.early_stopping and best_epoch(at.told) == len(at.told):
            at.best = self._kept(at.best)

    def _overfits(self) -> bool:
        return self._recipe.early_stopping and overfits(self._data.task, self._at.told)

    def _may_stop(self) -> bool:
        """Whether the planned growth is over and the rate has not begun to fall."""
        progress = self._at.step / self._course.steps
        return progress > self._looks_until and self._recipe.rate_at(progress) == self._recipe.rate

    def _save_last(self) -> None:
        """Save what the run ends with: the averaged weights, or those of the best epoch where it overfitted."""
        at = self._at
        if not self._overfits():
            return self._save_size()
        epochs = at.step // len(self._train)
        best = epochs - len(at.told) + best_epoch(at.told)
        self._record({"record": "overfitted", "epoch": epochs, "best_epoch": best})
        return self._save_size(at.best, best)

    @torch.no_grad()
    def _kept(self, kept: nn.Module | None) -> nn.Module:
        """A copy of the averaged weights, in place of an older one."""
        if kept is None:
            return copy.deepcopy(self._average.module)
        old, new = tensors_of(kept), tensors_of(self._average.module)
        torch._foreach_copy_(list(old.values()), list(new.values()))
        return kept

    def _demand_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged()

    def _diverged(self) -> DivergedError:
        return DivergedError(f"the loss was no longer finite at step {self._at.step:,}: lower the learning rate")

    def _check(self) -> None:
        """Let the network grow if it is time, and what is left of the training FLOPs is enough."""
        grower, account = self._grower, self._account
        progress, epoch = self._at.step / self._course.steps, self._at.step / len(self._train)
        self._allowance.renew_()
        self._limit_growth(account.most_after_check(grower.flops, self._at.step, lambda: 0))
        plan = grower.plan(progress, epoch)
        if self._budget.max_latency is not None:  # measured by each rank
            plan = self._ranks.agreed(plan)
        if plan is None:
            return
        most = account.most_after_check(grower.flops, self._at.step, lambda: grower.effort(plan).flops)
        if not most:
            return
        self._limit_growth(most)
        seen = len(grower.history)
        try:
            grower.check(self._ranks.shares(self._loaders.plain), progress, epoch, self._held_out(plan))
        except FloatingPointError as error:
            raise self._diverged() from error
        self._model.train()
        events = grower.history[seen:]
        account.check(events)
        if any(event.growths for event in events):
            self._stepper.renew()
        for event in events:
            if event.growths:
                self._at.good = self._at.best = None  # they have other shapes, and it is saved
                self._at.told.clear()
                restart_(self._average)
            self._at.blocks += [growth.where for growth in event.growths if growth.kind == "insert"]
            self._record({**event.to_json(), "step": self._at.step})

    def _held_out(self, plan: Plan) -> float:
        """The loss of the averaged weights on validation examples, where nothing but what it pays limits a growth."""
        if plan.evidence != "gain" or not plan.units or not is_free(self._grower.situation()):
            return math.nan
        settle_statistics_(self._average.module, self._full)
        self._account.settle(self._grower.flops)
        return self._evaluate(self._average.module, self._some)["loss"]

    def _limit_growth(self, most: float) -> None:
        """Let the network grow to so many forward FLOPs, within its budget."""
        if math.isfinite(most):
            most = max(int(most), self._grower.flops)
            limit = min(most, self._budget.max_flops or most)
            self._grower.budget = replace(self._budget, max_flops=limit)

    def _before_growth(self, verdict: Verdict) -> None:
        """Save the size that is about to grow, once a moment; the check that says so was spent before."""
        grower, account = self._grower, self._account
        account.check_early(verdict.flops)
        if self._at.saved_at != self._at.step:
            self._save_size()
        self._at.saved_at = self._at.step
        self._limit_growth(account.most_after_growth(grower.flops, self._at.step))

    def _save_size(self, model: nn.Module | None = None, epoch: float | None = None) -> None:
        """Save averaged weights with their own BatchNorm statistics, and how good they are; of now, or of an epoch."""
        model = self._average.module if model is None else model
        settle_statistics_(model, self._full)
        self._account.settle(self._grower.flops)
        entry = self._family.add(
            tensors_of(model),
            {
                "params": parameters(model),
                "flops": self._grower.flops,
                "axes": self._grower.sizes,
                "blocks": list(self._at.blocks),
                "settings": [asdict(setting) for setting in settings_of(model, self._grower.axes)],
                "validation": self._evaluate(model, self._data.validation),
                "test": self._evaluate(model, self._data.test) if self._data.test is not None else None,
                "train_flops": self._account.train_flops,
                "seconds": self._seconds(),
                "joules": self._meter.read(),
                "epoch": self._at.step / len(self._train) if epoch is None else epoch,
            },
        )
        self._record({"record": "size", **entry})

    def _evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return evaluate(model, self._loaders.in_order(split), self._told_loss, self._data.task)

    def _checkpoint(self, if_due: bool = True) -> None:
        """Save the state of the run; nothing of it changes."""
        if not self._ranks.is_first or (
            if_due and not self._checkpoints.due(self._at.step, between=self._at.epoch is None)
        ):
            return
        tensors, facts = self._capture.take(self._at)
        facts |= {"seconds": self._seconds(), "joules": self._meter.read()}
        self._checkpoints.save(self._at.step, tensors, facts, self._family.sizes)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _record(self, record: Record) -> None:
        self._folder.append(record)
        self._on_record(record)

    def _start(self) -> dict[str, Any]:
        return {
            "record": "start",
            **of_data(self._data),
            "model": self._network.model,
            "params": parameters(self._model),
            "flops": self._grower.flops,
            "axes": self._grower.sizes,
            "epochs": self._recipe.epochs,
            "steps": self._course.steps,
            **asdict(self._budget),
            "max_train_flops": self._max_train_flops,
            "policy": self._policy_name,
            "seed": self._seed,
            **of_machine(self._device),
            "precision": self._stepper.precision,
            "frozen": {axis.name: axis.reason for axis in self._grower.axes if not axis.growable},
        }

    def _epoch_record(self, epoch: int, mean: float) -> dict[str, Any]:
        return {
            "record": "epoch",
            "epoch": epoch,
            "step": self._at.step,
            "train_loss": mean,
            "rate": self._recipe.rate_at(self._at.step / self._course.steps),
            "validation": self._evaluate(self._model, self._data.validation),
            "params": parameters(self._model),
            "axes": self._grower.sizes,
            "train_flops": self._account.train_flops,
            "seconds": self._seconds(),
        }

    def _end(self, reason: str) -> None:
        totals = {**self._account.spent(), "seconds": self._seconds(), "joules": self._meter.read()}
        if self._compiled:
            totals["compile_seconds"] = self._stepper.compile_seconds
        self._family.total = totals
        self._family.write()
        self._record({"record": "end", "reason": reason, "epoch": self._at.step / len(self._train), **totals})


def _spread(split: Split, most: int) -> Split:
    """So many examples of a part at most, spread over it."""
    return split.part(slice(None, None, math.ceil(len(split) / most)))
