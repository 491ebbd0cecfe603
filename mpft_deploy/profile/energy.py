"""Energy between two moments, where the device counts it: RAPL, Jetson's rails, or NVML."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mpft_deploy.cores import ROOT
from mpft_deploy.profile import nvml, system
from mpft_deploy.profile.records import Energy

RAIL_SECONDS = 0.05


class Meter(Protocol):
    """Counts from `start` to `stop`, which gives joules; None if the device stopped telling."""

    source: str

    def start(self) -> None:
        """Begin to count."""

    def stop(self) -> float | None:
        """Joules since `start`."""


class Rapl:
    """Energy of the processor packages, by the kernel's power capping framework."""

    source = "RAPL"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._before: list[float | None] = []

    def start(self) -> None:
        """Read the counters."""
        self._before = [system.read_number(zone / "energy_uj") for zone in self._zones]

    def stop(self) -> float | None:
        """Joules of all packages; a counter that wrapped around is put right."""
        total = 0.0
        for zone, before in zip(self._zones, self._before, strict=True):
            after = system.read_number(zone / "energy_uj")
            if before is None or after is None:
                return None
            wrap = system.read_number(zone / "max_energy_range_uj") or 0.0
            total += after - before + (wrap if after < before else 0.0)
        return total / 1e6


class Rails:
    """Power of a Jetson's input rail, read by a thread and summed."""

    source = "Jetson power rail"

    def __init__(self, volts: Path, amperes: Path) -> None:
        self._volts, self._amperes = volts, amperes  # millivolts and milliamperes
        self._stop = threading.Event()
        self._joules = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stop.clear()
        self._joules = 0.0
        self._thread = threading.Thread(target=self._sum, name="mpft-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Joules since the start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self._joules

    def _sum(self) -> None:
        last = time.perf_counter()
        while not self._stop.wait(RAIL_SECONDS):
            moment = time.perf_counter()
            volts, amperes = system.read_number(self._volts), system.read_number(self._amperes)
            self._joules += (volts or 0.0) * (amperes or 0.0) / 1e6 * (moment - last)
            last = moment


class Gpu:
    """Energy of the first NVIDIA GPU."""

    source = "NVML"

    def __init__(self, read: Callable[[], float | None]) -> None:
        self._read, self._before = read, read()

    def start(self) -> None:
        """Read the counter."""
        self._before = self._read()

    def stop(self) -> float | None:
        """Joules since the start."""
        after = self._read()
        return None if after is None or self._before is None else (after - self._before) / 1e3


def find_meter(root: Path = ROOT, *, gpu: bool = False) -> tuple[Meter | None, str]:
    """The meter of this device, or why there is none.

    Args:
        gpu: whether the measured work runs on a GPU, whose own counter is then taken.
    """
    if gpu:
        found, why = nvml.gpus()
        if found and found[0].millijoules is not None:
            return Gpu(lambda: nvml.gpus()[0][0].millijoules), ""
        return None, why or "this GPU does not count its energy"
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]"))
    if zones:
        if system.read_number(zones[0] / "energy_uj") is not None:
            return Rapl(zones), ""
        return None, f"{zones[0]}/energy_uj can be read by root alone"
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label")):
        if system.read_text(label) == "VDD_IN":
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = f"in{number}_input", f"curr{number}_input"
            return Rails(label.with_name(volts), label.with_name(amperes)), ""
    return None, "this device has neither RAPL nor Jetson power rails, as in most virtual machines"


def energy(
    meter: Meter | None, why: str, joules: float | None, seconds: float, views: int
) -> Energy:
    """The record of a measured run."""
    if meter is None:
        return Energy(why_not=why)
    if joules is None or not views or seconds <= 0:
        return Energy(source=meter.source, why_not="the counter could not be read")
    return Energy(
        source=meter.source, millijoules_per_view=1e3 * joules / views, watts=joules / seconds
    )
