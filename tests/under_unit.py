"""Runs a command as a systemd unit would, as far as that goes without systemd.

    python under_unit.py UNIT WRITABLE COMMAND...

In force, as the unit says: the system calls and address families that it allows, no new privileges
and, for root, a file system that can be written in WRITABLE and /dev/shm alone. Lists of system
calls are those of the installed systemd. Not emulated: users, devices, capabilities, memory limits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
"""Actions of seccomp(2)."""

EQUAL = 4
"""SCMP_CMP_EQ of libseccomp."""

PR_SET_NO_NEW_PRIVS = 38


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def why_not() -> str | None:
    """Why it cannot be done here, or None."""
    try:
        ctypes.CDLL("libseccomp.so.2")
        members("@default")
    except OSError as error:
        return f"libseccomp and systemd-analyze are needed: {error}"
    except subprocess.CalledProcessError as error:
        return f"systemd-analyze tells no system calls: {error}"
    return None


def settings(unit: Path) -> dict[str, list[str]]:
    """Key → its values, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def members(group: str) -> set[str]:
    """The system calls of a group, such as @default."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in done.stdout.splitlines()[1:]]
    names = {line for line in lines if line and not line.startswith(("#", "@"))}
    return names.union(*(members(line) for line in lines if line.startswith("@")))


def allowed(filters: list[str]) -> set[str]:
    """What a unit's lines SystemCallFilter= leave; the first must say what is allowed."""
    calls = members("@default")
    for line in filters:
        words = line.removeprefix("~").split()
        named = set().union(*(members(w) if w.startswith("@") else {w} for w in words))
        calls = calls - named if line.startswith("~") else calls | named
    return calls | members("@default")


def filter_calls(unit: dict[str, list[str]]) -> None:
    """Forbid the rest, to this process and what it becomes."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    number = unit.get("SystemCallErrorNumber")
    refusal = ERRNO | getattr(errno, number[-1]) if number else KILL
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(refusal)))
    for name in allowed(unit["SystemCallFilter"]):
        call = library.seccomp_syscall_resolve_name(name.encode())
        if call >= 0 and name != "socket":  # others belong to other processors
            assert not library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), call, 0)
    call = library.seccomp_syscall_resolve_name(b"socket")
    for family in unit["RestrictAddressFamilies"][-1].split():
        same = _Comparison(0, EQUAL, getattr(socket, family), 0)
        assert not library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), call, 1, same)
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert library.seccomp_load(context) == 0


def protect_files(writable: Path) -> None:
    """Leave one folder to write in, in a mount namespace of this process's own."""
    run = subprocess.run
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    run(["mount", "--make-rprivate", "/"], check=True)
    run(["mount", "--bind", writable, writable], check=True)
    for place in sorted(set(places)):
        if not place.startswith(("/proc", "/sys", "/dev")):
            run(["mount", "-o", "remount,bind,ro", place], check=True)


def main(unit: str, writable: str, *command: str) -> None:
    """See the module."""
    if os.geteuid() == 0 and "MPFT_UNSHARED" not in os.environ:
        os.environ["MPFT_UNSHARED"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    if os.geteuid() == 0:
        protect_files(Path(writable))
        os.chdir(writable)  # anew, or it would be that below the mounts
    filter_calls(settings(Path(unit)))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
