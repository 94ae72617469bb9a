"""TensorBoard: what a run tells, written as scalars that TensorBoard draws while the run goes on."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.errors import InputError
from outgrow.show import quantity
from outgrow.show.record import Record, kind, promised
from outgrow.show.trajectory import resized

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes a run as scalars over its steps: call it with every record of the journal, or hand it to a trainer.

    Nothing is written before the first record. Where a run is taken up again, TensorBoard leaves out what was written
    of later steps before; the end of a run closes the file.

    Args:
        folder: Where the event files go; `tensorboard --logdir` reads it.

    Raises:
        InputError: The package tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                f"{folder}: to write for TensorBoard takes the package tensorboard, which is not installed: "
                'pip install "outgrow[tensorboard]"'
            )
        self._folder, self._step = folder, 0
        self._writer: SummaryWriter | None = None
        self._before: float | None = None  # FLOPs of the run at the end of the epoch before
        self._checks = 0.0  # FLOPs of the checks since then

    def __call__(self, record: Record) -> None:
        """Write one record; what is not known is left out.

        Args:
            record: An object as the journal holds it.

        Raises:
            InputError: The folder can't be written.
        """
        self._step = int(record.get("step", self._step))
        writer = self._opened(record)
        for name, value in [*scalars(record), *self._check_share(record)]:
            if quantity.known(value):
                writer.add_scalar(name, value, self._step)
        if kind(record) == "epoch":
            writer.flush()
        if kind(record) == "end":
            self.close()

    def close(self) -> None:
        """Write down what is left; a later record opens another file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _opened(self, record: Record) -> "SummaryWriter":
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = self._step + 1 if kind(record) == "resume" else None
            try:
                self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            except OSError as error:
                raise InputError(f"{self._folder}: can't be written ({error.strerror or error})") from error
        return self._writer

    def _check_share(self, record: Record) -> Iterator[tuple[str, float]]:
        """Give what share of an epoch's FLOPs went into checks, where the epoch before is known."""
        if kind(record) == "start":
            self._before = 0.0
        elif kind(record) == "event":
            self._checks += record.get("flops") or 0
        elif kind(record) == "epoch" and (now := record.get("train_flops")):
            if self._before is not None and now > self._before:
                yield "check/share", self._checks / (now - self._before)
            self._before, self._checks = now, 0.0


def scalars(record: Record) -> Iterator[tuple[str, float | None]]:
    """List the scalars of a record.

    Args:
        record: An object as the journal holds it.

    Yields:
        Name and value; the value may be unknown.

    >>> dict(scalars({"record": "start", "params": 90, "axes": {"fc1": 8}}))
    {'network/parameters': 90, 'units/fc1': 8}
    """
    match kind(record):
        case "start":
            yield from _network(record["params"], record["axes"])
        case "epoch":
            yield from _network(record["params"], record["axes"])
            yield from _epoch(record)
        case "event":
            yield from _event(record)
        case "size":
            yield from _saved(record)


def _network(params: int | None, axes: Record) -> Iterator[tuple[str, float | None]]:
    yield "network/parameters", params
    for name, units in axes.items():
        yield f"units/{quantity.clean(name)}", units


def _epoch(record: Record) -> Iterator[tuple[str, float | None]]:
    yield "loss/train", record["train_loss"]
    for name, value in record["validation"].items():
        yield ("loss/validation" if name == "loss" else f"validation/{name}"), value
    yield "rate", record.get("rate")
    yield "spent/train_flops", record.get("train_flops")
    yield "spent/seconds", record.get("seconds")


def _event(record: Record) -> Iterator[tuple[str, float | None]]:
    if record["growths"]:
        yield from _network(record.get("params_after"), resized(record))
    kept = [growth for growth in record["growths"] if promised(growth)]
    if kept:
        yield "gain/promised", quantity.total(growth["gain"] for growth in kept)
        yield "gain/realised", quantity.total(growth["realised"] for growth in kept)
    yield "check/seconds", record.get("seconds")


def _saved(record: Record) -> Iterator[tuple[str, float | None]]:
    yield "saved/parameters", record["params"]
    for part in ("validation", "test"):
        for name, value in (record.get(part) or {}).items():
            yield f"saved/{part}_{name}", value
