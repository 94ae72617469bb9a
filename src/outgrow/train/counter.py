"""Counters of energy: RAPL's of the CPU packages, NVML's of a GPU."""

from pathlib import Path
from typing import Any, Protocol


class Counter(Protocol):
    """What tells the energy of a part of the machine.

    Attributes:
        name: What it counts, or the model.
    """

    name: str

    def passed(self) -> float:
        """Return the energy since the last call, or since the counter was made [joules].

        Raises:
            OSError: It can't be read, or not any more.
        """


class Packages:
    """RAPL's counters of all CPU packages.

    They wrap around, at full power after about ten minutes: they must be read more often than that.

    Args:
        powercap: The kernel's folder of power zones.

    Raises:
        OSError: There are none, or this user may not read them.
    """

    def __init__(self, powercap: Path) -> None:
        zones = {zone: _text(zone / "name") for zone in sorted(powercap.glob("intel-rapl:*"))}
        self._zones = [_Zone(zone) for zone, name in zones.items() if name.startswith("package")]
        if not self._zones:
            raise OSError(f"{powercap} has no CPU package")
        self.name = ", ".join(f"RAPL {zones[zone.path]} (the whole package)" for zone in self._zones)

    def passed(self) -> float:
        """Return the energy of all packages since the last call [joules]."""
        return sum(zone.passed() for zone in self._zones)


class _Zone:
    """A power zone: a counter of microjoules that begins anew at zero after its range."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._range, self._last = self._read("max_energy_range_uj"), self._read("energy_uj")

    def passed(self) -> float:
        before, self._last = self._last, self._read("energy_uj")
        return (self._last - before + (self._range if self._last < before else 0)) / 1e6

    def _read(self, name: str) -> int:
        text = _text(self.path / name)
        if not text.isdecimal():
            raise OSError(f"{self.path / name}: expected a whole number, got {text[:40]!r}")
        return int(text)


class Board:
    """NVML's counter of a GPU.

    Args:
        nvml: The module pynvml.
        uuid: The GPU's, as NVML writes it.

    Raises:
        OSError: The driver doesn't know the GPU, or doesn't count its energy.
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.name = f"NVML GPU {nvml.nvmlDeviceGetIndex(self._handle)} (the whole GPU)"
        except nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error
        self._last = self._read()

    def passed(self) -> float:
        """Return the energy since the last call [joules]."""
        before, self._last = self._last, self._read()
        if self._last < before:
            raise OSError("NVML: the driver was loaded anew, its counter began at zero again")
        return (self._last - before) / 1e3

    def _read(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error


def _text(file: Path) -> str:
    return file.read_text().strip()
