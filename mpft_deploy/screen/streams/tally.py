"""What is counted of a source: frames and where they went, rates, reconnects."""

from __future__ import annotations

import threading
from collections import Counter, deque

WINDOW = 5
"""Seconds that a frame rate is told over."""


class Rate:
    """Events a second, over the last WINDOW whole seconds; memory does not grow."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=WINDOW + 1)
        self._began: int | None = None

    def add(self, now: float) -> None:
        """One more."""
        second = int(now)
        self._began = second if self._began is None else self._began
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))

    def per_second(self, now: float) -> float:
        """0 before the first whole second."""
        if self._began is None:
            return 0.0
        last = int(now)
        span = min(WINDOW, last - self._began)
        count = sum(n for second, n in self._seconds if last - span <= second < last)
        return count / span if span else 0.0


class Tally:
    """Counts of a source since its start; from any thread.

    Every received frame is screened, gated, dropped for a cause, or on its way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = self.screened = self.gated = 0
        self._dropped: Counter[str] = Counter()
        self._in, self._out = Rate(), Rate()
        self.connections = 0

    def receive(self, now: float) -> None:
        """A frame came in, still coded."""
        with self._lock:
            self.received += 1
            self._in.add(now)

    def screen(self, now: float) -> None:
        """A frame was judged."""
        with self._lock:
            self.screened += 1
            self._out.add(now)

    def gate(self) -> None:
        """A frame was passed over, since nothing had moved."""
        with self._lock:
            self.gated += 1

    def drop(self, cause: str, count: int = 1) -> None:
        """Frames were lost."""
        if count > 0:
            with self._lock:
                self._dropped[cause] += count

    def connect(self) -> None:
        """A connection gave its first picture."""
        with self._lock:
            self.connections += 1

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connections - 1)

    def dropped(self) -> dict[str, int]:
        """Frames by cause."""
        with self._lock:
            return dict(self._dropped)

    def rates(self, now: float) -> tuple[float, float]:
        """Frames received and judged a second."""
        with self._lock:
            return self._in.per_second(now), self._out.per_second(now)
