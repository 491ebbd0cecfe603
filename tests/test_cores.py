"""Cores by affinity and by the quotas of control groups: faked files, and a real group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpft_deploy.cores import available_cores, check_threads, control_group, cpu_limit, most_threads
from mpft_deploy.errors import UsageError

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
# As a container of version 1 sees it: the host's path of the group, and that group's own folder.
INSIDE = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
HYBRID = f"{V1}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine without control groups."""
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def describe(root: Path, mounts: str, group: str, files: dict[str, str]) -> None:
    (root / "proc/self/mountinfo").write_text(mounts + "\n")
    (root / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def quota(folder: str, cores: float) -> dict[str, str]:
    """Files of version 1."""
    return {
        f"{folder}/cpu.cfs_quota_us": f"{cores * 100_000:.0f}",
        f"{folder}/cpu.cfs_period_us": "100000",
    }


@pytest.mark.parametrize(
    ("mounts", "group", "files", "cores"),
    [
        (V2, "0::/", {"cpu.max": "50000 100000"}, 0.5),
        (V2, "0::/a/b", {"a/b/cpu.max": "max 100000"}, None),
        (V2, "0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 200000"}, 1.5),
        # systemd's slice is narrower than the service in it, and the other way round.
        (V2, "0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "100000 100000"}, 1),
        (V2, "0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "400000 100000"}, 1),
        # A process that was moved out of what its name space shows.
        (V2, "0::/../x", {"cpu.max": "200000 100000"}, 2),
        (V1, "4:cpu,cpuacct:/job", quota("cpu,cpuacct/job", 0.25), 0.25),
        (V1, "4:cpu,cpuacct:/job", quota("cpu,cpuacct/job", -0.00001), None),
        (
            V1,
            "4:cpu,cpuacct:/a/b",
            quota("cpu,cpuacct/a/b", 8) | quota("cpu,cpuacct/a", 2.5),
            2.5,
        ),
        (INSIDE, "4:cpu:/docker/abc", quota("cpu", 1.5), 1.5),
        (INSIDE, "4:cpu:/docker/abc/in", quota("cpu", 4) | quota("cpu/in", 3), 3),
        (INSIDE, "4:cpu:/elsewhere", quota("cpu", 1.5), 1.5),
        (HYBRID, "4:cpu,cpuacct:/j\n0::/k", quota("cpu,cpuacct/j", 3), 3),
        (V2, "nonsense", {"cpu.max": "also nonsense"}, None),
        ("", "", {}, None),
    ],
)
def test_the_narrowest_quota_counts(
    machine: Path, mounts: str, group: str, files: dict[str, str], cores: float | None
) -> None:
    describe(machine, mounts, group, files)
    assert cpu_limit(machine) == cores


def test_groups_of_the_memory_are_others(machine: Path) -> None:
    memory = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    describe(machine, f"{V1}\n{memory}", "4:cpu,cpuacct:/a\n3:memory:/b", {})
    base = machine / "sys/fs/cgroup"
    assert control_group("cpu", machine) == [base / "cpu,cpuacct/a", base / "cpu,cpuacct"]
    assert control_group("memory", machine) == [base / "memory/b", base / "memory"]


@pytest.mark.parametrize(
    ("limit", "cores"), [(0.1, 1), (0.5, 1), (1.4, 1), (1.5, 2), (2.4, 2), (2.5, 3), (64, 4)]
)
def test_a_quota_is_rounded_and_never_more_than_the_affinity(
    machine: Path, monkeypatch: pytest.MonkeyPatch, limit: float, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    describe(machine, V2, "0::/", {"cpu.max": f"{limit * 100_000:.0f} 100000"})
    assert available_cores(machine) == cores
    (machine / "proc/self/cgroup").unlink()
    assert available_cores(machine) == 4


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real control group of version 1 that may use half a core."""
    group = Path(f"/sys/fs/cgroup/cpu/mpft-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("making a control group needs root, and version 1 of them")
    (group / "cpu.cfs_quota_us").write_text("50000")
    join = ["sh", "-c", 'echo $$ > "$0"', str(group / "tasks")]
    joined = subprocess.run(join, capture_output=True, text=True)
    if joined.returncode == 0:
        yield group
    group.rmdir()
    if joined.returncode:  # such as real-time processes, by the kernel's rule
        policy = os.sched_getscheduler(0)
        pytest.skip(f"no process of this one may join a group: {joined.stderr}, policy {policy}")


def test_in_a_real_control_group(half_a_core: Path) -> None:
    code = (
        "from pathlib import Path; import os, sys\n"
        "Path(sys.argv[1], 'tasks').write_text(str(os.getpid()))\n"
        "from mpft_deploy.cores import available_cores, cpu_limit\n"
        "print(available_cores(), cpu_limit())"
    )
    run = [sys.executable, "-c", code, str(half_a_core)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 0.5\n", "")


def test_a_number_of_threads_that_cannot_be_meant() -> None:
    check_threads(0)
    check_threads(most_threads())
    for threads in (-1, most_threads() + 1, 3000):
        with pytest.raises(UsageError, match=f"{threads} threads"):
            check_threads(threads)
