"""A source's states and attempts, with readers and a clock that do what tests say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from telling import HandClock, Told

from mpft_deploy.screen.streams import source as module
from mpft_deploy.screen.streams.attempt import GRACE, Attempt, Captured, Reader, SourceLostError
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.records import SourceEvent
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.source import Source

SHOT = RgbShot(np.zeros((32, 32, 3), np.uint8))


class Bench:
    """A source with a reader of the test's."""

    def __init__(self, read: Reader, clock: Any, **settings: Any) -> None:
        self.told, self.clock = Told(), clock
        self.emitter = Emitter(self.told, clock)
        self.emitter.start()
        merged = {"address": "gst:test", "name": "cam", "size": "1x1", "retry": 0.05, **settings}
        self.source = Source(SourceSettings(**merged), read, self.emitter, clock, lambda: None)

    @property
    def states(self) -> list[str]:
        return [event.state for event in list(self.told.events) if isinstance(event, SourceEvent)]

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not what():
            assert time.monotonic() < end, (self.states, self.source.tally.dropped())
            time.sleep(0.002)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made = []

    def make(read: Reader, clock: Any = None, **settings: Any) -> Bench:
        made.append(Bench(read, clock or Clock(), **settings))
        made[-1].source.start()
        return made[-1]

    yield make
    for one in made:
        one.source.stop()
        one.source.join(2)
        one.emitter.close(1)


def test_a_source_that_fails_is_tried_again_and_again(bench: Any) -> None:
    attempts = []

    def read(attempt: Attempt) -> None:
        attempts.append(attempt)
        if len(attempts) % 2:
            raise SourceLostError("refused")
        attempt.offer(SHOT, attempt.packet())
        raise ValueError("a library's surprise")

    one = bench(read)
    one.until(lambda: len(attempts) >= 6)
    one.source.stop()
    # Attempts that fail at a source that is down are no news; that it lives again is.
    assert one.states[:5] == ["down", "live", "down", "live", "down"]
    reasons = [event.reason for event in one.told.events]
    assert reasons[:3] == ["refused", "", "ValueError: a library's surprise"]
    assert one.told.events[0].retry_in is not None
    assert one.source.tally.reconnects >= 1


def test_when_it_is_tried_again_is_known(bench: Any) -> None:
    clock, begun = HandClock(), threading.Event()

    def read(attempt: Attempt) -> None:
        if begun.is_set():
            attempt.cancelled.wait()
        begun.set()
        raise SourceLostError("refused")

    one = bench(read, clock, retry=60.0)
    one.until(lambda: one.source.retry_at is not None)
    # The first wait is a second, less a quarter at most.
    assert clock.now + 0.75 <= one.source.retry_at <= clock.now + 1
    clock.now += 1
    one.until(lambda: one.source.retry_at is None)
    assert one.source.state == "down"


def waits_by(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have waits take no time but the clock's."""

    def wait(attempt: Attempt, seconds: float) -> bool:
        clock.now += seconds
        return not attempt.stopping

    monkeypatch.setattr(Attempt, "wait", wait)


def test_where_nobody_is_it_is_tried_every_second_and_a_server_that_refuses_ever_less_often(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, begun = HandClock(), list[float]()

    def read(attempt: Attempt) -> None:
        begun.append(clock.now)
        if len(begun) > 30:
            attempt.cancelled.wait()
        raise SourceLostError("refused", gone=2 < len(begun) <= 20)

    waits_by(clock, monkeypatch)
    one = bench(read, clock, retry=60.0)
    one.until(lambda: len(begun) > 30)
    waits = np.diff(begun)
    once, doubling = np.ones(18), 2.0 ** np.arange(6)  # whoever was gone refuses a first time
    longest = np.concatenate([doubling[:2], once, doubling, [60.0] * 4])
    assert (waits <= longest).all()
    assert (waits >= 0.75 * longest).all()
    one.source.stop()


def test_what_was_cut_is_tried_at_once_and_what_is_cut_again_and_again_is_not(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, begun = HandClock(), list[float]()

    def read(attempt: Attempt) -> None:
        begun.append(clock.now)
        if len(begun) > 4:
            attempt.cancelled.wait()
        attempt.offer(SHOT, attempt.packet())
        raise SourceLostError("cut")

    waits_by(clock, monkeypatch)
    one = bench(read, clock, retry=60.0)
    one.until(lambda: len(begun) > 4)
    assert (np.diff(begun) <= [0.25, 1, 2, 4]).all()
    one.source.stop()


def test_what_ends_is_not_tried_again(bench: Any) -> None:
    one = bench(lambda attempt: attempt.offer(SHOT, attempt.packet()))
    one.until(lambda: one.states == ["live", "ended"])
    assert one.source.take(Captured) is not None
    assert one.source.take(Captured) is None


def test_one_frame_is_kept_and_every_other_counted(bench: Any) -> None:
    def read(attempt: Attempt) -> None:
        for index in range(100):
            now = attempt.packet()
            if index % 10 == 9:
                attempt.drop("damaged")
            elif index % 10 < 8:
                attempt.offer(SHOT, now)

    one = bench(read)
    one.until(lambda: "ended" in one.states)
    tally = one.source.tally
    assert tally.received == 100
    # 80 were offered, the newest is kept; 10 went into the reader and never came out.
    assert tally.dropped() == {"damaged": 10, "superseded": 79, "disconnected": 10}
    one.source.stop()
    one.source.join(1)
    assert tally.dropped()["stopped"] == 1


def test_silence_is_a_stall_and_ends_with_the_next_picture(bench: Any) -> None:
    clock, go = HandClock(), threading.Event()

    def read(attempt: Attempt) -> None:
        attempt.offer(SHOT, attempt.packet())
        while not attempt.cancelled.wait(0.002):
            if go.is_set():
                go.clear()
                attempt.offer(SHOT, attempt.packet())

    one = bench(read, clock, stall=3.0)
    one.until(lambda: one.states == ["live"])
    clock.now += 2.9
    one.source.check(clock.now)
    assert one.source.state == "live"
    clock.now += 0.2
    one.source.check(clock.now)
    assert (one.source.state, one.source.reason) == ("stalled", "no data for 3 s")
    go.set()
    one.until(lambda: one.states == ["live", "stalled", "live"])


def test_a_clock_that_is_set_changes_nothing(bench: Any) -> None:
    clock, go = HandClock(), threading.Event()

    def read(attempt: Attempt) -> None:
        while not attempt.cancelled.wait(0.002):
            if go.is_set():
                go.clear()
                attempt.offer(SHOT, attempt.packet())

    one = bench(read, clock)
    for date in (1.7e9, 0.0, 4e9, 1.7e9):
        clock.date = date
        clock.now += 1
        go.set()
        one.until(lambda: one.source.waiting)
        one.source.check(clock.now)
        frame = one.source.take(Captured)
        assert frame.received == clock.now
    one.until(lambda: one.states)  # the emitter has a thread of its own
    assert one.states == ["live"]


def test_data_without_pictures_is_given_up(bench: Any) -> None:
    clock = HandClock()

    def read(attempt: Attempt) -> None:
        while not attempt.cancelled.wait(0.002):
            clock.now += 1
            attempt.packet()
            attempt.drop("damaged")

    one = bench(read, clock, picture_timeout=30.0)
    one.until(lambda: one.states == ["down"])
    assert one.source.reason == "no picture in 30 s of data"


def test_the_same_picture_for_long_is_frozen(bench: Any) -> None:
    def read(attempt: Attempt) -> None:
        attempt.offer(SHOT, attempt.packet())
        attempt.cancelled.wait()

    one = bench(read, frozen=10.0)
    one.until(lambda: one.states == ["live"])
    scores = np.arange(16, dtype=np.int32)[None]
    for now in (0.0, 5.0, 9.9):
        one.source.look(scores.copy(), now)
    assert one.source.state == "live"
    one.source.look(scores.copy(), 10.0)
    assert (one.source.state, one.source.reason) == ("frozen", "the same picture for 10 s")
    one.source.look(scores + 1, 11.0)
    assert one.source.state == "live"
    # Two looks far apart prove nothing.
    one.source.look(scores, 12.0)
    one.source.look(scores, 99.0)
    assert one.source.state == "live"


def test_a_reader_that_hangs_is_abandoned_and_replaced(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, free = HandClock(), threading.Event()
    attempts: list[Attempt] = []

    def read(attempt: Attempt) -> None:
        attempts.append(attempt)
        attempt.within(1.0)
        free.wait(60)  # deaf to whether it should stop, as FFmpeg is while it asks for a name
        attempt.offer(SHOT, attempt.packet())

    one = bench(read, clock, picture_timeout=1000.0)
    for count in range(1, module.MAX_ABANDONED + 1):
        one.until(lambda count=count: len(attempts) == count)
        clock.now += 1.0 + GRACE + 0.1
        one.source.check(clock.now)
        assert one.source.abandoned == count
    # So many hang: no further one is begun until one of them is back.
    clock.now += 10
    one.source.check(clock.now)
    time.sleep(0.02)
    assert len(attempts) == module.MAX_ABANDONED
    assert one.source.state == "down"
    began = time.monotonic()
    one.source.stop()
    assert not one.source.join(0.2)
    assert time.monotonic() - began < 20  # far below what the readers hang for
    free.set()
    one.until(lambda: one.source.abandoned == 0)
    # What they still gave is not taken for the source's.
    assert one.source.take(Captured) is None
    assert one.source.tally.dropped() == {"stopped": module.MAX_ABANDONED}


def test_hanging_readers_that_come_back_make_room(bench: Any) -> None:
    clock, free = HandClock(), threading.Event()
    attempts: list[Attempt] = []

    def read(attempt: Attempt) -> None:
        attempts.append(attempt)
        attempt.within(1.0)
        if len(attempts) <= module.MAX_ABANDONED:
            free.wait(60)
        else:
            attempt.offer(SHOT, attempt.packet())
            attempt.cancelled.wait()

    one = bench(read, clock, picture_timeout=1000.0)
    for count in range(1, module.MAX_ABANDONED + 1):
        one.until(lambda count=count: len(attempts) == count)
        clock.now += 1.0 + GRACE + 0.1
        one.source.check(clock.now)
    free.set()
    one.until(lambda: one.source.abandoned == 0)
    one.source.check(clock.now)
    one.until(lambda: one.source.state == "live")


def test_a_source_that_gets_no_thread_is_tried_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        # Of threads that sources start alone, as the emitter has one too.
        full.setattr(module, "Task", type("Task", (module.Task,), {"start": start}))
        one = bench(lambda attempt: attempt.offer(SHOT, attempt.packet()))
        one.source.check(0.0)
        assert one.source.reason == "can't start new thread"
        assert one.source.join(0)
    one.source.check(0.0)
    one.until(lambda: one.states == ["down", "live", "ended"])
