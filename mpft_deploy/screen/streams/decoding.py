"""Frames that are decoded shortly before their turn, and no others; each by a thread of its own.

A frame that stands alone, a keyframe for instance, is worth decoding only if it will be judged. So
sources keep it coded until its turn is near: until the frames that are judged before it take about
as long as decoding does. A newer one takes its place for nothing meanwhile. How fast engine and
decoding are, and so how many frames are a full batch, is told here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mpft_deploy.screen.streams.attempt import GRACE, Captured, Coded
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import Task

WEIGHT = 0.1
"""Of the newest duration in a mean."""

BATCH_SECONDS = 0.25
"""A batch is full with as many frames as are judged in this time."""

MOST = 8
"""Frames that are decoded at a time, at most: hundreds of keyframes of 1080p a second."""


class Decoding:
    """A frame on its way from coded to decoded.

    Args:
        done: called when it is there.

    Attributes:
        result: the frame, or the cause for which there is none; None while it is decoded.
        seconds: that it took.
    """

    def __init__(
        self, source: Source, frame: Coded, clock: Clock, done: Callable[[], None]
    ) -> None:
        self._source, self._frame, self._clock, self._done = source, frame, clock, done
        self._began = clock.monotonic()
        self.result: Captured | str | None = None
        self.seconds = 0.0
        self.thread = Task("decode", self._run)
        self.thread.start()

    def check(self) -> None:
        """Give it up if it hangs, and the connection that it came by."""
        if self.result is None and self._clock.monotonic() - self._began >= GRACE:
            self.result = "damaged"
            self._source.abandon(self.thread, self._frame.attempt)

    def _run(self) -> None:
        frame = self._frame
        result: Captured | str
        try:
            shot = frame.decode()
            result = shot if isinstance(shot, str) else Captured(shot, frame.received)
        except Exception:
            # Whatever a library makes of a damaged frame, the next one must be decoded. That there
            # are none for long ends the connection, and a new one says why.
            result = "damaged"
        self.seconds = self._clock.monotonic() - self._began
        if result != "damaged":
            frame.attempt.see()
        if self.result is None:  # it was not given up meanwhile
            self.result = result
        self._done()


def mean(before: float, seconds: float) -> float:
    """A running mean of durations, in seconds, with one more; 0 before the first."""
    return before + (WEIGHT if before else 1.0) * (seconds - before)


class Pace:
    """What a scheduler and its decoders know of the engine's speed.

    Args:
        batch: frames that are judged at once, at most.
        max_age: seconds that a verdict's frame may be old.

    Attributes:
        judging: how long the engine takes for one frame, as a part of its batch, on average.
        decoding: how long a frame takes that waits coded, on average.
    """

    def __init__(self, batch: int, max_age: float) -> None:
        self._batch, self._max_age = batch, max_age
        self.judging = self.decoding = 0.0

    @property
    def batch(self) -> int:
        """Frames of a full batch."""
        most = self._batch
        return min(most, math.ceil(BATCH_SECONDS / self.judging)) if self.judging else most

    @property
    def ahead(self) -> int:
        """Frames that are to be decoded, or are, while the engine judges a batch."""
        more = math.ceil(self.decoding / self.judging) if self.judging else MOST
        return self.batch + more

    @property
    def oldest(self) -> float:
        """How old a frame may be at its turn to be no older than `max_age` at its verdict.

        At least half of `max_age`: an engine that takes longer than that must judge all the same.
        """
        return self._max_age - min(self.batch * self.judging, self._max_age / 2)
