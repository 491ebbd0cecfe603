"""An engine whose speed a test sets, and a reader of made-up pictures."""

from __future__ import annotations

import itertools
import time
from typing import Any

from media import picture

from mpft_deploy.screen.streams.attempt import Attempt
from mpft_deploy.screen.streams.pixels import RgbShot

OLDEST_MS = 2000 + 2000
"""Of a verdict: `max_age`, and as much again as a batch may take on a busy machine."""


def read_pictures(attempt: Attempt) -> None:
    """Ten pictures a second, half of them to be decoded in their turn."""
    pictures = itertools.cycle([picture(seed=seed) for seed in range(4)])
    while attempt.wait(0.1):
        received = attempt.packet()
        shot = RgbShot(next(pictures))
        if attempt.pictures % 2 and attempt.pictures:
            attempt.hold(lambda shot=shot: shot, received)  # type: ignore[misc]
            attempt.pictures += 1
        else:
            attempt.offer(shot, received)


class SlowEngine:
    """A real engine that takes a while longer, and longer for each view."""

    def __init__(self, engine: Any, seconds: float, view_seconds: float = 0.0) -> None:
        self._engine, self.seconds, self._view_seconds = engine, seconds, view_seconds
        self.batches: list[int] = []
        self.idle: list[float] = []
        """Seconds between two calls."""
        self._done: float | None = None

    def run(self, patches: Any, positions: Any) -> Any:
        if self._done is not None:
            self.idle.append(time.monotonic() - self._done)
        time.sleep(self.seconds + len(patches) * self._view_seconds)
        self.batches.append(len(patches))
        logits = self._engine.run(patches, positions)
        self._done = time.monotonic()
        return logits
