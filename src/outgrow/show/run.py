"""A run as its folder tells it: configuration, journal and family, read without touching a tensor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.errors import InputError
from outgrow.show import quantity
from outgrow.show.record import Record, kind, metric_name, of_kind, pareto, require
from outgrow.show.shape import is_measures, is_object, is_objects

EXPECTED = "expected a run folder as `outgrow grow` writes it, with a journal.jsonl that begins with a start record"


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: The folder's path, as it was given.
        config: What config.json holds; empty if there is none.
        records: The journal.
        family: What family.json holds; None while the run goes on or after it broke off.
        comparison: What compare.json holds; None where the sizes were not trained by themselves.
    """

    folder: str
    config: Mapping[str, Any]
    records: list[Record]
    family: Mapping[str, Any] | None
    comparison: Mapping[str, Any] | None = None

    @property
    def start(self) -> Record:
        """The start record."""
        return of_kind(self.records, "start")[0]

    @property
    def epochs(self) -> list[Record]:
        """The records of the epochs that are done."""
        return of_kind(self.records, "epoch")

    @property
    def events(self) -> list[Record]:
        """The records of the growth events."""
        return of_kind(self.records, "event")

    @property
    def end(self) -> Record | None:
        """The last end record, None if there is none."""
        return next(iter(of_kind(self.records, "end")[::-1]), None)

    @property
    def metric(self) -> str:
        """The metric by which this run is judged."""
        return metric_name(self.start, {})

    @property
    def sizes(self) -> list[Record]:
        """The saved sizes by parameters: the family's, or before there is one the journal's."""
        if self.family is not None:
            saved = list(self.family["sizes"])
        else:
            saved = list({size["name"]: size for size in of_kind(self.records, "size")}.values())
        return sorted(saved, key=lambda size: (size["params"], size["name"]))

    @property
    def best(self) -> Record | None:
        """The best saved size by its validation metric, None if there is none."""
        return next(iter(pareto(self.sizes, self.metric)[::-1]), None)

    @property
    def trained_alone(self) -> list[Record]:
        """The sizes that were trained by themselves, at the length that counts; at the longest until that is known."""
        return self._trained("sweep")

    @property
    def lengths(self) -> set[int]:
        """The lengths at which sizes were trained by themselves [epochs]."""
        return {record["epochs"] for record in (self.comparison or {}).get("sweep") or ()}

    @property
    def trained_uniform(self) -> list[Record]:
        """Networks of uniform widths that were trained by themselves, at that length."""
        return self._trained("uniform")

    def _trained(self, which: str) -> list[Record]:
        told = self.comparison or {}
        found = list(told.get(which) or ())
        length = told.get("chosen") or max((record["epochs"] for record in found), default=0)
        alike = [record for record in found if record["epochs"] == length]
        return sorted(alike, key=lambda record: (record["params"], record["size"]))

    @property
    def saved_at(self) -> dict[str, float]:
        """The epochs at which the sizes were saved first, by name; a size that was finished later keeps its moment."""
        saved = [*of_kind(self.records, "size"), *self.sizes][::-1]
        return {size["name"]: float(size["epoch"]) for size in saved if quantity.known(size.get("epoch"))}

    @property
    def total(self) -> Mapping[str, Any]:
        """All that was spent: the family's total, else the end record's, else the last epoch's."""
        if self.family is not None and self.family.get("total"):
            return dict(self.family["total"])
        return self.end or (self.epochs[-1] if self.epochs else {})


def read_run(folder: Path) -> Run:
    """Read a run folder, whether the run is done, still going on or broke off.

    Args:
        folder: The run folder.

    Returns:
        What it says.

    Raises:
        InputError: If it is no run folder, or a file in it is damaged.
    """
    if not (folder / "journal.jsonl").is_file():
        there = "no journal.jsonl in it" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: {there}; {EXPECTED}")
    records = read_journal(folder / "journal.jsonl")
    if not records or kind(records[0]) != "start":
        raise InputError(f"{folder / 'journal.jsonl'}: no start record; {EXPECTED}")
    config = _read_object(folder / "config.json") or {}
    family, comparison = _read_family(folder / "family.json"), _read_comparison(folder / "compare.json")
    return Run(folder.as_posix(), config, records, family, comparison)


def _read_family(file: Path) -> dict[str, Any] | None:
    family = _read_object(file)
    if family is not None:
        if not is_objects(family.get("sizes")):
            raise InputError(f'{file}: expected a list of sizes under "sizes"')
        for size in family["sizes"]:
            require({"record": "size"} | size, str(file))
        _check_total(family, "total", file)
    return family


def _read_comparison(file: Path) -> dict[str, Any] | None:
    comparison = _read_object(file)
    if comparison:
        for which in ("sweep", "uniform"):
            if not is_objects(comparison.get(which) or []):
                raise InputError(f'{file}: expected a list of trainings under "{which}"')
            for trained in comparison.get(which) or ():
                require({"record": "trained"} | trained, str(file))
        _check_total(comparison, "family", file)
        if not is_measures(comparison.get("ratio") or {}):
            raise InputError(f'{file}: expected an object of numbers under "ratio"')
    return comparison


def _check_total(told: Mapping[str, Any], key: str, file: Path) -> None:
    """Check what a file tells of all that was spent, where it does."""
    total = told.get(key) or {}
    if not is_object(total):
        raise InputError(f'{file}: expected an object under "{key}"')
    require({"record": "total"} | total, str(file))


def read_journal(file: Path) -> list[Record]:
    """Read a journal; a last line that was only half written is left out.

    Args:
        file: journal.jsonl: one JSON object a line.

    Returns:
        Its records.

    Raises:
        InputError: If the file can't be read, another line is damaged, or a record lacks what its kind needs.
    """
    records: list[Record] = []
    numbered = [(number, line) for number, line in enumerate(_read(file).splitlines(), 1) if line.strip()]
    for number, line in numbered:
        where = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == numbered[-1][0]:
                break
            raise InputError(f"{where}: expected a JSON object, got {line[:40]!r}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected a JSON object, got {line[:40]!r}")
        records.append(require(record, where))
    return records


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror or error})") from error


def _read_object(file: Path) -> dict[str, Any] | None:
    """Read a JSON object, None if the file is absent."""
    if not file.is_file():
        return None
    try:
        found = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected a JSON object, but it is damaged ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found
