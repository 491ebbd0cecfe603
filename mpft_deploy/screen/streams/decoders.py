"""Threads that decode frames shortly before their turn, and no others.

A frame that stands alone, a keyframe for instance, is worth decoding only if it will be judged. So
sources keep it coded until its turn is near: until the frames that are judged before it take about
as long as decoding does. A newer one takes its place for nothing meanwhile, and one that would be
too old at its turn is never decoded. Frames go to be judged in the order in which they were begun,
so each that was decoded is also judged, and sources are served in even turns.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from mpft_deploy.cores import available_cores
from mpft_deploy.screen.streams.attempt import Coded
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.settings import ScreenSettings
from mpft_deploy.screen.streams.source import Source

MOST = 8
"""Threads, at most; FFmpeg decodes hundreds of keyframes of 1080p a second with them."""

WEIGHT = 0.1
"""Of the newest duration in a mean."""


class Mean:
    """A running mean of durations, in seconds; 0 before the first."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = False

    def add(self, seconds: float) -> None:
        """One more."""
        weight = WEIGHT if self._begun else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self._begun = True


class Turn(Protocol):
    """A source and the turn in which it was served last."""

    source: Source
    served: int


class Decoders:
    """Decodes what will soon be judged; see the module.

    Args:
        turns: the sources now.
        batch: frames that are judged at once.
        judging: how long one frame takes to be judged.
    """

    def __init__(
        self,
        turns: Callable[[], Sequence[Turn]],
        settings: ScreenSettings,
        clock: Clock,
        batch: int,
        judging: Mean,
    ) -> None:
        self._turns, self._settings, self._clock = turns, settings, clock
        self._batch, self._judging, self._decoding = batch, judging, Mean()
        self._changed = threading.Condition()
        self._news = self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"mpft-decode{index}", daemon=True)
            for index in range(min(MOST, available_cores()))
        ]

    def wake(self) -> None:
        """A frame waits to be decoded, or the turn of one came nearer."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def start(self) -> None:
        """Begin to decode."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish the frames at hand and end; whether all did in that many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = self._clock.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - self._clock.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._news and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                self._news = False
            while not self._stopping and (found := self._claim()) is not None:
                self.wake()  # there may be one for the next thread
                source, frame, wait = found
                source.decoded(frame, self._decode(frame, wait))

    def _claim(self) -> tuple[Source, Coded, float] | None:
        """A frame that is to be decoded now, and in how many seconds it is judged then."""
        waiting = [turn for turn in self._turns() if turn.source.waiting() is not None]
        waiting.sort(key=lambda turn: turn.served)
        judging = self._judging.seconds
        ahead = self._batch + (math.ceil(self._decoding.seconds / judging) if judging else MOST)
        for place, turn in enumerate(waiting[:ahead]):
            frame = turn.source.claim()
            if frame is not None:
                return turn.source, frame, (place + 0.5) * judging
        return None

    def _decode(self, frame: Coded, wait: float) -> Shot | str:
        began = self._clock.monotonic()
        if began + wait - frame.received > self._settings.max_age:
            return "overload"
        try:
            result = frame.decode()
        except Exception:
            # Whatever a library makes of a damaged frame, the next one must be decoded. That there
            # are none for long ends the connection, and a new one says why.
            return "damaged"
        self._decoding.add(self._clock.monotonic() - began)
        return result
