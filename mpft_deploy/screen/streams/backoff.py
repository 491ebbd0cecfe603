"""How long to wait before the next attempt."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from `first` to `longest`, each a little off, so that sources spread.

    Args:
        first, longest: in seconds.
        jitter: each delay is multiplied by a number from 1 − jitter to 1.
    """

    def __init__(
        self,
        first: float = 1.0,
        longest: float = 60.0,
        jitter: float = 0.25,
        rng: random.Random | None = None,
    ) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._rng = rng or random.Random()
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        # 2**30 s is beyond any cap, and no float overflows on the way.
        delay: float = min(self._longest, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        return delay * (1 - self._jitter * self._rng.random())

    def reset(self) -> None:
        """Start again from `first`."""
        self._failures = 0
