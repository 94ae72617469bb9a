"""A run folder: what is in it, and how its files are written so that a stop at any moment leaves it readable.

config.json, journal.jsonl, family.json, sizes/NAME.safetensors, report.html
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from outgrow.errors import InputError

_OURS = ("config.json", "journal.jsonl", "family.json", "sizes", "report.html")


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def claim(self, overwrite: bool) -> None:
        """Make the folder for a new run.

        Args:
            overwrite: Remove another run that is there.

        Raises:
            InputError: It holds another run, or something that is no run, or can't be made.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"--out {self.path} is a file: give a folder")
            inside = sorted(p.name for p in self.path.iterdir()) if self.path.exists() else []
            if "journal.jsonl" in inside or "family.json" in inside:
                if not overwrite:
                    raise InputError(f"{self.path} holds another run: choose another --out, or add --overwrite")
                self._clear()
            elif inside:
                raise InputError(f"{self.path} holds something else ({inside[0]}): choose an empty or a new folder")
            (self.path / "sizes").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"can't write to {self.path}: {error.strerror or error}") from error

    def _clear(self) -> None:
        for name in _OURS:
            part = self.path / name
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file aside, then rename it into place."""
        self._write(name, (json.dumps(finite(value), indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder.

        Returns:
            Its value.

        Raises:
            InputError: It is missing or damaged.
        """
        file = self.path / name
        try:
            value: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is no run of outgrow: it has no {name}") from error
        except ValueError as error:
            raise InputError(f"{file} is damaged: {error}") from error
        return value

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file aside, then rename it into place."""
        from safetensors.torch import save

        self._write(name, save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the folder.

        Returns:
            Its tensors by name.

        Raises:
            InputError: It is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.path / name
        try:
            return load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise InputError(f"can't read {file}: {error}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record to the journal."""
        line = json.dumps(finite(record), allow_nan=False) + "\n"
        try:
            with open(self.path / "journal.jsonl", "a") as journal:
                journal.write(line)
        except OSError as error:
            raise InputError(f"can't write {self.path / 'journal.jsonl'}: {error.strerror or error}") from error

    def _write(self, name: str, data: bytes) -> None:
        file = self.path / name
        aside = file.with_name(f".{file.name}.part")
        try:
            with open(aside, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            aside.replace(file)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise InputError(
                f"can't write {file}: {error.strerror or error}; what was saved before is whole"
            ) from error


def finite(value: Any) -> Any:
    """Return a JSON value with null for what JSON has no word for: NaN and infinity.

    Examples:
        >>> finite({"r2": float("nan"), "loss": [0.5]})
        {'r2': None, 'loss': [0.5]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, (list, tuple)) else value
