"""The energy of a run: counted where the machine has a counter, modelled where it has none, and labelled as such.

Counted are whole devices, with whatever else runs on them: a CPU package by RAPL (Intel's and AMD's, under
/sys/class/powercap, which mostly only root may read), a GPU by NVML (the extra `nvml`). Memory, disks and fans are not.

The model is a power for each device, times the time for which this process kept it busy. Energy for each FLOP would say
nothing that the FLOPs don't say, and nothing true of small networks: a core that waits for memory, or for Python, takes
about as much power as one that multiplies.

    a CPU core   8 W    thermal design power over cores: 4 to 8 W in servers, 8 to 15 W in desktops
    a GPU      300 W    boards take 70 to 700 W

So a modelled energy may be wrong by a factor of 2, of a GPU by 4. The ratio of two on one machine is that of their busy
time.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import torch

from outgrow.train.counter import Board, Counter, Packages

WATTS_PER_CORE = 8.0
WATTS_PER_GPU = 300.0
POWERCAP = Path("/sys/class/powercap")
THEN = ", then "  # between the ways in which two spans of time were read


class Energy(TypedDict):
    """An energy as JSON: its value [joules], and how it is known."""

    value: float
    how: str


class Modelled:
    """A fixed power, for as long as a device is busy.

    Args:
        name: The model in words.
        watts: The power.
        busy: Tells for how long the device was busy since some moment [seconds].
    """

    def __init__(self, name: str, watts: float, busy: Callable[[], float]) -> None:
        self.name, self._watts, self._busy, self._last = name, watts, busy, busy()

    def passed(self) -> float:
        """Return the energy since the last call [joules]."""
        before, self._last = self._last, self._busy()
        return self._watts * (self._last - before)


class Part:
    """A part of the machine: told by its counter, and by its model where there is none or once it can't be read.

    Args:
        counter: The counter; None if there is none.
        model: The model.
    """

    def __init__(self, counter: Counter | None, model: Counter) -> None:
        self._counter, self._model = counter, model
        self.joules = 0.0
        self.measured: str | None = None
        self.modelled: str | None = None

    def advance(self) -> None:
        """Add the energy since the last call."""
        modelled = self._model.passed()
        try:
            if self._counter is not None:
                self.joules += self._counter.passed()
                self.measured = self._counter.name
                return
        except OSError:
            self._counter = None
        self.joules += modelled
        self.modelled = self._model.name


class Meter:
    """Tells the energy since it was made.

    Args:
        parts: The parts of the machine that count.
        spent: What was spent before, in an earlier part of the same run.

    Examples:
        >>> seconds = iter([0.0, 2.0])
        >>> meter = Meter([Part(None, Modelled("8 W a busy core", 8.0, lambda: next(seconds)))])
        >>> meter.read()
        {'value': 16.0, 'how': 'modelled: 8 W a busy core'}
    """

    def __init__(self, parts: Sequence[Part], spent: Energy | None = None) -> None:
        self._parts, self._spent = parts, spent

    def read(self) -> Energy:
        """Return all that was spent so far; to be called every few minutes, lest a counter wraps around unseen."""
        for part in self._parts:
            part.advance()
        measured = ", ".join(part.measured for part in self._parts if part.measured)
        modelled = ", ".join(part.modelled for part in self._parts if part.modelled)
        how = "; ".join([f"measured: {measured}"] * bool(measured) + [f"modelled: {modelled}"] * bool(modelled))
        now = Energy(value=sum(part.joules for part in self._parts), how=how)
        return now if self._spent is None else added([self._spent, now])


def meter(device: str, spent: Energy | None = None) -> Meter:
    """Return a meter of the CPU, and of the GPU if it is used, that begins now.

    Args:
        device: Where the network is trained, as torch calls it.
        spent: What was spent before, in an earlier part of the same run.

    Returns:
        The meter.
    """
    cores = Modelled(f"{WATTS_PER_CORE:g} W a busy core", WATTS_PER_CORE, time.process_time)
    parts = [Part(_if_there(lambda: Packages(POWERCAP)), cores)]
    if torch.device(device).type == "cuda":
        model = Modelled(f"{WATTS_PER_GPU:g} W for the GPU", WATTS_PER_GPU, time.perf_counter)
        parts.append(Part(_if_there(lambda: _board(device)), model))
    return Meter(parts, spent)


def added(energies: Iterable[Energy]) -> Energy:
    """Return the energy of several spans of time together.

    Args:
        energies: At least one.

    Returns:
        Their sum, and each way in which it is known once.

    Examples:
        >>> added([{"value": 2.0, "how": "a"}, {"value": 3.0, "how": "b"}, {"value": 1.0, "how": "a"}])
        {'value': 6.0, 'how': 'a, then b'}
    """
    spans = list(energies)
    hows = dict.fromkeys(how for span in spans for how in span["how"].split(THEN))
    return Energy(value=sum(span["value"] for span in spans), how=THEN.join(hows))


def _if_there(make: Callable[[], Counter]) -> Counter | None:
    try:
        return make()
    except (OSError, ImportError):
        return None


def _board(device: str) -> Board:
    import pynvml

    return Board(pynvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")
