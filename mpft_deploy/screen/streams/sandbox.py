"""What a process that reads a source may still do: little, where the kernel can hold it to that.

Landlock is a part of Linux (https://docs.kernel.org/userspace-api/landlock.html); the C library has
no functions for it yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
from pathlib import Path

from mpft_deploy.screen.streams.settings import SourceSettings

BASE = 2**29
"""Bytes of address space that a process gets on top of what it has, whatever it reads."""

OF_PIXEL = 96
"""And for every pixel that a picture may have: 17 frames of 10 bits, and two of RGB to convert."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
"""Of landlock_create_ruleset(2): asks which version of Landlock there is."""

_READ_FILE, _READ_DIR = 4, 8
_FILES = {1: 13, 2: 14, 3: 15, 4: 15}
"""Rights that versions of Landlock know of files; later ones 16."""

_NET_PORTS = 3
"""To bind and to connect TCP, from version 4 on."""

_CONNECT = 2
_SCOPED = 3
"""Abstract sockets of others, and signals to them, from version 6 on."""

_BENEATH, _PORT = 1, 2
"""Kinds of rules."""

_NO_NEW_PRIVILEGES = 38
"""Of prctl(2)."""

SYSTEM = (
    *("/lib", "/lib64", "/usr", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"),
    *("/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/nsswitch.conf", "/etc/resolv.conf"),
    *("/etc/services", "/etc/ld.so.cache", "/etc/localtime", "/run/systemd/resolve"),
    *("/proc/self", "/dev/null", "/dev/urandom", str(Path(__file__).parents[2])),
)  # fmt: skip
"""What name resolution, TLS and loading of libraries read, this package too."""


def confine(settings: SourceSettings) -> None:
    """Take from this process what reading a source does not need; before it starts a thread.

    Nothing where a hardware decoder is used: its driver needs devices, and maps memory without end.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings.hwaccel:
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + BASE + OF_PIXEL * settings.max_pixels
    given = resource.getrlimit(resource.RLIMIT_AS)[1]
    if given == resource.RLIM_INFINITY or given > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    target = settings.target
    readable = [*SYSTEM, sys.prefix, sys.base_prefix, *sys.path]
    _landlock([*readable, target.rest] if target.scheme == "file" else readable, target.port)


def landlock_version() -> int:
    """Of this kernel's Landlock; below 1 where it has none, or a filter forbids its use."""
    return int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION))


def _landlock(readable: list[str], port: int) -> None:
    """Leave it those files to read, none to write or run; of TCP that port, DNS and HTTPS."""
    library, version = ctypes.CDLL(None, use_errno=True), landlock_version()
    if version < 1:
        return
    files = 2 ** _FILES.get(version, 16) - 1
    rights = struct.pack("QQQ", files, _NET_PORTS, _SCOPED)
    known = 8 if version < 4 else 16 if version < 6 else 24
    rules = library.syscall(_CREATE_RULESET, rights, known, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "Landlock gave no ruleset")
    for path in filter(None, readable):
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
            rule = struct.pack("=Qi", allowed, place)
            library.syscall(_ADD_RULE, rules, _BENEATH, rule, 0)
            os.close(place)
    if version >= 4:
        for one in {port, 53, 443} - {0}:
            library.syscall(_ADD_RULE, rules, _PORT, struct.pack("QQ", _CONNECT, one), 0)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)
