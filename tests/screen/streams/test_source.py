"""A source's states, waits and counts, with readers and a clock that do what tests say."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams import source as module
from mpft_deploy.screen.streams.attempt import GRACE, Attempt, Reader, SourceLostError
from mpft_deploy.screen.streams.backoff import Backoff
from mpft_deploy.screen.streams.clock import SystemClock
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.load import WINDOW, Load
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.read_av import Lag
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.tally import Rate, Tally
from mpft_deploy.screen.tell.fanout import Sinks

SHOT = RgbShot(np.zeros((32, 32, 3), np.uint8))


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now, self.date = 1000.0, 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.date


class Told:
    """A sink that keeps what it is sent."""

    name = "told"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, event: Event) -> None:
        self.events.append(event)

    def close(self, timeout: float) -> None:
        pass


class Bench:
    """A source with a reader of the test's."""

    def __init__(self, read: Reader, clock: Any, **settings: Any) -> None:
        self.told, self.clock = Told(), clock
        self.emitter = Emitter(self.told, clock)
        self.emitter.start()
        merged = {"address": "gst:test", "name": "cam", "retry": 0.05, **settings}
        self.source = Source(SourceSettings(**merged), read, self.emitter, clock, lambda: None)

    @property
    def states(self) -> list[str]:
        return [event.state for event in list(self.told.events) if isinstance(event, SourceEvent)]

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not what():
            assert time.monotonic() < end, (self.states, self.source.tally.dropped())
            time.sleep(0.002)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made = []

    def make(read: Reader, clock: Any = None, **settings: Any) -> Bench:
        made.append(Bench(read, clock or SystemClock(), **settings))
        made[-1].source.start()
        return made[-1]

    yield make
    for one in made:
        one.source.stop()
        one.source.join(2)
        one.emitter.close(1)


def test_a_source_that_fails_is_tried_again_and_again(bench: Any) -> None:
    attempts = []

    def read(settings: SourceSettings, attempt: Attempt) -> None:
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

    def read(settings: SourceSettings, attempt: Attempt) -> None:
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


def test_what_ends_is_not_tried_again(bench: Any) -> None:
    one = bench(lambda settings, attempt: attempt.offer(SHOT, attempt.packet()))
    one.until(lambda: one.states == ["live", "ended"])
    assert one.source.take() is not None
    assert one.source.take() is None


def test_one_frame_is_kept_and_every_other_counted(bench: Any) -> None:
    def read(settings: SourceSettings, attempt: Attempt) -> None:
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

    def read(settings: SourceSettings, attempt: Attempt) -> None:
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

    def read(settings: SourceSettings, attempt: Attempt) -> None:
        while not attempt.cancelled.wait(0.002):
            if go.is_set():
                go.clear()
                attempt.offer(SHOT, attempt.packet())

    one = bench(read, clock)
    for date in (1.7e9, 0.0, 4e9, 1.7e9):
        clock.date = date
        clock.now += 1
        go.set()
        one.until(lambda: one.source.waiting() is not None)
        one.source.check(clock.now)
        frame = one.source.take()
        assert (frame.received, frame.time) == (clock.now, date)
    assert one.states == ["live"]


def test_data_without_pictures_is_given_up(bench: Any) -> None:
    clock = HandClock()

    def read(settings: SourceSettings, attempt: Attempt) -> None:
        while not attempt.cancelled.wait(0.002):
            clock.now += 1
            attempt.packet()
            attempt.drop("damaged")

    one = bench(read, clock, picture_timeout=30.0)
    one.until(lambda: one.states == ["down"])
    assert one.source.reason == "no picture in 30 s of data"


def test_the_same_picture_for_long_is_frozen(bench: Any) -> None:
    def read(settings: SourceSettings, attempt: Attempt) -> None:
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

    def read(settings: SourceSettings, attempt: Attempt) -> None:
        attempts.append(attempt)
        attempt.within(1.0)
        free.wait(20)  # deaf to whether it should stop, as FFmpeg is while it asks for a name
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
    assert time.monotonic() - began < 1
    free.set()
    one.until(lambda: one.source.abandoned == 0)
    # What they still gave is not taken for the source's.
    assert one.source.take() is None
    assert one.source.tally.dropped() == {"stopped": module.MAX_ABANDONED}


def test_hanging_readers_that_come_back_make_room(bench: Any) -> None:
    clock, free = HandClock(), threading.Event()
    attempts: list[Attempt] = []

    def read(settings: SourceSettings, attempt: Attempt) -> None:
        attempts.append(attempt)
        attempt.within(1.0)
        if len(attempts) <= module.MAX_ABANDONED:
            free.wait(20)
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


@given(
    first=st.floats(0.1, 10),
    longest=st.floats(10, 100),
    jitter=st.floats(0, 0.5),
    seed=st.integers(0, 9),
)
def test_back_off_doubles_to_its_longest(
    first: float, longest: float, jitter: float, seed: int
) -> None:
    backoff = Backoff(first, longest, jitter, random.Random(seed))
    for failures in range(1000):
        full = min(longest, first * 2 ** min(failures, 30))
        assert full * (1 - jitter) <= backoff.next() <= full
    backoff.reset()
    assert backoff.next() <= first


def test_lag_is_what_waits_in_buffers() -> None:
    lag = Lag()
    for index in range(100):
        assert lag.update(index * 0.04, index * 0.04) == pytest.approx(0, abs=1e-3)
    # Read at half its speed, a stream falls behind by half a second a second.
    for index in range(100):
        behind = lag.update(4 + index * 0.08, 4 + index * 0.04)
    assert behind == pytest.approx(100 * 0.04, rel=0.1)
    # Time stamps that start again, forward or back, are no lag.
    assert lag.update(12.1, 0.0) == 0
    assert lag.update(12.2, 5000.0) == 0
    # Nor is a camera's clock that runs a little slow.
    for second in range(10_000):
        behind = lag.update(13 + second, 5001 + second * (1 - 1e-4))
    assert behind < 0.1


@given(times=st.lists(st.floats(0, 100), max_size=200))
def test_rates(times: list[float]) -> None:
    rate = Rate()
    for now in sorted(times):
        rate.add(now)
    last = max(times, default=0.0)
    assert 0 <= rate.per_second(last) <= len(times)
    assert rate.per_second(last + 100) == 0


def test_a_rate_is_of_whole_seconds() -> None:
    rate = Rate()
    for index in range(250):
        rate.add(7.3 + index / 25)
        if index > 25:
            assert rate.per_second(7.3 + index / 25) == pytest.approx(25, abs=9)
    assert rate.per_second(17.2) == 25


def test_grades() -> None:
    tally = Tally()
    assert tally.grade("connecting", 0.0) == "down"
    tally.connect(0.0, 25.0)
    for index in range(250):
        tally.receive(index / 25)
    assert tally.grade("live", 10.0) == "good"
    assert tally.grade("frozen", 10.0) == "poor"
    assert tally.grade("down", 10.0) == "down"
    tally.connect(10.0, 25.0)
    assert tally.grade("live", 10.0) == "fair"
    assert tally.reconnects == 1
    tally.connect(10.0, 25.0)
    tally.connect(10.0, 25.0)
    assert tally.grade("live", 10.0) == "poor"
    for index in range(100 * 25):
        tally.receive(10 + index / 25)
    assert tally.grade("live", 110.0) == "good"
    for index in range(10 * 16):
        tally.receive(110 + index / 16)
    assert tally.grade("live", 120.0) == "fair"
    assert tally.grade("live", 123.0) == "poor"


def test_overload_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    load, tally, now = Load(), Tally(), 0.0
    load.check([tally], now)

    def period(screened: int, lost: int) -> int:
        nonlocal now
        for _ in range(screened):
            tally.screen(now)
        tally.drop("superseded", lost)
        tally.drop("rate", 1000)
        now += WINDOW
        caplog.clear()
        load.check([tally], now)
        return len(caplog.records)

    assert period(100, 0) == 0
    assert period(100, 5) == 0
    assert period(50, 50) == 1
    assert "overloaded: 10.0 of 20.0 frames a second" in caplog.text
    assert period(50, 50) == 0
    assert period(100, 5) == 0
    assert period(100, 0) == 1
    assert "no longer overloaded" in caplog.text
    for _ in range(2):
        period(50, 50)
    assert load.overloaded


def test_events_are_numbered_and_frames_give_way() -> None:
    told, clock = Told(), HandClock()
    emitter = Emitter(told, clock, capacity=10)
    fields = {"captured": 0.0, "age_ms": 0.0, "verdict": "real", "probability": 0.1, "logit": -1.0}
    fields |= {"stream_verdict": "real", "evidence": -3.0}
    for index in range(8):
        emitter.emit(FrameEvent, source=f"f{index}", **fields)
    for index in range(12):
        emitter.emit(SourceEvent, source=f"s{index}", state="live", previous="down")
    assert emitter.lost == 10
    emitter.start()
    emitter.close(2)
    assert [event.source for event in told.events] == [f"s{index}" for index in range(2, 12)]
    ids = [event.id for event in told.events]
    assert ids == sorted(set(ids))
    clock.date += 1
    later = Emitter(None, clock).emit(SourceEvent, source="s", state="live", previous="down")
    assert later.id > ids[-1]


def test_a_sink_that_fails_or_hangs_costs_the_others_nothing() -> None:
    class Failing(Told):
        def send(self, event: Event) -> None:
            raise RuntimeError("broken")

    class Hanging(Told):
        def close(self, timeout: float) -> None:
            time.sleep(5)

    good = Told()
    emitter = Emitter(Sinks([Failing(), Hanging(), good]), SystemClock())
    emitter.start()
    emitter.emit(SourceEvent, source="s", state="live", previous="down")
    began = time.monotonic()
    emitter.close(0.3)
    assert time.monotonic() - began < 2
    assert len(good.events) == 1
