"""The energy of a run: counters are read and unwrapped, a model stands in where there is none, and it says which."""

import sys
import types

import pytest
import torch

from outgrow.train import counter, energy
from outgrow.train.counter import Board, Packages
from outgrow.train.energy import Meter, Modelled, Part, added, meter


class Zone:
    """A power zone in a fake powercap folder."""

    def __init__(self, folder, place, name, microjoules=0, most=1_000_000):
        self.path = folder / f"intel-rapl:{place}"
        self.path.mkdir(parents=True)
        self.put("name", name)
        self.put("max_energy_range_uj", most)
        self.put("energy_uj", microjoules)

    def put(self, name, value):
        (self.path / name).write_text(f"{value}\n")


class Nvml:
    """A fake pynvml with one GPU, number 3."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules=0, broken=()):
        self.millijoules, self.broken = millijoules, set(broken)

    def nvmlInit(self):  # noqa: N802
        self._fail("init")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self._fail("handle")
        return f"handle of {uuid}"

    def nvmlDeviceGetIndex(self, handle):  # noqa: N802
        assert handle == "handle of GPU-a"
        return 3

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        assert handle == "handle of GPU-a"
        self._fail("energy")
        return self.millijoules

    def _fail(self, what):
        if what in self.broken:
            raise self.NVMLError(f"no {what}")


class Clock:
    """Busy seconds, set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_packages_count_and_their_parts_and_the_platform_do_not(tmp_path):
    zones = [
        Zone(tmp_path, "0", "package-0", 500),
        Zone(tmp_path, "1", "package-1"),
        Zone(tmp_path, "0:0", "core"),
        Zone(tmp_path, "2", "psys"),
    ]
    packages = Packages(tmp_path)
    assert packages.passed() == 0
    for zone in zones:
        zone.put("energy_uj", 250_500)
    assert packages.passed() == pytest.approx(0.25 + 0.2505)
    assert packages.passed() == 0
    assert packages.name == "RAPL package-0 (the whole package), RAPL package-1 (the whole package)"


def test_a_counter_that_wraps_around_goes_on(tmp_path):
    zone = Zone(tmp_path, "0", "package-0", 900_000, most=1_000_000)
    packages, total = Packages(tmp_path), 0.0
    for microjoules in (999_999, 100_000, 600_000, 200_000):
        zone.put("energy_uj", microjoules)
        total += packages.passed()
    assert total == pytest.approx(1.3)


def without_permission(tmp_path, monkeypatch):
    zone = Zone(tmp_path, "0", "package-0")
    original = counter._text

    def text(file):
        if file == zone.path / "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(file)

    monkeypatch.setattr(counter, "_text", text)


ABSENT = {
    "no folder": lambda path, patch: path.rmdir(),
    "no zones": lambda path, patch: None,
    "no package": lambda path, patch: Zone(path, "0", "psys"),
    "not allowed": without_permission,
    "an empty file": lambda path, patch: Zone(path, "0", "package-0", ""),
    "no number": lambda path, patch: Zone(path, "0", "package-0", "-1"),
}


@pytest.mark.parametrize("case", ABSENT)
def test_without_a_counter_the_energy_is_modelled_and_says_so(tmp_path, monkeypatch, case):
    (tmp_path / "powercap").mkdir()
    ABSENT[case](tmp_path / "powercap", monkeypatch)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    with pytest.raises(OSError, match=r"."):
        Packages(energy.POWERCAP)
    clock = Clock()
    monkeypatch.setattr(energy.time, "process_time", clock)
    read = meter("cpu")
    clock.now = 3.0
    assert read.read() == {"value": 24.0, "how": "modelled: 8 W a busy core"}


def test_a_package_that_can_be_read_is_measured(tmp_path, monkeypatch):
    zone = Zone(tmp_path, "0", "package-0")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    read = meter("cpu")
    zone.put("energy_uj", 70_000)
    assert read.read() == {"value": 0.07, "how": "measured: RAPL package-0 (the whole package)"}


def test_a_counter_that_vanishes_is_replaced_by_the_model_from_its_last_reading_on(tmp_path):
    zone, clock = Zone(tmp_path, "0", "package-0"), Clock()
    read = Meter([Part(Packages(tmp_path), Modelled("10 W", 10.0, clock))])
    zone.put("energy_uj", 500_000)
    clock.now = 1.0
    assert read.read()["value"] == 0.5
    (zone.path / "energy_uj").unlink()
    clock.now = 3.0
    assert read.read() == {"value": 20.5, "how": "measured: RAPL package-0 (the whole package); modelled: 10 W"}
    zone.put("energy_uj", 900_000)  # what it counted meanwhile is modelled already
    clock.now = 4.0
    assert read.read()["value"] == 30.5


def test_a_gpu_is_measured_in_joules():
    nvml = Nvml(5_000_000)
    board = Board(nvml, "GPU-a")
    nvml.millijoules += 1_500
    assert board.passed() == 1.5
    assert board.name == "NVML GPU 3 (the whole GPU)"


@pytest.mark.parametrize("broken", ["init", "handle", "energy"])
def test_a_gpu_that_does_not_count_is_told(broken):
    with pytest.raises(OSError, match=f"NVML: no {broken}"):
        Board(Nvml(broken={broken}), "GPU-a")


@pytest.mark.parametrize("what", ["error", "reset"])
def test_a_gpu_that_stops_counting_is_modelled_from_then_on(what):
    nvml, clock = Nvml(1_000), Clock()
    read = Meter([Part(Board(nvml, "GPU-a"), Modelled("300 W", 300.0, clock))])
    nvml.millijoules = 3_000
    assert read.read() == {"value": 2.0, "how": "measured: NVML GPU 3 (the whole GPU)"}
    if what == "error":
        nvml.broken.add("energy")
    else:
        nvml.millijoules = 0
    clock.now = 1.0
    assert read.read()["value"] == 302.0


@pytest.mark.parametrize(
    ("nvml", "how"),
    [
        (Nvml(), "measured: NVML GPU 3 (the whole GPU); modelled: 8 W a busy core"),
        (Nvml(broken={"init"}), "modelled: 8 W a busy core, 300 W for the GPU"),
        (None, "modelled: 8 W a busy core, 300 W for the GPU"),
    ],
)
def test_a_gpu_counts_beside_its_host(tmp_path, monkeypatch, nvml, how):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="a"))
    assert meter("cuda:0").read()["how"] == how


def test_readings_never_fall_and_go_on_from_what_was_spent():
    spent = {"value": 100.0, "how": "measured: RAPL package-0 (the whole package)"}
    fresh, later = meter("cpu"), meter("cpu", spent)
    readings = [fresh.read()["value"] for _ in range(5)]
    assert readings == sorted(readings)
    reading = later.read()
    assert reading["value"] >= 100.0
    assert reading["how"].startswith(spent["how"])


def test_going_on_in_the_same_way_changes_no_word():
    clock = Clock()
    first = Meter([Part(None, Modelled("1 W", 1.0, clock))])
    clock.now = 2.0
    second = Meter([Part(None, Modelled("1 W", 1.0, clock))], first.read())
    clock.now = 5.0
    assert second.read() == first.read() == {"value": 5.0, "how": "modelled: 1 W"}
    assert added([first.read(), second.read()])["how"] == "modelled: 1 W"
