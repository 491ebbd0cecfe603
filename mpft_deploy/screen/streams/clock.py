"""The two clocks: one that only runs forward, for ages and waits, and one that tells the date."""

from __future__ import annotations

import time


class Clock:
    """The machine's own, in seconds."""

    def monotonic(self) -> float:
        """Never set, never back: every age and every wait is by this one."""
        return time.monotonic()

    def time(self) -> float:
        """Since the Unix epoch; may jump whenever someone sets it."""
        return time.time()
