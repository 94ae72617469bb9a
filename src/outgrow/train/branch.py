"""Branches: the sizes of a run, cut out of what it ended with and trained on for a short while.

The sizes of a run have not settled when it leaves them: most of its training comes later. So each is finished on the
way back. The largest comes first. It is cut out of the network with which the run ended, and every other one out of the
smallest that contains it and has a branch (`outgrow.grow.reduction`), to the widths that it had when the run left it. A
short training follows, its rate falling linearly to zero after a warm-up. It learns from the targets, and from the
answers of the network with which the run ended, which are computed once. With f the forward FLOPs of one example, F
those of that network, S the steps of the run (up to its best epoch, if it overfitted), b examples a step and n
examples in all,

    steps of a branch    length S sqrt(F / f), at most S      smaller sizes are cut further, and cost less
    rate at its highest  that of the run times sqrt(F / f), 1 to `HIGHEST` times: they have further to go
    FLOPs of it          3 f b steps, and at most `CUT` of that for cutting it out, where that is enough
    of the answers       F n

A size that no larger one contains, because it has fewer blocks, is trained on from its own weights. The average of the
weights is what is saved, in place of those that the run left, if it is better on the validation part. Where its loss is
no longer finite, it is not. A size that is finished may get a longer branch later, which starts over: it is cut out of
what its base is by then, and saved if it is better than the branch before. Sizes between those that are finished may be
cut out without any training, which often is better than what the run left.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from outgrow.data import Dataset, Split
from outgrow.errors import GrowthError, InputError
from outgrow.grow.curvature import Loss
from outgrow.grow.effort import Effort
from outgrow.grow.objective import OutputLoss
from outgrow.grow.reduction import NOTHING, Reduction
from outgrow.models import SeedNetwork
from outgrow.net.axis import Axis
from outgrow.net.setting import Setting
from outgrow.net.surgery import tensors_of
from outgrow.train.average import settle_statistics_, settling_examples, update_
from outgrow.train.chance import seed_
from outgrow.train.distilled import Distilled, answers
from outgrow.train.divergence import FINITE_EVERY
from outgrow.train.energy import Meter, meter
from outgrow.train.evaluate import evaluate, loss_of, merit
from outgrow.train.finish import LENGTH, Finishing
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import CHUNK, Loaders
from outgrow.train.ranks import Ranks
from outgrow.train.recipe import Recipe
from outgrow.train.restored import restored
from outgrow.train.saving import FamilyWriter
from outgrow.train.stepper import Stepper

CUT = 0.1  # of the FLOPs of a branch, for cutting its network out of a larger one
WARMUP = 0.1  # of the steps of a branch
HIGHEST = 4.0  # times the rate of the run, at most

Entry = dict[str, Any]


class Branches:
    """Finishes sizes of a run, one by one; family.json always tells which are done.

    Args:
        dataset: What the run learned.
        network: Its seed network.
        recipe: How it was trained.
        folder: Its folder.
        finish: How to finish its sizes.
        limit: Floating-point operations that the whole run may take; branches become as short as that
            asks for. None for no limit.
        seed: Seed of everything random.
        device: Where to train.
        precision: In which precision to train; see `Stepper`.
        compiled: Whether to compile the training steps.
        on_record: Called with every record of the journal.
        on_step: Called with the number of steps of the branch.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: SeedNetwork,
        recipe: Recipe,
        folder: RunFolder,
        finish: Finishing | None = None,
        *,
        limit: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "fp32",
        compiled: bool = False,
        on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._data, self._network, self._recipe, self._folder = dataset, network, recipe, folder
        self._finish, self._limit, self._seed, self._device = finish or Finishing(), limit, seed, device
        self._precision, self._compiled = precision, compiled
        self._on_record, self._on_step = on_record, on_step
        self._family = FamilyWriter.of(folder)
        self._told_loss = loss_of(dataset)
        self._loss, self._loaders = loss_of(dataset, recipe.smoothing), Loaders(dataset, recipe, seed, device)
        self._flops, self._compile_seconds = 0, 0.0  # since family.json was written last
        self._axes: dict[str, Sequence[Axis]] = {}  # of sizes that others are cut out of, by name
        self._take_up()

    @property
    def sizes(self) -> list[Entry]:
        """The entries of family.json."""
        return self._family.sizes

    def run(self, names: Sequence[str], between: bool = False) -> dict[str, Any]:
        """Finish those of some sizes that are due, the largest first.

        Args:
            names: Which.
            between: Whether all others are cut out of them without training, where that is better than what they are.

        Returns:
            What family.json holds then.

        Raises:
            InputError: There is no such size, or the file of one is damaged.
        """
        known = {entry["name"]: entry for entry in self.sizes}
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{self._folder.path} has no size {unknown[0]!r}: it has {', '.join(known) or 'none'}")
        planned = [known[name] for name in names if self.is_due(known[name])]
        planned.sort(key=lambda entry: int(entry["params"]), reverse=True)
        for number, entry in enumerate(planned):
            self._branch(entry, planned[number:], {"number": number + 1, "count": len(planned)})
        for entry in reversed(self.sizes) if between else ():
            if entry is not self._teacher and "quality" not in entry:
                self._between(entry)
        return self._family.to_json()

    def is_due(self, entry: Entry) -> bool:
        """Return whether a size gets a branch: it had none, or, where FLOPs are not limited, only shorter ones."""
        if entry is self._teacher:
            return False
        if "finished" not in entry:
            return True
        return self._limit is None and self._steps(entry) > entry.get("branch_steps", self._steps(entry, LENGTH))

    def _take_up(self) -> None:
        """Repair what a stop between two writes left: half a line of the journal, or a record that is not there.

        Read from it, too, how long the run was, and when it left each size.
        """
        self._folder.mend_journal()
        journal = self._folder.records()
        stopped = next((one for one in journal if one.get("record") == "overfitted"), {})
        self._course_steps = stopped.get("best_epoch", self._recipe.epochs) * len(self._loaders.train)
        records = [one for one in journal if one.get("record") == "size"]
        told = [_mark(one) for one in records]
        # [epochs]: what was told of each size first
        self._left_at = {one["name"]: one["epoch"] for one in (*self._family.sizes, *reversed(records))}
        for entry in self._family.sizes:
            if _mark(entry) not in told:
                self._folder.append({"record": "size", **entry})

    def _steps(self, entry: Entry, length: float | None = None) -> int:
        """How many steps a branch takes where FLOPs are not limited."""
        share = (length or self._finish.length) * self._further(entry)
        return max(round(min(share, 1.0) * self._course_steps), 1)

    def _rate(self, entry: Entry) -> float:
        """The rate of a branch at its highest."""
        return self._recipe.rate * min(max(self._further(entry), 1.0), HIGHEST)

    def _further(self, entry: Entry) -> float:
        """How much further a size has to go than the largest: sqrt(F / f)."""
        return math.sqrt(self._teacher["flops"] / entry["flops"])

    def _training(self, entry: Entry, steps: int) -> int:
        """What steps of a size take [flops]."""
        return 3 * int(entry["flops"]) * self._loaders.train.batch_size * steps

    def _left(self, planned: Sequence[Entry]) -> float:
        """What branches may take for cutting and training, beside what they take in any case [flops]."""
        if self._limit is None:
            return math.inf
        settling = sum(entry["flops"] for entry in planned) * self._settling
        answers = 0 if "teacher" in self._teacher or not self._finish.distil else self._answering
        return max(self._limit - self._family.total["train_flops"] - settling - answers, 0.0)

    def _branch(self, entry: Entry, planned: Sequence[Entry], place: Mapping[str, int]) -> None:
        """Finish a size.

        Args:
            entry: The size.
            planned: It and those that follow, which share what is left.
            place: Its number among those that are finished, and their count.
        """
        began, energy = time.perf_counter(), meter(self._device, self._family.total.get("joules"))
        number, wanted = self.sizes.index(entry), self._steps(entry)
        seed_(self._device, self._seed + number)
        net, cut = self._start(entry)
        left, step = self._left(planned), self._training(entry, 1)
        share = min(left / sum((1 + CUT) * self._training(one, self._steps(one)) for one in planned), 1.0)
        effort = cut.effort(CUT * share * step * wanted, len(self._data.train)) if cut else NOTHING
        room = left if share == 1 else share * (1 + CUT) * step * wanted
        steps = int(min(wanted, (room - effort.flops) / step))
        if steps < 1:
            return
        start = base_of(entry, self.sizes)["name"]
        if cut is None or not self._cut(cut, effort, entry):
            net, start = self._saved(entry), entry["name"]
        about = {"of": entry["name"], "params": entry["params"], "steps": steps, "start": start}
        self._on_record({"record": "branch", **about, **place})
        loaders = Loaders(self._lessons, self._recipe, self._seed + 3 * (number + 1), self._device)
        settled = self._trained(net, loaders, self._loss_for(entry), steps, self._rate(entry), energy)
        self._flops += self._training(entry, steps) + entry["flops"] * self._settling
        if settled is not None:
            settle_statistics_(settled, loaders.full)
        entry |= {"finished": True, "branch_steps": steps}
        self._save(entry, settled, "branch", start, (began, energy), steps / len(loaders.train))

    def _between(self, entry: Entry) -> None:
        """Cut a size out of a finished one, without training."""
        began, energy = time.perf_counter(), meter(self._device, self._family.total.get("joules"))
        base, left = base_of(entry, self.sizes), self._left([entry])
        net, cut = self._start(entry)
        if cut is None:
            return
        effort = cut.effort(min(left, CUT * self._training(entry, self._steps(entry))), len(self._data.train))
        if effort.flops > left:
            return
        made = net if self._cut(cut, effort, entry) else None
        if made is not None:
            settle_statistics_(made, Loaders(self._data, self._recipe, self._seed, self._device).full)
            self._flops += entry["flops"] * self._settling
        self._save(entry, made, "cut", base["name"], (began, energy))

    def _save(
        self,
        entry: Entry,
        net: nn.Module | None,
        quality: str,
        start: str,
        since: tuple[float, Meter],
        epochs: float = 0.0,
    ) -> None:
        """Save a network in place of what there is of a size, if it is better, and count what it took."""
        better = None if net is None else self._told(entry, net)
        began, energy = since
        self._count(time.perf_counter() - began, energy.read())
        if net is not None and better is not None:
            spent = {key: self._family.total[key] for key in ("train_flops", "seconds", "joules")}
            entry |= {**better, **spent, "epoch": self._left_at[entry["name"]] + epochs, "start": start}
            self._family.replace(entry, quality, tensors_of(net))
        else:
            self._family.keep(entry)
        record = {"record": "size", **entry}
        self._folder.append(record)
        if better is not None or quality == "branch":
            self._on_record(record)

    def _start(self, entry: Entry) -> tuple[nn.Module, Reduction | None]:
        """What a branch starts from: a larger network and how it is to be cut down, or the size as the run left it."""
        base = base_of(entry, self.sizes)
        net = self._saved(base)
        if base is entry:
            return net, None
        try:
            example, known = self._network.example().to(self._device), self._axes.get(base["name"], ())
            cut = Reduction(net, entry["axes"], example, known)
        except GrowthError:  # an axis of its own that is not one of the network
            return self._saved(entry), None
        self._axes[base["name"]] = cut.axes
        return net, cut

    def _cut(self, cut: Reduction, effort: Effort, entry: Entry) -> bool:
        """Cut a network down, in place; return whether that could be done."""
        seed = self._seed + self.sizes.index(entry)
        loader = Loaders(self._data, self._recipe, seed, self._device).plain
        self._flops += effort.flops
        try:
            cut.apply_(loader, effort, OutputLoss(self._loss), torch.Generator().manual_seed(seed))
        except GrowthError:  # its layers do not fit each other any more
            return False
        self._axes[entry["name"]] = cut.axes
        return True

    def _saved(self, entry: Mapping[str, Any]) -> nn.Module:
        """A size as it is saved."""
        settings = [Setting(**values) for values in entry["settings"]]
        tensors = self._folder.read_tensors(entry["file"], entry["sha256"])
        return restored(self._network, entry["blocks"], tensors, settings).to(self._device)

    def _trained(
        self, net: nn.Module, loaders: Loaders, loss: Loss, steps: int, rate: float, energy: Meter
    ) -> nn.Module | None:
        """Train with a falling rate; return the averaged weights, or None where the loss is no longer finite."""
        optimizer, ranks = self._recipe.optimizer(net), Ranks()
        stepper = Stepper(net, optimizer, self._precision, self._compiled)
        average, step, total = AveragedModel(net), 0, torch.zeros((), device=self._device)
        net.train()
        while True:
            for x, y in loaders.train:
                done = (step + 0.5) / steps
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(done / WARMUP, 1.0) * (1 - done)
                total += stepper.step_(loss, x, y)
                update_(average, net)
                step += 1
                self._on_step(step)
                if step == steps or step % FINITE_EVERY == 0:
                    energy.read()
                    if not math.isfinite(ranks.mean(float(total))):
                        return None
                if step == steps:
                    self._compile_seconds += stepper.compile_seconds
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
        if self._compiled:
            spent["compile_seconds"] = self._compile_seconds
        total |= {key: total.get(key, 0) + value for key, value in spent.items()} | {"joules": joules}
        self._flops, self._compile_seconds = 0, 0.0

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
        return replace(self._data, train=replace(train, y=torch.arange(len(train))))

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
        return merit(self._data.task, left) > merit(self._data.task, right)

    @cached_property
    def _answers(self) -> Tensor:
        entry = self._teacher
        net = self._saved(entry)
        if "teacher" not in entry:  # else they are counted already, before a stop
            self._flops += self._answering
            entry["teacher"] = True
        return answers(net, self._data.train.x, CHUNK, self._device)

    @property
    def _answering(self) -> int:
        """What the answers of the teacher take [flops]."""
        return int(self._teacher["flops"]) * len(self._data.train)

    @cached_property
    def _settling(self) -> int:
        """How many examples settle the statistics of a saved size."""
        with torch.random.fork_rng(devices=[]):  # of a network that is looked at, and not trained
            return settling_examples(self._network.build(), self._loaders.full)

    def _evaluate(self, net: nn.Module, split: Split) -> dict[str, float]:
        return evaluate(net, self._loaders.in_order(split), self._told_loss, self._data.task)


def _mark(size: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the records of a size apart."""
    return tuple(size.get(key) for key in ("name", "quality", "finished", "branch_steps"))


def base_of(entry: Mapping[str, Any], sizes: Sequence[Entry]) -> Mapping[str, Any]:
    """Return what a branch starts from.

    Args:
        entry: The size that it finishes.
        sizes: All of them, what the run ended with last.

    Returns:
        The smallest of those whose branch was better, and of the last one, that is no smaller on any axis; the size
        itself where there is none.

    Examples:
        >>> small, other, last = ({"params": n, "blocks": [], "axes": {"0": n}} for n in (10, 20, 30))
        >>> base_of(small, [small, other, last]) is last, base_of(last, [small, other, last]) is last
        (True, True)
    """
    finished = [one for one in sizes if one is sizes[-1] or one.get("quality") == "branch"]
    bases = [one for one in finished if _contains(one, entry)]
    return min(bases, key=lambda one: int(one["params"]), default=entry)


def _contains(larger: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    if larger is entry or larger["blocks"] != entry["blocks"] or larger["axes"].keys() != entry["axes"].keys():
        return False
    return all(larger["axes"][name] >= size for name, size in entry["axes"].items())
