"""An engine whose speed a test sets."""

from __future__ import annotations

import time
from typing import Any


class SlowEngine:
    """A real engine that takes a while longer, and longer for each view."""

    def __init__(self, engine: Any, seconds: float, view_seconds: float = 0.0) -> None:
        self._engine, self.seconds, self._view_seconds = engine, seconds, view_seconds
        self.batches: list[int] = []

    def run(self, patches: Any, positions: Any) -> Any:
        time.sleep(self.seconds + len(patches) * self._view_seconds)
        self.batches.append(len(patches))
        return self._engine.run(patches, positions)
