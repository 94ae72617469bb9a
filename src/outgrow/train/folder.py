"""A run folder: what is in it, and how its files are written so that a stop at any moment leaves it readable.

config.json, journal.jsonl, family.json, sizes/NAME.safetensors, resume/, compare.json, report.html
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import torch
from torch import Tensor

from outgrow.errors import InputError
from outgrow.stored import shown

_OURS = (
    "config.json",
    "family.json",
    "sizes",
    "resume",
    "export",
    "compare.json",
    "tensorboard",
    "report.html",
    "journal.jsonl",
)
"""What a run writes; its journal, which shows that it is one, goes last where it is removed."""


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
                    raise InputError(
                        f"{self.path} holds another run: choose another --out, or add --resume or --overwrite"
                    )
                self._clear()
            elif inside:
                raise InputError(f"{self.path} holds something else ({inside[0]}): choose an empty or a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "journal.jsonl").touch()
            (self.path / "sizes").mkdir(exist_ok=True)
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
            Its value, an object.

        Raises:
            InputError: It is missing or damaged.
        """
        file = self.path / name
        if not file.exists():
            raise InputError(self._lack(name))
        try:
            value: object = json.loads(self._read(name), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{file} is damaged: expected an object, received {shown(value)}")
        return value

    def _lack(self, name: str) -> str:
        """Say why a file of a run is not there."""
        if name == "family.json" and (self.path / "journal.jsonl").exists():
            return f"{self.path} has not saved a size yet"
        lacks = f"it has no {name}" if self.path.is_dir() else "there is no such folder"
        return f"{self.path} is no run of outgrow: {'it is a file' if self.path.is_file() else lacks}"

    def inside(self, name: str) -> Path:
        """Return where a file of the folder is.

        Args:
            name: Its path from the folder.

        Returns:
            The file, whether it is there or not.

        Raises:
            InputError: The path is absolute or leads out of the folder, also by a symbolic link.
        """
        try:
            out = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in re.split(r"[/\\]", name)
            if not out and (self.path / name).resolve().is_relative_to(self.path.resolve()):
                return self.path / name
        except (OSError, RuntimeError, ValueError):  # a circle of links, or no name of a file
            pass
        raise InputError(f"{self.path} names a file {name!r}: expected one inside of the run folder; it is not read")

    def _read(self, name: str) -> bytes:
        file = self.inside(name)
        try:
            if file.exists() and not file.is_file():
                raise InputError(f"can't read {file}: expected a file")
            return file.read_bytes()
        except OSError as error:
            raise InputError(f"can't read {file}: {error.strerror or error}") from error

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Write a safetensors file aside, then rename it into place.

        Returns:
            The SHA-256 of the file, in hexadecimal digits.
        """
        from safetensors.torch import save

        layout = torch.contiguous_format
        data = save({key: tensor.detach().cpu().clone(memory_format=layout) for key, tensor in tensors.items()})
        self._write(name, data)
        return hashlib.sha256(data).hexdigest()

    def read_tensors(self, name: str, sha256: str | None = None) -> dict[str, Tensor]:
        """Read a safetensors file of the folder.

        Args:
            name: Its path from the folder.
            sha256: What `write_tensors` returned; None if it isn't known.

        Returns:
            Its tensors by name.

        Raises:
            InputError: It is missing, damaged or not what was written, or its path leads out of the folder.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file, data = self.path / name, self._read(name)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise InputError(f"{file} is not what was saved: its checksum differs")
        try:
            return load(data)
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise InputError(f"can't read {file}: {error}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record to the journal."""
        line = json.dumps(finite(record), allow_nan=False) + "\n"
        try:
            with open(self.path / "journal.jsonl", "a") as journal:
                journal.write(line)
        except OSError as error:
            raise InputError(f"can't write {self.path / 'journal.jsonl'}: {error.strerror or error}") from error

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the journal up to the first that is damaged or half written; none without a journal."""
        return self._journal()[0]

    def damage(self) -> str:
        """Say which line of the journal is damaged; empty if none is, but for a last one that was half written."""
        return self._journal()[1]

    def _journal(self) -> tuple[list[dict[str, Any]], str]:
        """The records up to the first line that is none, and what is wrong with that line unless a stop cut it off."""
        journal = self.path / "journal.jsonl"
        records: list[dict[str, Any]] = []
        written = self._read("journal.jsonl") if journal.exists() else b""
        for number, line in enumerate(written.splitlines(keepends=True), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                wrong = f"{journal}, line {number}: expected an object, received {shown(line)}"
                return records, wrong if line.endswith(b"\n") else ""
            records.append(record)
        return records, ""

    def mend_journal(self) -> None:
        """Cut off a last line of the journal that was only half written, so that others can follow."""
        journal = self.path / "journal.jsonl"
        written = journal.read_bytes()
        if not written.endswith(b"\n"):
            os.truncate(journal, written.rfind(b"\n") + 1)

    def _write(self, name: str, data: bytes) -> None:
        file = self.inside(name)
        aside = file.with_name(f".{file.name}.part")
        try:
            with open(aside, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            aside.replace(file)
        except OSError as error:
            with suppress(OSError):  # where nothing can be written, nothing can be removed
                aside.unlink(missing_ok=True)
            raise InputError(
                f"can't write {file}: {error.strerror or error}; what was saved before is whole"
            ) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, received {constant}")


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
