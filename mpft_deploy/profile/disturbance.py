"""Was anything but the measured work going on? Asked before and after each block of queries."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpft_deploy.cores import ROOT
from mpft_deploy.profile import system
from mpft_deploy.profile.nvml import GpuReading
from mpft_deploy.profile.nvml import gpus as read_gpus

OTHERS = 0.1
"""Cores that others may use where the engine leaves none free: daemons, and the clock's grain."""

FREE_SHARE = 0.5
"""Of the cores that the engine leaves free, the share that others may use."""

STOLEN = 0.02
"""Share of a core's time that a hypervisor may take."""

CLOCK = 0.9
"""A clock below this share of the first block's disturbs."""

SHOWN = 3


@dataclass(frozen=True)
class Snapshot:
    """Counters of the machine at one moment."""

    wall: float
    own: float
    cores: tuple[float, float] | None
    processes: dict[tuple[int, str], float]
    throttles: float | None
    limited: float | None
    clock_mhz: float | None
    gpus: list[GpuReading]


@dataclass(frozen=True)
class Change:
    """What happened between two snapshots; see `records.Block`."""

    disturbed: tuple[str, ...]
    others_cores: float | None = None
    clock_mhz: float | None = None
    processes: dict[str, float] = field(default_factory=dict)


class Watch:
    """Looks at the machine.

    Args:
        threads: that the measured work uses.
        root: below which /proc and /sys lie.
        cores: that this process may run on.
        wall, own: seconds on the clock, and of this process on all its cores.
        gpu: whether the measured work runs on a GPU.
    """

    def __init__(
        self,
        threads: int,
        *,
        root: Path = ROOT,
        cores: list[int] | None = None,
        wall: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] = time.process_time,
        gpu: bool = False,
    ) -> None:
        self._root, self._wall, self._own, self._gpu = root, wall, own, gpu
        self._cores = system.own_cores() if cores is None else cores
        free = max(0, len(self._cores) - threads)
        self.allowed = max(OTHERS, FREE_SHARE * free)
        self._first_clock: float | None = None

    def look(self) -> Snapshot:
        """Read every counter."""
        processes = system.process_seconds(self._root)
        cores = system.core_seconds(self._root, self._cores)
        return Snapshot(
            self._wall(),
            self._own(),
            cores,
            processes,
            system.thermal_throttles(self._root, self._cores),
            system.limit_hits(self._root),
            system.clock_mhz(self._root, self._cores),
            read_gpus()[0] if self._gpu else [],
        )

    def between(self, before: Snapshot, after: Snapshot) -> Change:
        """What disturbed the work between two looks."""
        seconds = max(after.wall - before.wall, 1e-9)
        reasons: list[str] = []
        busiest = _busiest(before, after, seconds)
        others = None
        if before.cores is not None and after.cores is not None:
            busy = after.cores[0] - before.cores[0]
            others = max(0.0, busy - (after.own - before.own)) / seconds
            stolen = (after.cores[1] - before.cores[1]) / seconds
            if others > self.allowed:
                names = f" ({', '.join(busiest)})" if busiest else ""
                reasons.append(f"other processes used {others:.2f} cores{names}")
            if stolen > STOLEN * len(self._cores):
                reasons.append(f"the hypervisor took {stolen:.2f} cores")
        if _grew(before.throttles, after.throttles):
            reasons.append("the processor was hot and slowed down")
        if _grew(before.limited, after.limited):
            reasons.append("the control group's CPU limit was reached")
        if after.clock_mhz is not None:
            self._first_clock = self._first_clock or after.clock_mhz
            if after.clock_mhz < CLOCK * self._first_clock:
                reasons.append(
                    f"the clock fell from {self._first_clock:.0f} to {after.clock_mhz:.0f} MHz"
                )
        reasons += [f"{gpu.name} is {why}" for gpu in after.gpus for why in gpu.slowed]
        return Change(tuple(reasons), others, after.clock_mhz, busiest)


def _busiest(before: Snapshot, after: Snapshot, seconds: float) -> dict[str, float]:
    """The other processes that used most cores, of those that used a visible share of one."""
    used: dict[str, float] = {}
    for (number, name), total in after.processes.items():
        spent = (total - before.processes.get((number, name), 0.0)) / seconds
        if number != os.getpid() and (number, name) in before.processes and spent >= 0.05:
            used[name] = used.get(name, 0.0) + spent
    ranked = sorted(used.items(), key=lambda item: -item[1])[:SHOWN]
    return {name: round(cores, 2) for name, cores in ranked}


def _grew(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before
