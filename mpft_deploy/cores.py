"""How many cores this process may use: by its affinity, and by the quota of its control group."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from mpft_deploy.errors import UsageError

ROOT = Path("/")


def available_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy, at least 1.

    A quota (`docker --cpus`, Kubernetes limits, systemd's CPUQuota) counts rounded: what is below
    half a core is not worth a thread of its own, since threads that together use the quota up are
    halted together, and those that wait for one another meanwhile spend it too.

    Args:
        root: below which /proc and /sys lie.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_limit(root)
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def most_threads() -> int:
    """More threads than that help no engine, and thousands never come to an end."""
    return max(64, 4 * (os.cpu_count() or 1))


def check_threads(threads: int) -> None:
    """Raise a UsageError for a number of threads that cannot be meant."""
    most = most_threads()
    if not 0 <= threads <= most:
        raise UsageError(
            f"{threads} threads are not possible: this machine has {os.cpu_count()} cores; name at "
            f"most {most}, or 0 for one on each core"
        )


def cpu_limit(root: Path = ROOT) -> float | None:
    """Cores that the control group may use: the least quota of its own and its parents'.

    None where there is none.
    """
    limits = []
    for folder in control_group("cpu", root):
        quota = _words(folder / "cpu.max") or (
            _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        )
        # "max" and -1 stand for no limit.
        if len(quota) == 2 and all(word.isdecimal() and int(word) for word in quota):
            limits.append(int(quota[0]) / int(quota[1]))
    return min(limits, default=None)


def control_group(controller: str, root: Path = ROOT) -> list[Path]:
    """Folders of this process's control group and its parents, nearest first.

    Args:
        controller: "cpu" or "memory"; of version 1 each has groups of its own.
    """
    folders = []
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        for place, top in _mounts(controller if names else "", root):
            inside = PurePosixPath(path)
            # What is mounted in a container may begin at its own group, or know nothing of it.
            below = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath()
            folders += [place / part for part in (below, *below.parents) if ".." not in part.parts]
    return list(dict.fromkeys(folders))


def _mounts(controller: str, root: Path) -> list[tuple[Path, str]]:
    """Where groups are mounted, of version 2 for "", and which group each place shows."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = (part.split() for part in line.partition(" - "))
        if len(fields) < 5 or len(kind) < 3:
            continue
        wanted = kind[0] == ("cgroup" if controller else "cgroup2")
        if wanted and (not controller or controller in kind[2].split(",")):
            found.append((root / fields[4].lstrip("/"), fields[3]))
    return found or [(root / "sys/fs/cgroup" / controller, "/")]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
