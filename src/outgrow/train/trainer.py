"""The built-in training loop: it trains, lets a Grower grow the network, and saves a size before each growth."""

import copy
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from outgrow import __version__
from outgrow.data import Batches, Dataset, Split
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.check import Verdict
from outgrow.grow.curvature import Loss
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Policy, Timetable
from outgrow.models.seed import Seed
from outgrow.net.cost import parameters
from outgrow.net.surgery import tensors_of
from outgrow.train.account import Account, Course, check_allowance
from outgrow.train.average import SETTLE_BATCHES, averaged, restart_, settle_statistics_
from outgrow.train.evaluate import METRICS, StandardizedMSE, evaluate
from outgrow.train.family import Family
from outgrow.train.folder import RunFolder
from outgrow.train.grower import Grower
from outgrow.train.recipe import Recipe

CHUNK = 256  # examples at once where nothing is trained
FINITE_EVERY = 16  # steps between two looks whether the loss is finite

Record = Mapping[str, Any]


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


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
        seed: Seed of everything random: runs with the same seed repeat bit for bit on one machine's CPU.
        device: Where to train.
        policy: Makes the policy for this run's timetable: when to look and what to add.
        policy_name: What the journal calls it.
        on_record: Called with every record of the journal.
        on_step: Called with the number of steps done.

    Raises:
        InputError: The budget is below the seed's size, or below what training the seed takes.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: Seed,
        recipe: Recipe,
        folder: RunFolder,
        *,
        budget: Budget | None = None,
        max_train_flops: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        policy: Callable[[Timetable], Policy] = Proportional.over,
        policy_name: str = "outgrow",
        on_record: Callable[[Record], None] = lambda record: None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._data, self._recipe, self._folder, self._device = dataset, recipe, folder, device
        self._on_record, self._on_step, self._seed = on_record, on_step, seed
        self._policy_name = policy_name
        self._budget = budget or Budget()
        torch.manual_seed(seed)
        self._network = network
        self._model = network.build().to(device)
        self._optimizer = recipe.optimizer(self._model)
        self._average = averaged(self._model)
        self._loss: Loss = F.cross_entropy
        if dataset.task == "regression":
            self._loss = StandardizedMSE(dataset.target_statistics()[1])
        self._batches = partial(Batches, device=device)
        self._train = self._batches(
            dataset.train,
            recipe.batch_size,
            shuffle=True,
            augment=dataset.augment,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        plain = partial(self._batches, dataset.train, CHUNK, shuffle=True)
        self._plain = plain(generator=torch.Generator().manual_seed(seed + 1))
        self._full = plain(generator=torch.Generator().manual_seed(seed + 2), drop_last=True)
        self._course = Course(
            steps=recipe.epochs * len(self._train),
            batch_size=self._train.batch_size,
            saving=min(len(self._full), SETTLE_BATCHES) * self._full.batch_size,
            share=recipe.share,
            events=recipe.events,
        )
        self._account = Account(self._course, max_train_flops)
        self._grower = Grower(
            self._model,
            self._optimizer,
            self._loss,
            network.example().to(device),
            averages=[self._average],
            before_growth=self._before_growth,
            seed=seed,
        )
        self._step = 0
        self._grower.budget = self._budget
        try:
            self._budget.demand_room(self._grower.cost())
            self._account.demand_affordable(self._grower.flops, recipe.epochs)
        except InputError as error:
            widths = " ".join(map(str, network.widths))
            raise InputError(f"{error}: raise it, or start with smaller widths than {widths}") from error
        table = Timetable(recipe.events, recipe.share, recipe.epochs, seed, device)
        self._grower.policy = policy(table)  # says what its checks cost
        self._events = self._fitting_events()
        self._grower.policy = policy(replace(table, events=self._events))
        self._recipe = recipe.holding_until(getattr(self._grower.policy, "share", recipe.share))
        self._family = Family(folder, dataset.task)
        self._good: nn.Module | None = None  # averaged weights at the end of the last epoch with a finite loss
        self._blocks: list[str] = []  # places of those that were inserted, in order
        self._saved_at = -1  # the step at which a size was saved last
        self._started = time.perf_counter()

    @property
    def policy(self) -> Policy:
        """What decides when and where the network grows."""
        return self._grower.policy

    def run(self) -> dict[str, Any]:
        """Train to the end, or until the loss is no longer finite.

        Returns:
            What family.json holds.

        Raises:
            DivergedError: The loss became NaN or infinite; the last good size is saved.
            KeyboardInterrupt: The user stopped the run; what was saved before is whole.
        """
        self._record(self._start())
        try:
            for epoch in range(1, self._recipe.epochs + 1):
                mean = self._epoch()
                self._demand_finite(mean)
                record = self._epoch_record(epoch, mean)
                self._demand_finite(record["validation"]["loss"])
                self._record(record)
                self._good = copy.deepcopy(self._average.module)
        except DivergedError as error:
            if self._good is not None:
                self._save_size(self._good)
            self._end(str(error))
            raise
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        self._save_size()
        self._end("finished")
        return self._family.to_json()

    def _epoch(self) -> float:
        """Train for one epoch; return the mean loss."""
        total, count = torch.zeros((), device=self._device), 0
        for x, y in self._train:
            if count % FINITE_EVERY == 0:
                self._demand_finite(float(total))
            self._check()
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate_at((self._step + 0.5) / self._course.steps)
            self._model.train()
            loss = self._loss(self._model(x), y)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._average.update_parameters(self._model)
            total += loss.detach()
            count += 1
            self._step += 1
            self._account.train(self._grower.flops, len(y))
            self._on_step(self._step)
        return float(total) / count

    def _demand_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged()

    def _diverged(self) -> DivergedError:
        return DivergedError(f"the loss was no longer finite at step {self._step:,}: lower the learning rate")

    def _check(self) -> None:
        """Let the network grow if it is time, and what is left of the training FLOPs is enough."""
        grower, account = self._grower, self._account
        progress, epoch = self._step / self._course.steps, self._step / len(self._train)
        grower.check_flops = check_allowance(self._course.training(self._events, grower.flops))
        self._limit_growth(account.most_after_check(grower.flops, self._step, lambda: 0))
        plan = grower.plan(progress, epoch)
        if plan is None:
            return
        most = account.most_after_check(grower.flops, self._step, lambda: grower.effort(plan).flops)
        if not most:
            return
        self._limit_growth(most)
        seen = len(grower.history)
        try:
            grower.check(self._plain, progress, epoch)
        except FloatingPointError as error:
            raise self._diverged() from error
        events = grower.history[seen:]
        account.check(events)
        for event in events:
            if event.growths:
                self._good = None  # it has other shapes, and is saved
                restart_(self._average)
            self._blocks += [growth.where for growth in event.growths if growth.kind == "insert"]
            self._record({**event.to_json(), "step": self._step})

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
        if self._saved_at != self._step:
            self._save_size()
        self._saved_at = self._step
        self._limit_growth(account.most_after_growth(grower.flops, self._step))

    def _fitting_events(self) -> int:
        """Return how many events the recipe asks for, or fewer where the run is too short for them."""
        self._grower.check_flops = 1.0  # as little as can be
        least = self._grower.effort()
        return self._course.fitting_events(self._grower.flops, self._grower.start_flops, least.flops + least.start)

    def _save_size(self, model: nn.Module | None = None) -> None:
        """Save averaged weights with their own BatchNorm statistics, and how good they are."""
        model = self._average.module if model is None else model
        settle_statistics_(model, self._full)
        self._account.save(self._grower.flops)
        entry = self._family.add(
            tensors_of(model),
            {
                "params": parameters(model),
                "flops": self._grower.flops,
                "axes": self._grower.sizes,
                "blocks": list(self._blocks),
                "validation": self._evaluate(model, self._data.validation),
                "test": self._evaluate(model, self._data.test) if self._data.test is not None else None,
                "train_flops": self._account.train_flops,
                "seconds": self._seconds(),
                "joules": None,
                "epoch": self._step / len(self._train),
            },
        )
        self._record({"record": "size", **entry})

    def _evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return evaluate(model, self._batches(split, CHUNK), self._loss, self._data.task)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _record(self, record: Record) -> None:
        self._folder.append(record)
        self._on_record(record)

    def _start(self) -> dict[str, Any]:
        data = self._data
        return {
            "record": "start",
            "data": data.name,
            "task": data.task,
            "metric": METRICS[data.task],
            "model": self._network.model,
            "params": parameters(self._model),
            "flops": self._grower.flops,
            "axes": self._grower.sizes,
            "epochs": self._recipe.epochs,
            "steps": self._course.steps,
            "max_params": self._budget.max_params,
            "max_flops": self._budget.max_flops,
            "max_latency": self._budget.max_latency,
            "max_train_flops": self._account.limit,
            "policy": self._policy_name,
            "seed": self._seed,
            "device": self._device,
            "threads": torch.get_num_threads(),
            "versions": {"outgrow": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "train_examples": len(data.train),
            "validation_examples": len(data.validation),
            "test_examples": len(data.test) if data.test is not None else 0,
            "frozen": {axis.name: axis.reason for axis in self._grower.axes if not axis.growable},
        }

    def _epoch_record(self, epoch: int, mean: float) -> dict[str, Any]:
        return {
            "record": "epoch",
            "epoch": epoch,
            "step": self._step,
            "train_loss": mean,
            "rate": self._recipe.rate_at(self._step / self._course.steps),
            "validation": self._evaluate(self._model, self._data.validation),
            "params": parameters(self._model),
            "axes": self._grower.sizes,
            "train_flops": self._account.train_flops,
            "seconds": self._seconds(),
        }

    def _end(self, reason: str) -> None:
        totals = {**self._account.spent(), "seconds": self._seconds(), "joules": None}
        self._family.total = totals
        self._family.write()
        self._record({"record": "end", "reason": reason, "epoch": self._step / len(self._train), **totals})
