"""What a process that reads a source may still do: little, where the kernel can hold it to that.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) keeps it from files and ports, a
filter of system calls (https://docs.kernel.org/userspace-api/seccomp_filter.html) from programs,
other processes, other kinds of sockets, and parts of the kernel that decoding has no use for. The C
library has no functions for either.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import platform
import resource
import socket
import struct
import sys
from pathlib import Path

from mpft_deploy.screen.streams.address import Address
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

_NO_NEW_PRIVILEGES, _GET_FILTER, _SET_FILTER = 38, 21, 22
"""Of prctl(2)."""

_FORBIDDEN = {
    "x86_64": (
        *(59, 322, 101, 310, 311),  # execve, execveat, ptrace, process_vm_readv and _writev
        *(50, 272, 308, 161, 165, 166),  # listen, unshare, setns, chroot, mount, umount2
        *(248, 249, 250, 321, 298, 323, 425),  # keys, bpf, perf_event_open, userfaultfd, io_uring
        *(175, 313, 246, 304, 135),  # modules, kexec_load, open_by_handle_at, personality
    ),
    "aarch64": (
        *(221, 281, 117, 270, 271),
        *(201, 97, 268, 51, 40, 39),
        *(217, 218, 219, 280, 241, 282, 425),
        *(105, 273, 104, 265, 92),
    ),
}
"""System calls by their numbers on a kind of processor, in the same order."""

_FILTERED = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""How filters call the kind (AUDIT_ARCH), and the number of socket(2)."""

_INTERNET, _NETLINK = (socket.AF_INET, socket.AF_INET6), 16
"""Families of sockets that are left; by the latter the C library asks which addresses there are."""

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
    readable = [*SYSTEM, sys.prefix, sys.base_prefix, *sys.path, settings.ca_file]
    _landlock([*readable, target.rest] if target.scheme == "file" else readable, target.port)
    families: tuple[int, ...] = _INTERNET if target.network else ()
    if target.host.endswith(".local"):  # names that the C library asks Avahi for, by such a socket
        families = (*families, socket.AF_UNIX)
    datagrams = settings.transport == "udp" or _needs_lookup(target)
    if not datagrams:
        os.environ["RES_OPTIONS"] = "use-vc"  # a name that it may be led to is looked up by TCP
    _filter(families, datagrams=datagrams)


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


def has_filters() -> bool:
    """Whether system calls can be filtered here: by kernel and kind of processor."""
    known = platform.machine() in _FILTERED and sys.maxsize > 2**32  # not 32 bits on such a kernel
    return known and ctypes.CDLL(None).prctl(_GET_FILTER) >= 0


def _needs_lookup(target: Address) -> bool:
    """Whether a camera's name is to be looked up, or one that it may lead to.

    Names of interfaces, as in fe80::1%eth0, are looked up by a datagram's socket, too.
    """
    if "%" in target.host or target.scheme not in ("rtsp", "rtsps"):
        return True
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return True
    return False


def _filter(families: tuple[int, ...], *, datagrams: bool) -> None:
    """Refuse what is forbidden, and sockets of other families and kinds, or for UDP."""
    if not has_filters():
        return
    load, equal, least, mask, end = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF, as classic filters have it
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    kind, open_socket = _FILTERED[platform.machine()]
    forbidden = _FORBIDDEN[platform.machine()]
    # Each step: what, with which number, and how many further steps are left out if so and if not.
    # The last two are the ends, of which the second refuses.
    steps: list[tuple[int, int, str, str]] = [
        (load, 4, "", ""),
        (equal, kind, "", "refuse"),
        (load, 0, "", ""),
        (least, 0x40000000, "refuse", ""),  # another way to call the same, on x86
        *((equal, number, "refuse", "") for number in forbidden),
        (equal, open_socket, "", "allow"),
        (load, 16, "", ""),
        (equal, _NETLINK, "allow", ""),
        *((equal, family, "family", "") for family in families),
        (equal, -1 & 0xFFFFFFFF, "", "refuse"),
        (load, 24, "", ""),
        (mask, 0xF, "", ""),
        (equal, socket.SOCK_STREAM, "allow", ""),
        (equal, socket.SOCK_DGRAM, "allow" if datagrams else "refuse", "refuse"),
    ]
    places = {"family": len(steps) - 4, "allow": len(steps), "refuse": len(steps) + 1}
    code = b"".join(
        struct.pack("HBBI", what, *(places.get(to, at + 1) - at - 1 for to in (yes, no)), number)
        for at, (what, number, yes, no) in enumerate(steps)
    )
    code += struct.pack("HBBI", end, 0, 0, allow) + struct.pack("HBBI", end, 0, 0, refuse)
    library, program = ctypes.CDLL(None), ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("HP", len(code) // 8, ctypes.addressof(program))
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.prctl(_SET_FILTER, 2, filters)
