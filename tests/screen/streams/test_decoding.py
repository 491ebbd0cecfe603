"""Frames that wait coded: how many are decoded at a time, and what becomes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from media import picture
from telling import HandClock, Told, eventually

from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams import decoding
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.config import Config, source_settings
from mpft_deploy.screen.streams.decoding import MOST
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.scheduler import Scheduler
from mpft_deploy.screen.streams.source import Source


class Bench:
    """A scheduler whose turns a test makes, and sources whose frames decode when it lets them."""

    def __init__(self, screener: Screener) -> None:
        self.clock, self.go, self.lose = HandClock(), threading.Event(), threading.Event()
        self.attempts: list[Attempt] = []
        self._emitter = Emitter(Told(), self.clock)
        self.scheduler = Scheduler(screener, Config(sources=()), self._emitter, self.clock)
        self.sources: list[Source] = []

    def add(self, count: int) -> None:
        """Sources that come first in turn, each with a frame that waits coded."""
        settings = source_settings("gst:test", name="cam", size="1x1", gate=0.0, retry=0.01)
        added = [
            Source(settings, self._read, self._emitter, self.clock, lambda: None)
            for _ in range(count)
        ]
        self.sources = added + self.sources
        channels = [self.scheduler.channel(source) for source in added]
        self.scheduler.channels = (*channels, *self.scheduler.channels)
        for source in added:
            source.start()
        eventually(lambda: all(source.waiting for source in added))

    def _read(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        if len(self.attempts) <= len(self.sources):
            attempt.hold(self._decode, attempt.packet())
        while not attempt.cancelled.wait(0.005):
            if self.lose.is_set():
                self.lose.clear()
                raise SourceLostError("lost")

    def _decode(self) -> RgbShot:
        self.go.wait()
        return RgbShot(picture())

    def under_way(self) -> int:
        """Frames that are decoded now."""
        return sum(channel.decoding is not None for channel in self.scheduler.channels)

    def close(self) -> None:
        self.go.set()
        for source in self.sources:
            source.stop()
        eventually(lambda: all(source.join(60) for source in self.sources))
        assert self.scheduler.stop(60)


@pytest.fixture
def bench(screener: Screener) -> Iterator[Callable[[], Bench]]:
    made: list[Bench] = []

    def make() -> Bench:
        made.append(Bench(screener))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_no_more_are_decoded_at_a_time_wherever_in_turn_they_are(bench: Any) -> None:
    one = bench()
    one.add(MOST)
    one.scheduler._decode_ahead()
    assert one.under_way() == MOST
    one.add(2)
    one.scheduler._decode_ahead()
    assert one.under_way() == MOST


def test_what_no_thread_can_be_had_for_is_dropped(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    one = bench()
    one.add(1)
    monkeypatch.setattr(decoding.Task, "start", start)
    one.scheduler._decode_ahead()
    assert one.under_way() == 0
    assert one.sources[0].tally.dropped() == {"overload": 1}


def test_what_is_decoded_of_a_paused_source_is_not_judged(bench: Any) -> None:
    one = bench()
    one.add(1)
    one.scheduler._decode_ahead()
    one.sources[0].pause("told to")
    one.go.set()
    eventually(lambda: one.scheduler.channels[0].decoding.result)
    one.scheduler._round()
    tally = one.sources[0].tally
    assert (tally.screened, tally.dropped()) == (0, {"stopped": 1})


def test_a_frame_of_an_earlier_connection_that_hangs_costs_this_one_nothing(bench: Any) -> None:
    one = bench()
    one.add(1)
    source = one.sources[0]
    one.scheduler._decode_ahead()
    one.lose.set()
    eventually(lambda: len(one.attempts) == 2)
    one.clock.now += decoding.GRACE
    one.scheduler._decode_ahead()
    assert not one.attempts[1].stopping
    assert source.reason == "lost"
    assert (source.abandoned, source.tally.dropped()) == (1, {"damaged": 1})


def test_an_end_waits_for_what_is_decoded_however_late_that_began(bench: Any) -> None:
    one = bench()
    scheduler, held, free = one.scheduler, threading.Event(), threading.Event()
    scheduler.start()
    asking = threading.Thread(
        target=scheduler._ask, args=(lambda: (held.set(), free.wait()),), daemon=True
    )
    asking.start()
    assert held.wait(60)
    one.add(1)
    ended: list[bool] = []
    ending = threading.Thread(target=lambda: ended.append(scheduler.stop(1.0)))
    ending.start()
    eventually(scheduler._stop.is_set)
    free.set()
    ending.join()
    asking.join()
    assert ended == [False]
    assert one.under_way() == 1
    one.go.set()
    assert scheduler.stop(60)
