"""One measurement of what a check costs, beside a training step of the same network."""

import copy
import cProfile
import pstats
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from bottlenecks import BottleneckNet
from peak import timed
from torch import nn

from outgrow.data import Dataset, Split
from outgrow.grow.event import Candidate
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan, Present, Situation
from outgrow.models import Seed
from outgrow.models.resnet import ResNet
from outgrow.net.cost import parameters
from outgrow.train.folder import RunFolder
from outgrow.train.grower import Grower
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer

BATCH = 128  # of a training step
CIFAR = Seed("resnet", (3, 32, 32), 10, (14, 28, 56))
TRAINING = 45_000  # examples of CIFAR-10 that `outgrow grow` trains on


@dataclass(frozen=True)
class Point:
    """What to measure.

    Args:
        what: The series.
        value: Width, depth, pixels or sample size.
        sample: Examples of each part; 0 for what the default run of `outgrow grow` would take.
    """

    what: str
    value: int
    sample: int

    def network(self) -> tuple[nn.Module, tuple[int, ...], int]:
        """Return a fresh network, the shape of one example and the number of outputs."""
        if self.what == "resnet":
            return CIFAR.build(), CIFAR.inputs, 10
        if self.what == "depth":
            return ResNet(3, (16,), 10, depth=self.value), (3, 8, 8), 10
        if self.what.startswith("large"):
            return BottleneckNet(), (3, self.value, self.value), 1000
        width = self.value if self.what == "width" else 16
        return Seed("convnet", (3, 8, 8), 10, (width,) * 4).build(), (3, 8, 8), 10

    @property
    def units(self) -> int | None:
        """How many units to put on trial on each axis; None for a quarter of what is there."""
        return 2 if self.what.startswith("large") else None

    @property
    def batch(self) -> int:
        """Examples of a training step."""
        return self.sample if self.what.startswith("large") else BATCH


POINTS = {
    "resnet": [Point("resnet", 32, 0), Point("resnet", 32, 1024)],
    "width": [Point("width", width, 128) for width in (8, 16, 32, 64, 128, 256, 512)],
    "depth": [Point("depth", depth, 128) for depth in (2, 4, 8, 16, 32)],
    "sample": [Point("sample", size, size) for size in (128, 256, 512, 1024, 2048, 4096, 8192)],
    "large": [Point("large", 64, 64)],
    "large224": [Point("large224", 224, 64)],
}
QUICK = {
    "resnet": [Point("resnet", 32, 0)],
    "width": [Point("width", width, 32) for width in (8, 32)],
    "depth": [Point("depth", depth, 32) for depth in (2, 4)],
    "sample": [Point("sample", size, size) for size in (64, 128)],
    "large": [Point("large", 32, 4)],
}


class Takes:
    """A policy that offers units on every axis and takes them all.

    Args:
        units: How many on each axis; a quarter of what is there where absent.
    """

    def __init__(self, units: int | None = None) -> None:
        self.units = units

    def propose(self, now: Situation) -> Plan:
        """Return the units to try."""
        return Plan({axis: self.units or -(-size // 4) for axis, size in now.sizes.items()}, "always")

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return them all."""
        return Decision({candidate.where: candidate.units for candidate in candidates}, "all")


def measure_step(point: Point, repeats: int, device: str) -> dict:
    """Time training steps of a network, after one that makes the optimizer's state."""
    model, inputs, outputs = point.network()
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(point.batch, *inputs, device=device)
    y = torch.randint(outputs, (point.batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    taken = [timed(step, device) for _ in range(max(repeats, 5))]
    return {
        "params": parameters(model),
        "batch": point.batch,
        "step_seconds": statistics.median(seconds for seconds, _ in taken),
        "step_peak_bytes": max(peak for _, peak in taken),
    }


def measure_check(point: Point, repeats: int, device: str) -> dict:
    """Time checks that grow the network, each of a copy; of the larger networks say in which functions it passes."""
    sample = point.sample or default_sample()
    model, inputs, outputs = point.network()
    optimizer = torch.optim.AdamW(model.to(device).parameters())
    x, y = torch.randn(2 * sample, *inputs, device=device), torch.randint(outputs, (2 * sample,), device=device)
    grower = Grower(
        model, optimizer, F.cross_entropy, x[:1], policy=Takes(point.units), sample=min(sample, 16), proposal="random"
    )
    copy.deepcopy(grower).check([(x, y)])  # the first one of a process imports and compiles
    grower.sample = sample
    taken, events = [], []
    for _ in range(repeats):
        one = copy.deepcopy(grower)
        taken.append(timed(lambda one=one: events.append(one.check([(x, y)])), device))
        del one
    return {
        "sample": sample,
        "axes": len(events[-1].candidates),
        "flops": grower.flops,
        "check_seconds": [round(seconds, 4) for seconds, _ in taken],
        "check_peak_bytes": max(peak for _, peak in taken),
        "check_flops": events[-1].flops,
        "parts": parts_of(copy.deepcopy(grower), [(x, y)]) if point.what.startswith(("resnet", "large")) else {},
    }


def parts_of(grower: Grower, loader: list, most: int = 20) -> dict[str, float]:
    """The functions of outgrow in which most time passed, their callees included [seconds]."""
    profiler, taken = cProfile.Profile(), dict[str, float]()
    profiler.runcall(grower.check, loader)
    for (file, _, name), (_, _, _, seconds, _) in pstats.Stats(profiler).stats.items():
        path = Path(file)
        if path.parent.name in ("grow", "net", "train") and path.parent.parent.name == "outgrow" and name[0] != "<":
            taken[f"{path.stem}.{name}"] = taken.get(f"{path.stem}.{name}", 0.0) + seconds
    longest = sorted(taken, key=taken.__getitem__, reverse=True)[:most]
    return {name: round(taken[name], 4) for name in longest}


class DueError(Exception):
    """The first check of a run is due."""


class Stops:
    """A policy that ends the run where the first check would start, of units as the default proposes them."""

    init = Proportional().init

    def propose(self, now: Situation) -> None:
        """Raise.

        Raises:
            DueError: Always.
        """
        raise DueError


def default_sample() -> int:
    """How many examples of each part the default run of `outgrow grow` takes for the network on CIFAR-10's images."""
    part = Split(torch.zeros(TRAINING, *CIFAR.inputs, dtype=torch.uint8), torch.zeros(TRAINING, dtype=torch.int64))
    names = tuple(map(str, range(10)))
    data = Dataset("blank", "classification", part, part, None, names, augment=False, description={})
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        folder.claim(overwrite=True)
        trainer = Trainer(data, CIFAR, Recipe.fit(TRAINING), folder, policy=lambda run: Stops())
        try:
            trainer.run()
        except DueError:
            return trainer._grower.effort().examples
    raise RuntimeError("the run ended without asking its policy")
