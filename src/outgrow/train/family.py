"""The family: every size that a run saved, and how to choose and load one."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from outgrow.errors import InputError
from outgrow.models import Factory, seed_from_json
from outgrow.net.cost import parameters
from outgrow.stored import Stored
from outgrow.train.evaluate import METRICS
from outgrow.train.folder import RunFolder
from outgrow.train.restored import restored
from outgrow.train.saving import FORMAT
from outgrow.train.size import Size
from outgrow.train.sizes import Sizes


class Family(Sizes):
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
        self.config: Mapping[str, Any] = config.values
        self.total: Mapping[str, Any] = family.within("total").values
        self._seed_network = config.within("seed_network")
        sizes = [Size.from_json(entry, self._load) for entry in family.each("sizes")]
        task = family.one_of("task", *METRICS)
        super().__init__(sizes, task, self._seed_network.wholes("inputs", least=1), str(self.path))
        file, seen = self.path / "family.json", set[str]()
        for size in sizes:
            if size.name in seen:
                raise InputError(f"{file}: expected names that differ, received {size.name} twice")
            if self.metric not in size.validation:
                raise InputError(f"{file}: expected the validation {self.metric} of {size.name}")
            seen.add(size.name)

    def _read(self, name: str) -> Stored:
        stored = Stored(self._folder.read_json(name), str(self.path / name))
        stored.demand_format(FORMAT)
        return stored

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
