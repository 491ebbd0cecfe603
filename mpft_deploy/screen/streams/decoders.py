"""Threads that decode frames shortly before their turn, and no others.

A frame that stands alone, a keyframe for instance, is worth decoding only if it will be judged. So
sources keep it coded until its turn is near: until the frames that are judged before it take about
as long as decoding does. A newer one takes its place for nothing meanwhile, and one that would be
too old at its turn is never decoded. Frames go to be judged in the order in which they were begun,
so each that was decoded is also judged, and sources are served in even turns.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from mpft_deploy.cores import available_cores
from mpft_deploy.screen.streams.attempt import GRACE, Coded
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.pace import Mean, Pace
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import Task

logger = logging.getLogger(__name__)

MOST = 8
"""Threads, at most; FFmpeg decodes hundreds of keyframes of 1080p a second with them."""


MOST_ABANDONED = 16
"""Hanging threads; with so many, one that hangs is waited for."""


class _Worker:
    """A thread, and the frame that it decodes and since when, while it does."""

    def __init__(self, run: Callable[[_Worker], None]) -> None:
        self.busy: tuple[Source, Coded, float] | None = None
        self.abandoned = False
        self.thread = Task("decode", lambda: run(self))


class Turn(Protocol):
    """A source and the turn in which it was served last."""

    source: Source
    served: int


class Decoders:
    """Decodes what will soon be judged; see the module.

    Args:
        turns: the sources now.
        pace: of the engine.
    """

    def __init__(
        self,
        turns: Callable[[], Sequence[Turn]],
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._turns, self._clock, self._pace = turns, clock, pace
        self._decoding = Mean()
        self._changed = threading.Condition()
        self._news = self._stopping = False
        self._workers = [_Worker(self._run) for _ in range(min(MOST, available_cores()))]
        self._abandoned: list[_Worker] = []

    @property
    def alive(self) -> bool:
        """Whether none of its threads failed since the last `check`."""
        return all(worker.thread.failure is None for worker in self._workers)

    def wake(self) -> None:
        """A frame waits to be decoded, or the turn of one came nearer."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def start(self) -> None:
        """Begin to decode."""
        for worker in self._workers:
            worker.thread.start()

    def check(self, now: float) -> None:
        """Replace threads that hang in a decoder, or failed; called a few times a second."""
        self._abandoned = [old for old in self._abandoned if old.thread.is_alive()]
        for index, worker in enumerate(self._workers):
            busy, failed = worker.busy, worker.thread.failure is not None
            hangs = busy is not None and now - busy[2] >= GRACE
            if not failed and (not hangs or len(self._abandoned) >= MOST_ABANDONED):
                continue
            worker.abandoned = True
            if hangs:
                self._abandoned.append(worker)
            if busy is not None:
                source, frame, _ = busy
                if hangs:
                    logger.warning("%s: a decoder hangs and was abandoned", source.name)
                source.decoded(frame, "damaged")
                frame.attempt.cut.set()
            self._workers[index] = _Worker(self._run)
            self._workers[index].thread.start()
            self.wake()

    def stop(self, timeout: float) -> bool:
        """Finish the frames at hand and end; whether all did in that many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = self._clock.monotonic() + timeout
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(max(0.0, end - self._clock.monotonic()))
        return not any(one.thread.is_alive() for one in (*self._workers, *self._abandoned))

    def _run(self, worker: _Worker) -> None:
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
                worker.busy = (source, frame, self._clock.monotonic())
                result = self._decode(frame, wait)
                worker.busy = None
                source.decoded(frame, result)
                if worker.abandoned:
                    return

    def _claim(self) -> tuple[Source, Coded, float] | None:
        """A frame that is to be decoded now, and in how many seconds it is judged then."""
        waiting = [turn for turn in self._turns() if turn.source.waiting() is not None]
        waiting.sort(key=lambda turn: turn.served)
        pace = self._pace.turn.seconds
        meanwhile = math.ceil(self._decoding.seconds / pace) if pace else MOST
        ahead = self._pace.batch + meanwhile
        for place, turn in enumerate(waiting[:ahead]):
            frame = turn.source.claim()
            if frame is not None:
                return turn.source, frame, (place + 0.5) * pace
        return None

    def _decode(self, frame: Coded, wait: float) -> Shot | str:
        began = self._clock.monotonic()
        if began + wait - frame.received > self._pace.oldest:
            return "overload"
        try:
            result = frame.decode()
        except Exception:
            # Whatever a library makes of a damaged frame, the next one must be decoded. That there
            # are none for long ends the connection, and a new one says why.
            return "damaged"
        self._decoding.add(self._clock.monotonic() - began)
        return result
