"""The family: every size that a run saved, and how to load one."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from outgrow.errors import GrowthError, InputError
from outgrow.models.seed import Seed
from outgrow.net.carry import adopt_shapes_
from outgrow.net.deepen import deepen_
from outgrow.train.evaluate import METRICS, better
from outgrow.train.folder import RunFolder


class Family:
    """The sizes of a run while it saves them; family.json always tells what is on disk.

    Args:
        folder: The run folder.
        task: `classification` or `regression`.
    """

    def __init__(self, folder: RunFolder, task: str) -> None:
        self._folder = folder
        self._task = task
        self.sizes: list[dict[str, Any]] = []
        self.total: dict[str, Any] = {}

    def add(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Save a size: its tensors, and what family.json says of it.

        Args:
            tensors: State dict of the network.
            facts: The fields of architecture.md's format but `name` and `file`.

        Returns:
            The entry in family.json.
        """
        name = f"{len(self.sizes) + 1}-{facts['params']}"
        entry = {"name": name, **facts, "file": f"sizes/{name}.safetensors"}
        self._folder.write_tensors(entry["file"], tensors)
        self.sizes.append(entry)
        self.write()
        return entry

    def write(self) -> None:
        """Write family.json."""
        self._folder.write_json("family.json", self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return what family.json holds."""
        return {
            "format": 1,
            "task": self._task,
            "metric": METRICS[self._task],
            "sizes": self.sizes,
            "total": self.total,
        }


def load(
    run: str | os.PathLike[str],
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    min_accuracy: float | None = None,
) -> nn.Module:
    """Load the best saved size of a run under some limits.

    Args:
        run: The run folder.
        max_params: At most so many parameters.
        max_flops: At most so many floating-point operations for one example.
        min_accuracy: At least this validation accuracy, 0 to 1; the smallest such size is loaded.

    Returns:
        The network in eval mode, on the CPU. It takes images scaled to 0..1, or table rows as encoded, and gives
        logits, or predictions in the target's own units.

    Raises:
        InputError: The folder is no run, a file is damaged, or no size is within the limits.
    """
    folder = RunFolder(run)
    family = folder.read_json("family.json")
    entry = choose(family, max_params, max_flops, min_accuracy, str(run))
    seed = Seed.from_json(folder.read_json("config.json")["seed_network"])
    tensors = folder.read_tensors(entry["file"])
    net = seed.build()
    try:
        for place in entry.get("blocks", ()):
            deepen_(net, place, example=seed.example())
        adopt_shapes_(net, tensors)
    except (GrowthError, KeyError) as error:
        raise InputError(f"{folder.path / entry['file']} does not belong to this run: {error.args[0]}") from error
    return net.eval()


def choose(
    family: Mapping[str, Any], max_params: int | None, max_flops: int | None, min_accuracy: float | None, run: str
) -> dict[str, Any]:
    """Return the entry of the best size by the validation metric, or of the smallest that is accurate enough.

    Raises:
        InputError: No size is within the limits.
    """
    sizes: list[dict[str, Any]] = family["sizes"]
    if min_accuracy is not None and family["task"] != "classification":
        raise InputError(f"{run} is a regression: it has no accuracy to ask for")
    fits = [
        size
        for size in sizes
        if (max_params is None or size["params"] <= max_params)
        and (max_flops is None or size["flops"] <= max_flops)
        and (min_accuracy is None or size["validation"]["accuracy"] >= min_accuracy)
    ]
    if not fits:
        have = ", ".join(f"{size['params']:,}" for size in sizes) or "none"
        raise InputError(f"{run} has no size within these limits; its sizes have {have} parameters")
    best = fits[0]
    for size in fits[1:]:
        if min_accuracy is not None:
            best = min(best, size, key=lambda s: s["params"])
        elif better(family["task"], size["validation"], best["validation"]):
            best = size
    return best
