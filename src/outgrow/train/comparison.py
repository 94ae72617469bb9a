"""A comparison: what a run's family takes and reaches, beside networks of its sizes that were trained by themselves.

compare.json holds it, and is written anew after every training, so that a stop loses no more than one.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from outgrow.errors import InputError
from outgrow.train.alone import SPENT
from outgrow.train.energy import added
from outgrow.train.folder import RunFolder

FILE = "compare.json"
ENOUGH = {"accuracy": 0.005, "rmse": 0.01}
"""A length is enough where doubling it gains less: so much accuracy, or so large a share of the error."""

Entry = Mapping[str, Any]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Training:
    """A network to be trained by itself.

    Args:
        size: Name of the family's size that it is to be compared with.
        epochs: Passes over the training part.
        widths: Of the uniformly widened seed; None for the architecture of the size itself.
    """

    size: str
    epochs: int
    widths: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.widths is None:
            return f"{self.size} by itself"
        return f"uniform widths {'-'.join(map(str, self.widths))}, beside {self.size}"

    def made(self, entry: Entry) -> bool:
        """Whether an entry of compare.json came of this training."""
        widths = None if self.widths is None else list(self.widths)
        return (entry["size"], entry["epochs"], entry.get("widths")) == (self.size, self.epochs, widths)

    def to_json(self) -> dict[str, Any]:
        """Return what tells it from others."""
        told: dict[str, Any] = {"size": self.size, "epochs": self.epochs}
        return told if self.widths is None else {**told, "widths": list(self.widths)}


@dataclass
class Comparison:
    """The trainings that are done, and what they say of the family.

    Args:
        metric: What is compared: `accuracy`, or `rmse`.
        family: What the whole run took: `train_flops`, `seconds` and `joules`.
        sizes: Names of the sizes, smallest first.
        lengths: Epochs, shortest first.
        anchors: The sizes that uniform widths come near.
        entries: What came of trainings, also of some that were asked for before.
    """

    metric: str
    family: Entry
    sizes: Sequence[str]
    lengths: Sequence[int]
    anchors: Sequence[str]
    entries: list[Entry] = field(default_factory=list)

    @property
    def trainings(self) -> list[Training]:
        """The sweep: every size at every length, the shortest first."""
        return [Training(size, epochs) for epochs in self.lengths for size in self.sizes]

    @property
    def sweep(self) -> list[Entry]:
        """What came of it so far."""
        return [entry for one in self.trainings if (entry := self.find(one))]

    @property
    def uniform(self) -> list[Entry]:
        """What came of uniform widths at the chosen length, smallest first."""
        found = [e for e in self.entries if "widths" in e and e["size"] in self.anchors and e["epochs"] == self.chosen]
        return sorted(found, key=lambda entry: self.sizes.index(entry["size"]))

    @property
    def chosen(self) -> int | None:
        """The tuned length of the sweep; None as long as it isn't done."""
        done = self.sweep
        return tuned(done, self.lengths, self.metric) if len(done) == len(self.trainings) else None

    @property
    def alone(self) -> list[Entry]:
        """The sizes trained by themselves at the chosen length, smallest first."""
        return [entry for entry in self.sweep if entry["epochs"] == self.chosen]

    def find(self, training: Training) -> Entry | None:
        """Return what came of a training, None if it wasn't done."""
        return next((entry for entry in self.entries if training.made(entry)), None)

    def to_json(self) -> dict[str, Any]:
        """Return what compare.json holds."""
        shown = [*self.sweep, *self.uniform]
        complete = bool(self.uniform) and len(self.uniform) == len(self.anchors)
        return {
            "format": 1,
            "lengths": list(self.lengths),
            "sweep": self.sweep,
            "uniform": self.uniform,
            "chosen": self.chosen,
            "family": self.family,
            "ratio": ratio(self.family, total(self.alone)) if self.chosen else None,
            "ratio_uniform": ratio(self.family, total(self.uniform)) if complete else None,
            "aside": [entry for entry in self.entries if entry not in shown],
        }

    def write(self, folder: RunFolder) -> None:
        """Write compare.json."""
        folder.write_json(FILE, self.to_json())


def read_entries(folder: RunFolder, metric: str) -> list[Entry]:
    """Read what came of earlier trainings beside a run.

    Args:
        folder: The run folder.
        metric: What is compared.

    Returns:
        The entries of compare.json; none if there is no such file.

    Raises:
        InputError: The file is damaged.
    """
    if not (folder.path / FILE).exists():
        return []
    told = folder.read_json(FILE)
    try:
        entries = [*told["sweep"], *told["uniform"], *told["aside"]]
        for entry in entries:
            total([entry]), entry["size"], 1 / entry["epochs"], abs(entry["validation"][metric])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder.path / FILE} is damaged ({error!r}): remove it to compare anew") from error
    return entries


def renew(folder: RunFolder, family: Entry) -> None:
    """Tell compare.json, where it is there and done, that a run took more than when it was compared.

    Args:
        folder: The run folder.
        family: What the whole run took, as family.json has it under `total`.

    Raises:
        InputError: The file is damaged.
    """
    if not (folder.path / FILE).exists():
        return
    told, took = folder.read_json(FILE), {key: family[key] for key in SPENT}
    try:
        alone = [entry for entry in told["sweep"] if entry["epochs"] == told["chosen"]]
        for key, others in (("ratio", alone), ("ratio_uniform", told["uniform"])):
            told[key] = ratio(took, total(others)) if told[key] else None
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder.path / FILE} is damaged ({error!r}): remove it to compare anew") from error
    folder.write_json(FILE, {**told, "family": took})


def spread(things: Sequence[Thing], most: int) -> list[Thing]:
    """Return so many of a sequence, evenly spread over it, the last one and, of two or more, the first one included.

    Examples:
        >>> spread("abcdefghi", 5), spread("abc", 5), spread("abc", 1)
        (['a', 'c', 'e', 'g', 'i'], ['a', 'b', 'c'], ['c'])
    """
    last, gaps = len(things) - 1, min(most, len(things)) - 1
    return [things[last - round(last * i / gaps)] for i in range(gaps, -1, -1)] if gaps > 0 else list(things[-1:])


def tuned(sweep: Sequence[Entry], lengths: Sequence[int], metric: str) -> int:
    """Return the shortest length whose doubling gains less than `ENOUGH` on validation on average, else the longest.

    Args:
        sweep: Every size, trained at every length.
        lengths: Epochs, shortest first; where the next one is not the double, the gain is that of the logarithm.
        metric: What is compared.

    Returns:
        The length.

    Examples:
        >>> runs = [(2, 0.90), (4, 0.95), (8, 0.953)]
        >>> sweep = [{"size": "a", "epochs": e, "validation": {"accuracy": a}} for e, a in runs]
        >>> tuned(sweep, [2, 4, 8], "accuracy")
        4
    """
    measured = {(entry["size"], entry["epochs"]): entry["validation"][metric] for entry in sweep}
    sizes = {entry["size"] for entry in sweep}
    for shorter, longer in itertools.pairwise(lengths):
        gains = [improvement(measured[size, longer], measured[size, shorter], metric) for size in sizes]
        if sum(gains) / len(gains) / math.log2(longer / shorter) < ENOUGH[metric]:
            return shorter
    return lengths[-1]


def improvement(value: float, reference: float, metric: str) -> float:
    """Return by how much a value is better: in accuracy, or as a share of the reference's error.

    Examples:
        >>> improvement(0.75, 0.5, "accuracy"), improvement(8.0, 10.0, "rmse")
        (0.25, 0.2)
    """
    if metric == "accuracy":
        return value - reference
    return (reference - value) / reference if reference else 0.0


def total(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what trainings took together; their energy is None where one of them is not known."""
    joules = [entry["joules"] for entry in entries]
    return {
        "train_flops": sum(entry["train_flops"] for entry in entries),
        "seconds": sum(entry["seconds"] for entry in entries),
        "joules": added(joules) if joules and all(joules) else None,
    }


def ratio(family: Entry, others: Entry) -> dict[str, float | None]:
    """Return what a family took over what others took; None for energies that were not told in the same way.

    Examples:
        >>> watt = {"value": 3.0, "how": "modelled"}
        >>> ours = {"train_flops": 1, "seconds": 2.0, "joules": watt}
        >>> ratio(ours, {"train_flops": 4, "seconds": 4.0, "joules": None})
        {'train_flops': 0.25, 'seconds': 0.5, 'joules': None}
    """
    ours, theirs = family["joules"], others["joules"]
    alike = bool(ours and theirs and ours["how"] == theirs["how"] and theirs["value"])
    parts: dict[str, float | None] = {key: family[key] / others[key] for key in SPENT if key != "joules"}
    return {**parts, "joules": ours["value"] / theirs["value"] if alike else None}
