"""Branches: a short training of a size off the trunk, with a rate that falls to zero.

The trunk grows at a constant rate, so that its sizes have not settled when they are left. A branch starts from the
training state that the trunk had then, its rate falling linearly to zero. It learns from the targets, and from the
answers of the network with which the run ended, which are computed once. With f the forward FLOPs of one example, F
those of that network, S the steps of the run, b examples a step and n examples in all,

    steps of a branch    length S sqrt(F / f), at most S      smaller sizes were left earlier, and cost less
    FLOPs of it          3 f b steps
    of the answers       F n

The average of its weights is what is saved, in place of that of the trunk, if it is better on the validation part.
Where its loss is no longer finite, it is not.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from outgrow.data import Dataset, Split
from outgrow.errors import InputError
from outgrow.grow.curvature import Loss
from outgrow.models import SeedNetwork
from outgrow.net.deepen import deepen_
from outgrow.net.setting import Setting
from outgrow.net.surgery import tensors_of
from outgrow.train.average import SETTLE_BATCHES, averaged, settle_statistics_
from outgrow.train.distilled import Distilled, answers
from outgrow.train.divergence import FINITE_EVERY
from outgrow.train.energy import Meter, meter
from outgrow.train.evaluate import evaluate, loss_of, worth
from outgrow.train.finish import Finish
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import CHUNK, Loaders
from outgrow.train.recipe import Recipe
from outgrow.train.restored import restored
from outgrow.train.saving import FamilyWriter
from outgrow.train.trunk import Trunk

Entry = dict[str, Any]


class Branches:
    """Finishes sizes of a run, one by one; family.json always tells which are done.

    Args:
        dataset: What the run learned.
        network: Its seed network.
        recipe: How it was trained.
        folder: Its folder.
        finish: How to finish its sizes.
        limit: Floating-point operations that the whole run may take, trunk included; branches become as short as that
            asks for. None for no limit.
        seed: Seed of everything random.
        device: Where to train.
        on_record: Called with every record of the journal.
        on_step: Called with the number of steps of the branch.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: SeedNetwork,
        recipe: Recipe,
        folder: RunFolder,
        finish: Finish | None = None,
        *,
        limit: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._data, self._network, self._recipe, self._folder = dataset, network, recipe, folder
        self._finish, self._limit, self._seed, self._device = finish or Finish(), limit, seed, device
        self._on_record, self._on_step = on_record, on_step
        self._trunk, self._family = Trunk(folder), FamilyWriter.of(folder)
        self._loss, self._loaders = loss_of(dataset), Loaders(dataset, recipe, seed, device)
        self._course_steps = recipe.epochs * len(self._loaders.train)
        self._flops = 0  # since family.json was written last
        self._take_up()

    @property
    def sizes(self) -> list[Entry]:
        """The entries of family.json."""
        return self._family.sizes

    def is_possible(self, name: str) -> bool:
        """Whether the run kept a training state of a size; it has none of what it ended with, which is settled."""
        return self._trunk.has(name)

    def run(self, names: Sequence[str]) -> dict[str, Any]:
        """Finish some sizes; those that have been are left as they are, as are those of which no state was kept.

        Args:
            names: Which.

        Returns:
            What family.json holds then.

        Raises:
            InputError: There is no such size, or its training state is damaged.
        """
        known = {entry["name"]: entry for entry in self._family.sizes}
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{self._folder.path} has no size {unknown[0]!r}: it has {', '.join(known) or 'none'}")
        planned = [known[name] for name in names if self.is_possible(name)]
        factor = self._affordable(planned)
        for entry in planned:
            steps = int(factor * self._steps(entry))
            if steps and "quality" not in entry:
                self._branch(entry, steps)
        return self._family.to_json()

    def _take_up(self) -> None:
        """Repair what a stop between two writes left: half a line of the journal, or a record that is not there."""
        self._folder.mend_journal()
        told = {(one["name"], one.get("quality")) for one in self._folder.records() if one.get("record") == "size"}
        for entry in self._family.sizes:
            if "quality" in entry and (entry["name"], entry["quality"]) not in told:
                self._folder.append({"record": "size", **entry})

    def _steps(self, entry: Entry) -> int:
        """How many steps a branch takes where FLOPs are not limited."""
        share = self._finish.length * math.sqrt(self._teacher["flops"] / entry["flops"])
        return max(round(min(share, 1.0) * self._course_steps), 1)

    def _affordable(self, planned: Sequence[Entry]) -> float:
        """By what factor branches have to be shorter, the same whether some of them are done already or not."""
        if self._limit is None or not planned:
            return 1.0
        total, batch = self._family.total, self._loaders.train.batch_size
        fixed = total["train_flops"] - total.get("branch_flops", 0)
        fixed += sum(entry["flops"] * self._settling for entry in planned)
        fixed += self._teacher["flops"] * len(self._data.train) if self._finish.distil > 0 else 0
        training = sum(3 * entry["flops"] * batch * self._steps(entry) for entry in planned)
        return min(max((self._limit - fixed) / training, 0.0), 1.0)

    def _branch(self, entry: Entry, steps: int) -> None:
        """Finish one size."""
        began, energy = time.perf_counter(), meter(self._device, self._family.total.get("joules"))
        number = self._family.sizes.index(entry)
        torch.manual_seed(self._seed + number)
        self._on_record({"record": "branch", "of": entry["name"], "params": entry["params"], "steps": steps})
        net, optimizer = self._state_of(entry)
        loaders = Loaders(self._lessons, self._recipe, self._seed + 3 * (number + 1), self._device)
        settled = self._trained(net, optimizer, loaders, self._loss_for(entry), steps, energy)
        self._flops += 3 * entry["flops"] * steps * loaders.train.batch_size + entry["flops"] * self._settling
        better = None
        if settled is not None:
            settle_statistics_(settled, loaders.full)
            better = self._told(entry, settled)
        self._count(time.perf_counter() - began, energy.read())
        if better is not None:
            spent = {key: self._family.total[key] for key in ("train_flops", "seconds", "joules")}
            entry |= {**better, **spent, "epoch": entry["epoch"] + steps / len(loaders.train)}
        self._family.finish(entry, tensors_of(settled) if settled is not None and better is not None else None)
        record = {"record": "size", **entry}
        self._folder.append(record)
        self._on_record(record)

    def _trained(
        self, net: nn.Module, optimizer: Optimizer, loaders: Loaders, loss: Loss, steps: int, energy: Meter
    ) -> nn.Module | None:
        """Train with a falling rate; return the averaged weights, or None where the loss is no longer finite."""
        average, step, total = averaged(net), 0, torch.zeros((), device=self._device)
        while True:
            for x, y in loaders.train:
                for group in optimizer.param_groups:
                    group["lr"] = self._recipe.rate * (1 - (step + 0.5) / steps)
                net.train()
                now = loss(net(x), y)
                optimizer.zero_grad(set_to_none=True)
                now.backward()
                optimizer.step()
                average.update_parameters(net)
                total += now.detach()
                step += 1
                self._on_step(step)
                if step == steps or step % FINITE_EVERY == 0:
                    energy.read()
                    if not math.isfinite(float(total)):
                        return None
                if step == steps:
                    return average.module

    def _told(self, entry: Entry, net: nn.Module) -> Entry | None:
        """What family.json shall say of a finished network, None where it is no better than what was saved."""
        validation = self._evaluate(net, self._data.validation)
        if not self._is_better(validation, entry["validation"]):
            return None
        test = None if self._data.test is None else self._evaluate(net, self._data.test)
        return {"validation": validation, "test": test}

    def _count(self, seconds: float, joules: Mapping[str, Any]) -> None:
        """Count what a branch took."""
        total, flops = self._family.total, self._flops
        spent = {"train_flops": flops, "branch_flops": flops, "seconds": seconds, "branch_seconds": seconds}
        total |= {key: total.get(key, 0) + value for key, value in spent.items()} | {"joules": joules}
        self._flops = 0

    def _state_of(self, entry: Entry) -> tuple[nn.Module, Optimizer]:
        """The network as the trunk left it, with its optimizer."""
        with torch.random.fork_rng(devices=[]):
            net = self._network.build()
            for place in entry["blocks"]:
                deepen_(net, place, example=self._network.example())
        net = net.to(self._device)
        optimizer = self._recipe.optimizer(net)
        self._trunk.restore_(entry["name"], net, optimizer)
        return net, optimizer

    def _loss_for(self, entry: Entry) -> Loss:
        """The loss of outputs and numbers of examples."""
        targets = self._data.train.y.to(self._device)
        if self._finish.distil > 0 and self._is_student(entry):
            return Distilled(self._loss, targets, self._answers, self._finish.distil)
        return lambda z, index: self._loss(z, targets[index])

    @cached_property
    def _lessons(self) -> Dataset:
        """The data with the number of an example in place of its target."""
        train = self._data.train
        return replace(self._data, train=Split(train.x, torch.arange(len(train))))

    @property
    def _teacher(self) -> Entry:
        """What the run ended with."""
        return self._family.sizes[-1]

    def _is_student(self, entry: Entry) -> bool:
        """Whether a size is smaller than the teacher, and no better."""
        ahead = self._is_better(self._teacher["validation"], entry["validation"])
        return ahead and entry["params"] < self._teacher["params"]

    def _is_better(self, left: Mapping[str, float | None], right: Mapping[str, float | None]) -> bool:
        """Whether an evaluation is better than another one; of those that are equal, the one with the lower loss."""
        first, second = ((worth(self._data.task, one), -_known(one["loss"])) for one in (left, right))
        return first > second

    @cached_property
    def _answers(self) -> Tensor:
        entry = self._teacher
        settings = [Setting(**values) for values in entry["settings"]]
        tensors = self._folder.read_tensors(entry["file"], entry["sha256"])
        net = restored(self._network, entry["blocks"], tensors, settings).to(self._device)
        if "teacher" not in entry:  # else they are counted already, before a stop
            self._flops += entry["flops"] * len(self._data.train)
            entry["teacher"] = True
        return answers(net, self._data.train.x, CHUNK, self._device)

    @cached_property
    def _settling(self) -> int:
        """How many examples settle the statistics of a saved size."""
        full = self._loaders.full
        return min(len(full), SETTLE_BATCHES) * full.batch_size

    def _evaluate(self, net: nn.Module, split: Split) -> dict[str, float]:
        return evaluate(net, self._loaders.in_order(split), self._loss, self._data.task)


def _known(loss: float | None) -> float:
    return math.inf if loss is None else loss
