"""Threads that decode: those that hang are replaced, but not without end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from telling import HandClock, eventually

from mpft_deploy.screen.streams import decoders as module
from mpft_deploy.screen.streams.attempt import GRACE, Coded
from mpft_deploy.screen.streams.decoders import Decoders
from mpft_deploy.screen.streams.pace import Pace


class Hanging:
    """A source whose every frame makes its decoder hang until it is set free."""

    name = "cam"

    def __init__(self, clock: HandClock) -> None:
        self.free, self.given, self.results = threading.Event(), threading.Semaphore(0), []
        self._clock = clock
        self.attempt: Any = SimpleNamespace(cut=threading.Event())

    def _decode(self) -> str:
        self.given.release()
        self.free.wait(60)
        return "overload"

    def waiting(self) -> float:
        return self._clock.now

    def claim(self) -> Coded | None:
        if self.free.is_set():
            return None
        return Coded(self._decode, self._clock.now, 0.0, self.attempt)

    def decoded(self, frame: Coded, result: object) -> None:
        self.results.append(result)


@dataclass
class Seat:
    source: Any
    served: int = 0


def test_hanging_decoders_are_bounded() -> None:
    clock = HandClock()
    source = Hanging(clock)
    before = threading.active_count()
    decoders = Decoders(lambda: [Seat(source)], clock, Pace(1, 1000.0))
    decoders.start()
    workers = threading.active_count() - before
    decoders.wake()
    for _ in range(workers + module.MOST_ABANDONED):
        assert source.given.acquire(timeout=60)
        clock.now += GRACE + 0.1
        decoders.check(clock.now)
    for _ in range(20):
        clock.now += GRACE + 0.1
        decoders.check(clock.now)
        assert threading.active_count() - before <= workers + module.MOST_ABANDONED
    # Each frame that was given up was counted once, and threads that come back make room.
    assert source.results.count("damaged") == module.MOST_ABANDONED
    source.free.set()
    eventually(lambda: decoders.stop(60))  # which waits for none that was given up
