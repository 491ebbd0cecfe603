"""Secrets out of the process's title: `ps` shows every user what a command was started with."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable
from pathlib import Path

_ARG_START = 47
"""Place of arg_start in /proc/self/stat, counted from 0 (field 48 of proc(5))."""


def hide_arguments(secrets: Iterable[str]) -> None:
    """Overwrite secrets in this process's command line with stars; on Linux alone.

    For a moment after the start they could be read; a configuration file avoids even that.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = Path("/proc/self/cmdline").read_bytes()
        status = Path("/proc/self/stat").read_text()
        # The second field is a name that may hold spaces; nothing after its bracket does.
        start = int(status[status.rindex(")") + 2 :].split()[_ARG_START - 2])
        for secret in sorted(secrets, key=len, reverse=True):
            wanted = secret.encode()
            place = line.find(wanted)
            while wanted and start and place >= 0:
                ctypes.memset(start + place, ord("*"), len(wanted))
                place = line.find(wanted, place + len(wanted))
