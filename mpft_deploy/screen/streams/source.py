"""A source: a thread that reads it, connects it anew as often as it takes, and its newest frame.

    connecting → live ⇄ stalled, frozen;  any → down → live …;  live → ended for what has an end;
    any → paused → connecting

Nothing waits for a reader: a thread that hangs in a library is abandoned, counted and replaced.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mpft_deploy.screen.evidence.ring import Ring
from mpft_deploy.screen.streams.address import redact_text
from mpft_deploy.screen.streams.attempt import (
    Attempt,
    Captured,
    Coded,
    Reader,
    SourceLostError,
    Told,
)
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.records import SourceEvent, State
from mpft_deploy.screen.streams.runs import I32
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.tally import Tally
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.streams.wire import Dropped, Opened, Received

logger = logging.getLogger(__name__)

Frame = TypeVar("Frame", Captured, Coded)

HEALTHY = 30.0
"""Seconds of pictures after which a failure is a first one again."""

CUT = 0.25
"""Seconds after which a stream is asked for again that gave pictures, at its first failure."""

JITTER = 0.25
"""Share of a wait that may be left out, so that sources spread."""

MAX_ABANDONED = 3
"""Hanging threads of a source; with so many it waits for one to return before it tries again."""

SAME_PICTURES = 3
"""Pictures that must be the same, besides the time, for a source to be called frozen."""


class Source:
    """A source that stays alive; see the module.

    Args:
        read: its reader.
        wake: called when a frame waits.
        ring: keeps what its reader gets coded, where evidence is wanted.

    Attributes:
        sides: height and width of the last picture that came decoded.
        retry_at: when it is tried again, by the monotonic clock; None if it does not wait for that.
    """

    def __init__(
        self,
        settings: SourceSettings,
        read: Reader,
        emitter: Emitter,
        clock: Clock,
        wake: Callable[[], None],
        ring: Ring | None = None,
    ) -> None:
        self.ring = ring
        self.settings, self.address = settings, settings.target
        self.tally = Tally()
        self.codec = self.note = ""
        self.sides: tuple[int, int] | None = None
        self.reason = ""
        self.state: State = "connecting"
        self.retry_at: float | None = None
        self._read, self._emitter, self._clock = read, emitter, clock
        self._wake = wake
        self._failures = -1
        self._lock = threading.RLock()
        self._pending: Captured | Coded | None = None
        self._attempt: Attempt | None = None
        self._thread: Task | None = None
        self._abandoned: set[threading.Thread] = set()
        self._hung = False
        self._stopped = threading.Event()
        self._same: I32 | None = None
        self._same_since, self._same_count = 0.0, 0

    @property
    def name(self) -> str:
        """In events and pages."""
        return self.settings.name

    @property
    def started(self) -> bool:
        """Whether it is read, or was."""
        return self._thread is not None

    @property
    def abandoned(self) -> int:
        """Threads that hang in a library."""
        return sum(thread.is_alive() for thread in self._abandoned)

    def start(self) -> None:
        """Begin to read, in a thread of its own."""
        attempt = self._attempt = self._new_attempt()
        self._thread = Task(self.name, lambda: self._run(attempt))
        try:
            self._thread.start()
        except RuntimeError as error:  # the system allows no further thread; `check` tries again
            with self._lock:
                self._hung = True
                self._set_state("down", str(error))

    def pause(self, reason: str) -> None:
        """Read nothing until `resume`; before the start, or later."""
        with self._lock:
            if self._attempt is not None:
                self._attempt.cancelled.set()
                self._attempt = None
            if self._thread is not None:
                self._abandoned.add(self._thread)
                self._thread = None
            self._hung = False
            self._give_up()
            self._set_state("paused", reason)

    def resume(self) -> None:
        with self._lock:
            self._failures = -1
            self._set_state("connecting")
            self.start()

    @property
    def alive(self) -> bool:
        """Whether its thread did not fail since the last `check`."""
        return self._thread is None or self._thread.failure is None

    def stop(self) -> None:
        """Tell the reader to end; `join` waits for it. Its state is told no more."""
        with self._lock:
            self._stopped.set()
            if self._attempt is not None:
                self._attempt.cancelled.set()

    def join(self, timeout: float) -> bool:
        """Whether every thread of it has ended, after at most that many seconds."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(max(0.0, timeout))
        with self._lock:
            self._give_up()
        return not self.abandoned and (self._thread is None or not self._thread.is_alive())

    def _give_up(self) -> None:
        """Under the lock: what waits is not judged."""
        if self._pending is not None:
            self._pending = None
            self.tally.drop("stopped")

    def _new_attempt(self) -> Attempt:
        attempt = Attempt(self.settings, self._clock, self.ring, self._hear)
        attempt.occupied = self.waiting
        return attempt

    def _hear(self, attempt: Attempt, told: Told) -> None:
        """Count what the reader of `attempt` tells, and take its frames."""
        if isinstance(told, Opened):
            self.codec, self.note = told.codec, told.note
        elif isinstance(told, Dropped):
            self.tally.drop(told.cause, told.count)
        elif isinstance(told, Received):
            self.tally.receive(attempt.heard)
            limit = self.settings.picture_timeout
            if attempt.heard - attempt.seen > limit:
                raise SourceLostError(f"no picture in {limit:g} s of data")
        else:
            self._put(told, attempt)

    def _put(self, frame: Captured | Coded, attempt: Attempt) -> None:
        """Take a frame; it replaces one that nobody took."""
        with self._lock:
            if attempt is not self._attempt or attempt.stopping:
                self.tally.drop("stopped")
                return
            if isinstance(self._pending, Coded):
                self._pending.attempt.see()
                self.tally.drop("overload")
            elif self._pending is not None:
                self.tally.drop("superseded")
            self._pending, attempt.occupied = frame, True
            if isinstance(frame, Captured):
                self.sides = (frame.shot.height, frame.shot.width)
                if attempt.pictures == 1:
                    self.tally.connections += 1
                    self._same = None
            if self.state in ("connecting", "stalled", "down"):
                self._set_state("live", self.note)
        self._wake()

    @property
    def waiting(self) -> bool:
        """Whether a frame waits for its turn."""
        return self._pending is not None

    def take(self, kind: type[Frame]) -> Frame | None:
        """The frame that waits, if there is one of that kind."""
        with self._lock:
            frame = self._pending
            if not isinstance(frame, kind):
                return None
            self._pending = None
            if self._attempt is not None:
                self._attempt.occupied = False
                self._attempt.turns += 1
            return frame

    def look(self, scores: I32, now: float) -> None:
        """Compare a frame's texture scores with those before: the same for long means frozen."""
        with self._lock:
            if self._same is None or not np.array_equal(self._same, scores):
                self._same, self._same_since, self._same_count = scores, now, 1
                if self.state == "frozen":
                    self._set_state("live", self.note)
                return
            self._same_count += 1
            limit = self.settings.frozen
            long = now - self._same_since >= limit and self._same_count >= SAME_PICTURES
            if limit and long and self.state == "live":
                self._set_state("frozen", f"the same picture for {limit:g} s")

    def check(self, now: float) -> None:
        """Notice silence, and threads that hang or failed; called a few times a second."""
        with self._lock:
            attempt, thread = self._attempt, self._thread
            if attempt is None or thread is None or self._stopped.is_set():
                return
            if thread.failure is not None:
                self._set_state("down", f"its reader failed: {type(thread.failure).__name__}")
                self.start()
                return
            silence = now - attempt.heard
            if self.state in ("live", "frozen") and silence > self.settings.stall:
                self._set_state("stalled", f"no data for {self.settings.stall:g} s")
            if now > attempt.deadline and thread.is_alive() and not attempt.stopping:
                self.abandon(thread, attempt)
            self._abandoned = {old for old in self._abandoned if old.is_alive()}
            if self._hung and len(self._abandoned) < MAX_ABANDONED:
                self._hung = False
                self.start()

    def abandon(self, thread: threading.Thread, attempt: Attempt) -> None:
        """Give up the connection of which a thread hangs in a library; `check` makes another.

        There is another already where it was an earlier one.
        """
        with self._lock:
            self._abandoned.add(thread)
            logger.warning("%s: a reader hangs and was abandoned", self.name)
            if attempt is not self._attempt or self._thread is None:
                return
            attempt.cancelled.set()
            self._abandoned.add(self._thread)
            self._hung = True
            self._set_state("down", "the connection hangs; it was given up")

    def _run(self, attempt: Attempt) -> None:
        while True:
            end = attempt.run(self._read)
            self.tally.drop("disconnected", attempt.on_the_way)
            if attempt.stopping:
                return
            if not end.why:
                with self._lock:
                    if attempt is self._attempt:
                        self._set_state("ended")
                return
            if attempt.pictures and attempt.seen - attempt.began >= HEALTHY:
                self._failures = -1
            reason = redact_text(end.why, self.address.secrets)
            if not self._pause(attempt, reason, gone=end.gone):
                return
            with self._lock:
                if self._attempt is not attempt:
                    return
                attempt = self._attempt = self._new_attempt()
                self.retry_at = None
                if self._stopped.is_set():
                    return

    def _pause(self, attempt: Attempt, reason: str, *, gone: bool) -> bool:
        """Wait before the next attempt; whether to go on.

        A stream that was cut is asked for again after CUT. Where nobody is there the wait is a
        second; a server that has no stream for us is left alone for a second too, then two, four
        and so on.
        """
        if gone or not attempt.pictures:
            self._failures = 0 if gone else max(0, self._failures)
        # 2**30 s is beyond any cap, and no float overflows on the way.
        wait = CUT if self._failures < 0 else 2.0 ** min(self._failures, 30)
        longest = min(self.settings.retry, wait)
        delay = longest * (1 - JITTER * random.random())
        if not gone:
            self._failures += 1
        with self._lock:
            if attempt is not self._attempt:
                return False
            self._set_state("down", reason, delay)
            self.retry_at = self._clock.monotonic() + delay
        return attempt.wait(delay)

    def _set_state(self, state: State, reason: str = "", retry_in: float | None = None) -> None:
        """Under the lock. Repeated attempts at a source that is down are no news."""
        previous, self.state, self.reason = self.state, state, reason
        self.retry_at = None
        if previous != state and not self._stopped.is_set():
            self._emitter.emit(
                SourceEvent,
                source=self.name,
                state=state,
                previous=previous,
                reason=reason,
                retry_in=retry_in,
            )
