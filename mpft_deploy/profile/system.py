"""What the system tells of itself, read from files; a reading that it does not give is None.

Every reader takes `root`, below which /proc and /sys lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mpft_deploy.cores import ROOT, control_group


def read_text(path: Path) -> str | None:
    """A small file's text, or None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """A small file's number, or None."""
    text = read_text(path)
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def own_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def ticks_per_second() -> int:
    """Of the times in /proc."""
    return int(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100


def core_seconds(root: Path, cores: Iterable[int]) -> tuple[float, float] | None:
    """Seconds that these cores were busy, and that a hypervisor stole from them, since boot."""
    text = read_text(root / "proc/stat")
    if text is None:
        return None
    wanted = {f"cpu{core}" for core in cores}
    busy = stolen = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    return busy / ticks_per_second(), stolen / ticks_per_second()


def process_seconds(root: Path) -> dict[tuple[int, str], float]:
    """CPU seconds of every process that can be seen, by its id and name."""
    seconds = {}
    try:
        folders = [path for path in (root / "proc").iterdir() if path.name.isdecimal()]
    except OSError:
        return {}
    for folder in folders:
        text = read_text(folder / "stat")
        if text is None or ")" not in text:
            continue  # it has ended meanwhile
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        name = head.partition("(")[2]
        seconds[int(folder.name), name] = (int(fields[11]) + int(fields[12])) / ticks_per_second()
    return seconds


def clock_mhz(root: Path, cores: Iterable[int]) -> float | None:
    """Mean clock of these cores, by cpufreq."""
    clocks = [
        read_number(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
        for core in cores
    ]
    known = [clock for clock in clocks if clock is not None]
    return sum(known) / len(known) / 1000 if known else None


def governor(root: Path, cores: Iterable[int]) -> str | None:
    """The cpufreq governor of these cores; several if they differ."""
    names = {
        read_text(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")
        for core in cores
    } - {None}
    return ", ".join(sorted(filter(None, names))) or None


def thermal_throttles(root: Path, cores: Iterable[int]) -> float | None:
    """How often these cores were slowed down because they were hot, since boot."""
    counts = [
        read_number(root / f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count")
        for core in cores
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def memory_limit_mb(root: Path) -> float | None:
    """Memory that the control group may use, by its own limit and its parents'; None for none."""
    limits = [
        read_number(folder / name)
        for folder in control_group("memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min(
        (limit / 1e6 for limit in limits if limit is not None and limit < 2**60), default=None
    )


def limit_hits(root: Path) -> float | None:
    """How often the control group or a parent was halted, having used up its share of the cores."""
    counts = [
        float(value)
        for folder in control_group("cpu", root)
        for line in (read_text(folder / "cpu.stat") or "").splitlines()
        for name, _, value in (line.partition(" "),)
        if name == "nr_throttled"
    ]
    return sum(counts) if counts else None


def load(root: Path) -> float | None:
    """Load average of the last minute."""
    text = read_text(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def resident_mb(root: Path = ROOT, field: str = "VmHWM") -> float | None:
    """Resident memory of this process: the largest so far (VmHWM) or the present (VmRSS)."""
    for line in (read_text(root / "proc/self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    return None
