"""What a program and the processes that it started take together."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process, and all that it and they started."""
    found = [pid]
    for path in (PROC / str(pid) / "task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for child in path.read_text().split():
                found += family(int(child))
    return found


def memory_mb(pid: int, field: str = "Pss") -> float:
    """Of a process, of what it shares with others its part; 0 once it has ended.

    Args:
        field: of /proc/PID/smaps_rollup, such as "Pss_Anon".
    """
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_seconds(pid: int) -> float:
    """That a process has used; 0 once it has ended."""
    with contextlib.suppress(OSError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100
    return 0.0
