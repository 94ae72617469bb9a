"""Saving the sizes of a run; family.json always tells what is on disk."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from outgrow.stored import Stored
from outgrow.train.evaluate import METRICS
from outgrow.train.folder import RunFolder

FORMAT = 1
"""Version of what family.json and config.json look like."""


class FamilyWriter:
    """Saves the sizes of a run.

    Args:
        folder: The run folder.
        task: `classification` or `regression`.

    Attributes:
        sizes: The entries of family.json so far.
        total: What the run took.
    """

    def __init__(self, folder: RunFolder, task: str) -> None:
        self._folder = folder
        self._task = task
        self.sizes: list[dict[str, Any]] = []
        self.total: dict[str, Any] = {}

    @classmethod
    def of(cls, folder: RunFolder) -> "FamilyWriter":
        """Return the writer of a family that is there, to finish its sizes; removes files that no size has any more.

        Args:
            folder: The run folder.

        Returns:
            The writer.

        Raises:
            InputError: family.json is damaged or newer, or names a file outside of the folder.
        """
        values = folder.read_json("family.json")
        family = Stored(values, str(folder.path / "family.json"))
        family.demand_format(FORMAT)
        writer = cls(folder, family.one_of("task", *METRICS))
        named = {folder.inside(entry.text("file")) for entry in family.each("sizes")}
        writer.sizes, writer.total = values["sizes"], dict(family.within("total").values)
        for file in (folder.path / "sizes").glob("*.safetensors"):
            if file not in named:
                file.unlink()
        return writer

    def add(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Save a size: its tensors, and what family.json says of it.

        Args:
            tensors: Parameters and buffers of the network by name.
            facts: The fields of an entry but `name`, `file` and `sha256`.

        Returns:
            The entry in family.json.
        """
        name = f"{len(self.sizes) + 1}-{facts['params']}"
        file = f"sizes/{name}.safetensors"
        entry = {"name": name, **facts, "file": file, "sha256": self._folder.write_tensors(file, tensors)}
        self.sizes.append(entry)
        self.write()
        return entry

    def replace(self, entry: dict[str, Any], quality: str, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors in the place of those of a size.

        Args:
            entry: Its entry, one of `sizes`, with what family.json shall say of it.
            quality: Where they come from, one of `outgrow.train.size.QUALITIES`.
            tensors: The tensors.
        """
        before, file = entry["file"], f"sizes/{entry['name']}-{quality}"
        # never over what is there: a stop between the two writes would leave a file that is not what family.json says
        entry["file"] = next(one for one in (f"{file}.safetensors", f"{file}-2.safetensors") if one != before)
        entry["sha256"] = self._folder.write_tensors(entry["file"], tensors)
        entry["quality"] = quality
        self.write()
        self._folder.inside(before).unlink(missing_ok=True)

    def keep(self, entry: dict[str, Any]) -> None:
        """Say that a size was looked at again, and stays as it is."""
        entry.setdefault("quality", "average")
        self.write()

    def write(self) -> None:
        """Write family.json."""
        self._folder.write_json("family.json", self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return what family.json holds."""
        return {
            "format": FORMAT,
            "task": self._task,
            "metric": METRICS[self._task],
            "sizes": self.sizes,
            "total": self.total,
        }
