"""Secrets out of the process's title: `ps` shows every user what a command was started with."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from mpft_deploy.screen.streams.address import redact

_ARG_START = 47
"""Place of arg_start in /proc/self/stat, counted from 0 (field 48 of proc(5))."""


def hide_arguments(arguments: Iterable[str]) -> None:
    """Overwrite the secrets of addresses among this process's arguments; on Linux alone.

    For a moment after the start they could be read; a configuration file avoids even that.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = Path("/proc/self/cmdline").read_bytes()
        status = Path("/proc/self/stat").read_text()
        # The second field is a name that may hold spaces; nothing after its bracket does.
        start = int(status[status.rindex(")") + 2 :].split()[_ARG_START - 2])
        for argument in arguments:
            raw = os.fsencode(argument)
            shown = os.fsencode(redact(argument))[: len(raw)].ljust(len(raw), b"*")
            place = line.find(raw)
            while start and raw != shown and place >= 0:
                ctypes.memmove(start + place, shown, len(raw))
                place = line.find(raw, place + len(raw))
