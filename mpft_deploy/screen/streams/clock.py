"""The two clocks: one that only runs forward, for ages and waits, and one that tells the date."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both in seconds."""

    def monotonic(self) -> float:
        """Never set, never back: every age and every wait is by this one."""

    def time(self) -> float:
        """Since the Unix epoch; may jump whenever someone sets it."""


class SystemClock(Clock):
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()
