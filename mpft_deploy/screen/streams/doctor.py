"""Trying a source once, to tell an operator whether and how it works."""

from __future__ import annotations

import time

from mpft_deploy.screen.streams.attempt import SourceLostError
from mpft_deploy.screen.streams.clock import SystemClock
from mpft_deploy.screen.streams.config import short_name
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.library import source_settings
from mpft_deploy.screen.streams.readers import find_reader
from mpft_deploy.screen.streams.source import Source

_LOOK = 0.02


def first_picture(address: str, timeout: float = 15.0) -> str:
    """Connect to a source and describe its first picture; the text is free of secrets.

    Raises:
        UsageError: it is no address.
        SourceLostError: no picture came; says why.
    """
    settings = source_settings(address, name=short_name(address))
    clock = SystemClock()
    emitter = Emitter(None, clock)
    source = Source(
        settings, find_reader(settings.target), emitter, clock, lambda: None, lambda: None
    )
    source.start()
    try:
        end = clock.monotonic() + timeout
        while source.waiting() is None and source.state != "down" and clock.monotonic() < end:
            time.sleep(_LOOK)
        frame = source.take()
    finally:
        source.stop()
        source.join(1.0)
    if frame is None:
        reason = source.reason or f"no picture within {timeout:g} s"
        raise SourceLostError(f"{source.address}: {reason}")
    return f"{source.address}: {source.codec} {frame.shot.width} × {frame.shot.height}"
