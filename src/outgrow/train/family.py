"""The family: every size that a run saved, and how to choose and load one."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.models import Factory, seed_from_json
from outgrow.net.cost import parameters
from outgrow.net.latency import latency
from outgrow.pareto import pareto
from outgrow.stored import Stored
from outgrow.train.evaluate import METRICS, worth
from outgrow.train.folder import RunFolder
from outgrow.train.limits import Limit, at_least_accuracy, at_most_flops, at_most_latency, at_most_params, within
from outgrow.train.restored import restored
from outgrow.train.saving import FORMAT
from outgrow.train.size import Size
from outgrow.train.table import table


class Family:
    """The sizes of a run, smallest first: iterate over them, index them by name, choose and load one.

    family.json and config.json are read once, when the family is made; tensors when a size is loaded, and compared with
    their checksum then. No file runs code.

    Args:
        run: The run folder.

    Attributes:
        path: The run folder.
        task: `classification` or `regression`.
        metric: What sizes are compared by on the validation part: `accuracy`, or `rmse`.
        inputs: Shape of one example.
        config: What config.json holds.
        total: What the run took; empty while it goes on.

    Raises:
        InputError: The folder is no run, or one of these files is damaged or from a newer version.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._folder = RunFolder(run)
        self.path = self._folder.path
        family = self._read("family.json")
        config = self._read("config.json")
        self.task = family.one_of("task", *METRICS)
        self.metric = METRICS[self.task]
        self.config: Mapping[str, Any] = config.values
        self.total: Mapping[str, Any] = family.within("total").values
        self._seed_network = config.within("seed_network")
        self.inputs = self._seed_network.wholes("inputs", least=1)
        self._sizes: dict[str, Size] = {}
        self._seconds: dict[str, float] = {}  # of one forward pass, by the name of the size
        for entry in family.each("sizes"):
            size = Size.from_json(entry, self._load)
            if size.name in self._sizes:
                raise InputError(f"{self.path / 'family.json'}: expected names that differ, received {size.name} twice")
            if self.metric not in size.validation:
                raise InputError(f"{self.path / 'family.json'}: expected the validation {self.metric} of {size.name}")
            self._sizes[size.name] = size

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Size]:
        return iter(sorted(self._sizes.values(), key=lambda size: size.params))

    def __getitem__(self, name: str) -> Size:
        if name not in self._sizes:
            raise InputError(f"{self.path} has no size {name!r}: it has {', '.join(self._sizes) or 'none'}")
        return self._sizes[name]

    def __repr__(self) -> str:
        if not self._sizes:
            return f"Family({str(self.path)!r}: no sizes)"
        first, *_, last = [size.params for size in self] * 2
        return f"Family({str(self.path)!r}: {self.task}, {len(self)} sizes of {first:,} to {last:,} parameters)"

    def pareto(self) -> list[Size]:
        """Return the sizes that no smaller one is as good as on the validation part, smallest first."""
        return pareto(self, lambda size: size.params, self._worth)

    def table(self) -> str:
        """Return the family as a table in plain text, which is Markdown, too."""
        return table(list(self), self.metric)

    def choose(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        min_accuracy: float | None = None,
        seed: Factory | None = None,
    ) -> Size:
        """Return the best size on the validation part within some limits, of equals the smallest.

        With `min_accuracy` it is the smallest within them.

        Args:
            max_params: At most so many parameters.
            max_flops: At most so many FLOPs for one example.
            max_latency: At most so many seconds for one example, measured here and now (CPU, the threads that are set):
                of the sizes within the other limits, the preferred first, until one is fast enough.
            min_accuracy: At least this validation accuracy, 0 to 1.
            seed: As for `load`; needed to measure a latency.

        Returns:
            The size.

        Raises:
            InputError: No size is within the limits (the one that comes closest is named), or a limit is no limit.
        """
        Budget(max_params, max_flops, max_latency)  # says what is no limit
        limits = [at_most_params(max_params)] if max_params is not None else []
        limits += [at_most_flops(max_flops)] if max_flops is not None else []
        limits += [self._accuracy(min_accuracy)] if min_accuracy is not None else []
        if not self._sizes:
            raise InputError(f"{self.path} has not saved a size yet")
        fits = within(list(self), limits, str(self.path))
        fits.sort(key=self._cost_first if min_accuracy is not None else self._worth_first)
        if max_latency is None:
            return fits[0]
        limit = at_most_latency(max_latency, lambda size: self._latency(size, seed))
        fast = next((size for size in fits if limit.excess(size) <= 0), None)
        return fast or within(fits, [*limits, limit], str(self.path))[0]

    def load(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        min_accuracy: float | None = None,
        seed: Factory | None = None,
    ) -> nn.Module:
        """Load the best size on the validation part within some limits.

        Args:
            max_params: As for `choose`.
            max_flops: As for `choose`.
            max_latency: As for `choose` [seconds].
            min_accuracy: As for `choose`.
            seed: What makes the seed network of a run with `--model package.module:factory`: the factory, its name, or
                a network that it made. A file names it, but no module is imported for that.

        Returns:
            The network in eval mode, on the CPU. It takes images scaled to 0..1, or table rows as encoded, and gives
            logits, or predictions in the target's own units.

        Raises:
            InputError: No size is within the limits, or its file is missing or damaged, or the code of the seed network
                is missing or has changed.
        """
        limits: dict[str, Any] = {"max_params": max_params, "max_flops": max_flops, "max_latency": max_latency}
        return self.choose(**limits, min_accuracy=min_accuracy, seed=seed).load(seed)

    def _read(self, name: str) -> Stored:
        stored = Stored(self._folder.read_json(name), str(self.path / name))
        stored.demand_format(FORMAT)
        return stored

    def _worth(self, size: Size) -> float:
        return worth(self.task, size.validation)

    def _worth_first(self, size: Size) -> tuple[float, float]:
        return -self._worth(size), size.params

    def _cost_first(self, size: Size) -> tuple[float, float]:
        return size.params, -self._worth(size)

    def _accuracy(self, least: float) -> Limit:
        if self.task != "classification":
            raise InputError(f"{self.path} is a regression: it has no accuracy to ask for")
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            raise InputError(f"expected min_accuracy as a number from 0 to 1, received {least!r}")
        return at_least_accuracy(least)

    def _latency(self, size: Size, seed: Factory | None) -> float:
        if size.name not in self._seconds:
            self._seconds[size.name] = latency(self._load(size, seed), torch.zeros(1, *self.inputs))
        return self._seconds[size.name]

    def _load(self, size: Size, factory: Factory | None) -> nn.Module:
        try:
            seed = seed_from_json(self._seed_network, factory)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        tensors = self._folder.read_tensors(size.file, size.sha256)
        try:
            net = restored(seed, size.blocks, tensors, size.settings)
        except InputError as error:
            raise InputError(f"{self.path / size.file} can't be loaded: {error}") from error
        if (count := parameters(net)) != size.params:
            raise InputError(f"{self.path / size.file} has {count:,} parameters, and family.json says {size.params:,}")
        return net


def load(
    run: str | os.PathLike[str],
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    max_latency: float | None = None,
    min_accuracy: float | None = None,
    seed: Factory | None = None,
) -> nn.Module:
    """Load the best saved size of a run within some limits: `Family(run).load(...)`.

    Args:
        run: The run folder.
        max_params: At most so many parameters.
        max_flops: At most so many FLOPs for one example.
        max_latency: At most so many seconds for one example, measured here and now.
        min_accuracy: At least this validation accuracy, 0 to 1; the smallest such size is loaded.
        seed: What makes the seed network, where it is one of the user's own; see `Family.load`.

    Returns:
        The network in eval mode, on the CPU. It takes images scaled to 0..1, or table rows as encoded, and gives
        logits, or predictions in the target's own units.

    Raises:
        InputError: The folder is no run, a file is damaged, or no size is within the limits.
    """
    limits: dict[str, Any] = {"max_params": max_params, "max_flops": max_flops, "max_latency": max_latency}
    return Family(run).load(**limits, min_accuracy=min_accuracy, seed=seed)
