"""What is counted of sources: frames and where they went, rates, reconnects; overload by that."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Iterable

logger = logging.getLogger(__name__)

WINDOW = 5
"""Seconds over which frames are counted."""

OVERLOADED, RELIEVED = 0.10, 0.03
"""Shares of pictures lost for want of time: overload begins above one, ends below the other."""

REMIND = 60.0
"""Seconds until an overload that goes on is told again."""

CAUSES = ("overload", "superseded", "stale", "behind")
"""Of frames that a faster machine would have judged."""


class Rate:
    """Events a second, over the last WINDOW whole seconds; memory does not grow."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=WINDOW + 1)
        self._began: int | None = None

    def add(self, now: float) -> None:
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

    Attributes:
        gated: frames that were passed over, since nothing had moved; set by the engine's thread.
        connections: those that gave a picture; set under the source's lock.
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
        with self._lock:
            self.screened += 1
            self._out.add(now)

    def drop(self, cause: str, count: int = 1) -> None:
        if count > 0:
            with self._lock:
                self._dropped[cause] += count

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connections - 1)

    def dropped(self) -> dict[str, int]:
        with self._lock:
            return dict(self._dropped)

    def rates(self, now: float) -> tuple[float, float]:
        with self._lock:
            return self._in.per_second(now), self._out.per_second(now)


class Load:
    """Tells when overload begins, goes on and ends; screening fewer frames is never silent.

    Attributes:
        reason: what is lost and what helps, in words; empty without overload.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._began = -math.inf
        self._told = 0.0
        self._before = (0, 0)

    def check(self, tallies: Iterable[Tally], now: float) -> None:
        """Look at all sources' counts; called a few times a second, now monotonic."""
        seconds = now - self._began
        if seconds < WINDOW:
            return
        lost = done = 0
        for tally in tallies:
            dropped = tally.dropped()
            lost += sum(dropped.get(cause, 0) for cause in CAUSES)
            done += tally.screened + tally.gated
        new_lost, new_done = lost - self._before[0], done - self._before[1]
        new = new_lost + new_done
        if new == 0 and seconds < REMIND:  # frames may come more seldom than windows
            return
        self._began, self._before = now, (lost, done)
        # Sources that went take their counts with them.
        if math.isinf(seconds) or new_lost < 0 or new_done < 0:
            return
        share = new_lost / new if new else 0.0
        if share > OVERLOADED or (self.reason and share >= RELIEVED):
            begins = not self.reason
            self.reason = (
                f"{new_done / seconds:.1f} of {new / seconds:.1f} frames a second are judged, "
                "fewer of each source alike; use fewer sources, --decode keyframes or a lower "
                "rate, or a faster engine"
            )
            if begins or now - self._told >= REMIND:
                self._told = now
                logger.warning("overloaded: %s", self.reason)
        elif self.reason:
            self.reason = ""
            logger.warning("no longer overloaded: %.1f frames a second", new_done / seconds)
