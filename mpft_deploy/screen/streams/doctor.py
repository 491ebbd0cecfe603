"""Trying a source once, to tell an operator whether and how it works."""

from __future__ import annotations

import time

import msgspec

from mpft_deploy.extras import require
from mpft_deploy.screen.streams.attempt import SourceLostError
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.config import short_name, source_settings
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.processes import ReaderProcesses
from mpft_deploy.screen.streams.readers import find_reader
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.source import Source

_LOOK = 0.02

_COUNTED = 2.0
"""Seconds for which frames are counted."""

TIMEOUT = 15.0
"""Seconds within which a picture must come."""


class Found(msgspec.Struct, frozen=True):
    """What a source is.

    Attributes:
        address: without credentials.
        codec: with what an operator should know, such as which of several tracks is read.
        fps: frames a second, over two seconds; None for what ended before, or has no pace.
        after: seconds to the first picture.
    """

    address: str
    codec: str
    width: int
    height: int
    fps: float | None
    after: float


def look(settings: SourceSettings, processes: ReaderProcesses | None = None) -> Found:
    """Connect to a source and describe it; free of secrets.

    Args:
        processes: see `find_reader`.

    Raises:
        SourceLostError: no picture came; says why.
        EnvironmentLacksError: the extra `video` is not installed.
    """
    require("video", "a stream", "av")
    clock = Clock()
    emitter = Emitter(None, clock)
    read = find_reader(settings.target, processes)
    source = Source(settings, read, emitter, clock, lambda: None)
    began = clock.monotonic()
    source.start()
    try:
        while source.sides is None and source.state not in ("down", "ended"):
            if clock.monotonic() - began > TIMEOUT:
                break
            time.sleep(_LOOK)
        sides, seen, before = source.sides, clock.monotonic(), source.tally.received
        if sides is None:
            reason = source.reason or f"no picture within {TIMEOUT:g} s"
            where = f"{source.address}: "  # a file's reason begins by it
            raise SourceLostError(where + reason.removeprefix(where))
        while source.state == "live" and clock.monotonic() - seen < _COUNTED:
            time.sleep(_LOOK)
        counted = clock.monotonic() - seen
        received = source.tally.received - before
    finally:
        source.stop()
        source.join(1.0)
    return Found(
        address=source.address.shown,
        codec=f"{source.codec}, {source.note}" if source.note else source.codec,
        width=sides[1],
        height=sides[0],
        fps=round(received / counted, 1) if received and counted >= _COUNTED else None,
        after=round(seen - began, 2),
    )


def describe(address: str) -> str:
    """What is at an address, in words; raises as `look`, and a UsageError if it is none."""
    found = look(source_settings(address, name=short_name(address)))
    rate = "" if found.fps is None else f", {found.fps:g} frames a second"
    return (
        f"{found.address}: {found.codec} {found.width} × {found.height}{rate}; "
        f"the first picture after {found.after:.1f} s"
    )
