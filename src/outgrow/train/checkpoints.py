"""The last two whole states of a run, and how its folder is put back to one of them.

    resume/STEP.safetensors   the tensors
    resume/STEP.json          all else, with checksums; once it has its name, the state is whole

A state tells how long the journal was and which sizes there were, by their checksums, too: what came later is written
again by the run that goes on.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from outgrow.errors import InputError
from outgrow.train.folder import RunFolder, finite

FOLDER = "resume"
FORMAT = 2
KEPT = 2  # states: the newest one may turn out to be damaged
SHARE = 0.02  # of the time goes into saving states, at most
INTERVAL = 30.0  # seconds without a state, after which one is saved within an epoch, too


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A whole state.

    Attributes:
        step: Steps done.
        tensors: Its tensors by name, on the CPU.
        facts: What else the run said of itself, as JSON values.
        family: The sizes that were saved, as family.json tells them.
        records: What the journal held.
        journal: Its length [bytes].
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    family: Sequence[Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]
    journal: int


class Checkpoints:
    """The states of one run.

    Args:
        folder: The run folder.
        every: Steps from one state to the next; as time allows if None.
    """

    def __init__(self, folder: RunFolder, every: int | None = None) -> None:
        self._folder, self._every = folder, every
        self._path = folder.path / FOLDER
        self._saved = time.perf_counter()
        self._took = 0.0  # seconds, the last time

    def due(self, step: int, between: bool) -> bool:
        """Return whether it is time for another state.

        Args:
            step: Steps done.
            between: Whether an epoch is over; within one, there is a state only where the last is long ago.
        """
        if self._every is not None:
            return step % self._every == 0
        least = self._took / SHARE
        return time.perf_counter() - self._saved >= (least if between else max(least, INTERVAL))

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        family: Sequence[Mapping[str, Any]],
    ) -> None:
        """Save a state, then drop all but the last two.

        Args:
            step: Steps done.
            tensors: Its tensors, by name.
            facts: JSON values.
            family: The sizes saved so far, as family.json tells them.

        Raises:
            InputError: The disk is full, or the like; the states before are whole.
        """
        started = time.perf_counter()
        self._path.mkdir(exist_ok=True)
        sha256 = self._folder.write_tensors(f"{FOLDER}/{step}.safetensors", tensors)
        journal = _flushed(self._folder.path / "journal.jsonl")
        whole = {
            "step": step,
            "tensors": sha256,
            "journal": {"bytes": len(journal), "sha256": _sha256(journal)},
            "family": finite(family),
            "facts": finite(facts),
        }
        self._folder.write_json(f"{FOLDER}/{step}.json", {"format": FORMAT, "sha256": _sha256_of(whole), **whole})
        self._drop(self._steps()[:-KEPT])
        self._saved = time.perf_counter()
        self._took = self._saved - started

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the last whole state, None if there is none, and what is wrong with those after it, a line each."""
        wrong: list[str] = []
        for step in reversed(self._steps()):
            try:
                return self._read(step), wrong
            except InputError as error:
                wrong.append(str(error))
        return None, wrong

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Put the folder back to a state, but for family.json: what came later goes, and what a stop left half done."""
        path, kept = self._folder.path, {self._folder.path / entry["file"] for entry in checkpoint.family}
        for file in {*path.glob("sizes/*"), *path.rglob(".*.part")} - kept:
            file.unlink()
        os.truncate(path / "journal.jsonl", checkpoint.journal)
        self._drop([step for step in self._steps() if step > checkpoint.step])

    def clear(self) -> None:
        """Remove all states: the run is over."""
        self._drop(self._steps())
        if self._path.is_dir():
            self._path.rmdir()

    def _steps(self) -> list[int]:
        """The steps of which there is a state, in order."""
        return sorted(int(file.stem) for file in self._path.glob("*.json") if file.stem.isdecimal())

    def _drop(self, steps: Sequence[int]) -> None:
        """Remove states, and what a stop has left of others."""
        for step in steps:
            (self._path / f"{step}.json").unlink()
        kept = set(map(str, self._steps()))
        for file in self._path.glob("*"):
            if file.stem not in kept:
                file.unlink()

    def _read(self, step: int) -> Checkpoint:
        name, tensors = f"{FOLDER}/{step}.json", f"{FOLDER}/{step}.safetensors"
        whole = self._folder.read_json(name)
        stated = {key: whole.pop(key, None) for key in ("format", "sha256")}
        if stated != {"format": FORMAT, "sha256": _sha256_of(whole)}:
            raise InputError(f"{self._folder.path / name} is not what was saved: its checksum differs")
        for entry in whole["family"]:
            self._folder.read_tensors(entry["file"], entry["sha256"])
        return Checkpoint(
            step,
            self._folder.read_tensors(tensors, whole["tensors"]),
            whole["facts"],
            whole["family"],
            [json.loads(line) for line in self._journal(**whole["journal"]).splitlines()],
            whole["journal"]["bytes"],
        )

    def _journal(self, bytes: int, sha256: str) -> bytes:
        """What the journal held when it was so long."""
        file = self._folder.path / "journal.jsonl"
        found = file.read_bytes()[:bytes] if file.is_file() else b""
        if _sha256(found) != sha256:
            raise InputError(f"{file} is not what was written: its checksum differs")
        return found


def _flushed(journal: Path) -> bytes:
    """What the journal holds, once that is on the disk."""
    with open(journal, "rb") as handle:
        os.fsync(handle.fileno())
        return handle.read()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode())
