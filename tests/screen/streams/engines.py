"""An engine whose speed a test sets."""

from __future__ import annotations

import time
from typing import Any


class SlowEngine:
    """A real engine that takes a while longer."""

    def __init__(self, engine: Any, seconds: float) -> None:
        self._engine, self.seconds = engine, seconds
        self.batches: list[int] = []

    def run(self, patches: Any, positions: Any) -> Any:
        time.sleep(self.seconds)
        self.batches.append(len(patches))
        return self._engine.run(patches, positions)
