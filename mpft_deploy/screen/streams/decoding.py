"""Frames that are decoded shortly before their turn, and no others; each by a thread of its own.

A frame that stands alone, a keyframe for instance, is worth decoding only if it will be judged. So
sources keep it coded until its turn is near: until the frames that are judged before it take about
as long as decoding does. A newer one takes its place for nothing meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from mpft_deploy.screen.streams.attempt import GRACE, Captured, Coded
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import Task


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
            result = shot if isinstance(shot, str) else Captured(shot, frame.received, frame.time)
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
