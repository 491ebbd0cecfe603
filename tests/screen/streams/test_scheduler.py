"""Scheduling: fair turns, even reduction, gates, batches, and ages within the bound."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import OLDEST_MS, SlowEngine
from media import picture
from telling import HandClock, Told, eventually

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.errors import GateError
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams import open_av
from mpft_deploy.screen.streams.attempt import Attempt
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import Event, FrameEvent, StreamEvent
from mpft_deploy.screen.streams.scheduler import Scheduler
from mpft_deploy.screen.streams.settings import ScreenSettings
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.watch import Watch
from mpft_deploy.spec import ViewPolicy


def stream(fps: float, *, still: bool = False) -> Callable[[Attempt], None]:
    """A reader that gives so many pictures a second."""
    pictures = [picture(seed=index) for index in range(1 if still else 32)]

    def read(attempt: Attempt) -> None:
        index = 0
        while attempt.wait(1 / fps):
            attempt.offer(RgbShot(pictures[index % len(pictures)]), attempt.packet())
            index += 1

    return read


@pytest.fixture
def run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run sources of a reader for some seconds on an engine of a given speed."""

    def start(
        readers: dict[str, Any],
        seconds: float,
        *,
        engine_seconds: float = 0.0,
        view_seconds: float = 0.0,
        batch: int = 1,
        views: ViewPolicy | None = None,
        screen: ScreenSettings | None = None,
        **settings: Any,
    ) -> tuple[Watch, list[Event], SlowEngine]:
        read = read_bundle(bundle)
        engine = SlowEngine(load_engine(read, threads=1), engine_seconds, view_seconds)
        screener = Screener(read, engine, batch=batch, views=views)
        monkeypatch.setitem(READERS, "gst", lambda a: readers[a.settings.name](a))
        sources = [
            source_settings("gst:test", **{"name": name, "gate": 0.0, "size": "1x1", **settings})
            for name in readers
        ]
        told = Told()
        config = Config(sources=named(sources), screen=screen or ScreenSettings())
        watch = Watch(screener, config, told)
        with watch:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not watch.finished:
                watch.tick()
                time.sleep(0.02)
        return watch, told.events, engine

    before = set(threading.enumerate())  # another test may have left some
    yield start
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("mpft-")]


def counts(events: list[Event]) -> Counter[str]:
    return Counter(event.source for event in events if isinstance(event, FrameEvent))


def test_under_overload_all_sources_lose_alike_and_nothing_ages(run: Any) -> None:
    readers = {f"s{index}": stream(50) for index in range(8)}
    watch, events, _ = run(readers, 3, engine_seconds=0.02)
    shares = counts(events)
    # 8 × 50 frames a second are offered, 50 can be judged.
    assert set(shares) == set(readers)
    assert max(shares.values()) - min(shares.values()) <= 0.2 * max(shares.values()) + 2
    ages = [event.age_ms for event in events if isinstance(event, FrameEvent)]
    assert max(ages) < OLDEST_MS
    for status in watch.statuses():
        assert status.dropped["superseded"] > status.screened
        assert status.received == status.screened + sum(status.dropped.values())


def test_a_slow_source_is_not_crowded_out_by_fast_ones(run: Any) -> None:
    readers = {"slow": stream(3), **{f"s{index}": stream(100) for index in range(5)}}
    _, events, _ = run(readers, 3, engine_seconds=0.02)
    slow = [event for event in events if isinstance(event, FrameEvent) and event.source == "slow"]
    assert len(slow) >= 5
    assert max(event.age_ms for event in slow) < OLDEST_MS


def test_an_engine_slower_than_frames_may_be_old_judges_all_the_same(run: Any) -> None:
    readers = {f"s{index}": stream(100) for index in range(6)}
    watch, events, _ = run(readers, 3, engine_seconds=0.15, screen=ScreenSettings(max_age=0.1))
    assert set(counts(events)) == set(readers)
    assert all(status.screened for status in watch.statuses())


@pytest.mark.parametrize(("age", "judged"), [(1.9, True), (2.1, False)])
def test_old_frames_are_dropped_never_judged(bundle: Path, age: float, judged: bool) -> None:
    """By a clock that a test moves: what a busy machine takes does not count."""
    clock = HandClock()

    def read(attempt: Attempt) -> None:
        attempt.offer(RgbShot(picture()), attempt.packet())
        attempt.cancelled.wait()

    told = Told()
    emitter = Emitter(told, clock)
    scheduler = Scheduler(Screener.open(bundle, threads=1), Config(sources=()), emitter, clock)
    settings = source_settings("gst:test", name="s", size="1x1", gate=0.0)
    source = Source(settings, read, emitter, clock, lambda: None)
    scheduler.channels = (scheduler.channel(source),)
    source.start()
    eventually(lambda: source.waiting)
    clock.now += age
    scheduler.start()
    eventually(lambda: source.tally.screened or source.tally.dropped())
    assert source.tally.screened == judged
    assert source.tally.dropped() == ({} if judged else {"stale": 1})
    source.stop()
    source.join(60)
    assert scheduler.stop(60)


def test_a_source_keeps_its_place_when_its_frame_was_too_old(run: Any) -> None:
    shot = RgbShot(picture())

    def late(attempt: Attempt) -> None:
        old = False
        while attempt.wait(0.002):
            if not attempt.occupied:
                old = not old
                attempt.offer(shot, attempt.packet() - (5 if old else 0))

    readers = {"late": late, **{f"s{index}": stream(20) for index in range(11)}}
    watch, events, _ = run(readers, 6, engine_seconds=0.03)
    shares = counts(events)
    # Each second frame of it is too old, so it is judged one turn behind its place: 12 of 13 times.
    # If it lost its place, it would be judged in every second round.
    assert watch.statuses()[0].dropped["stale"] >= shares["late"] - 2
    assert shares["late"] > 0.8 * shares["s0"]


def test_batches_fill_across_sources_and_give_the_same_logits(run: Any) -> None:
    readers = {f"s{index}": stream(40) for index in range(6)}
    screen = ScreenSettings(batch=4)
    _, events, engine = run(readers, 2, engine_seconds=0.03, batch=4, screen=screen)
    assert max(engine.batches) == 4
    assert np.mean(engine.batches) > 2
    assert set(counts(events)) == set(readers)


def test_windows_move_from_look_to_look(run: Any, bundle: Path) -> None:
    _, events, _ = run({"still": stream(20, still=True)}, 1.5, views="moving")
    logits = [event.logit for event in events if isinstance(event, FrameEvent)]
    screener = Screener.open(bundle, views="moving", threads=1)
    looks = [screener.prepare(picture(), turn=turn) for turn in range(len(logits))]
    assert logits == [judged.judgement.logit for judged in screener.judge(looks)]
    assert len(set(logits)) == 5 < len(logits)  # the centre, and four over the whole picture


def test_windows_that_move_are_no_movement_of_the_picture(run: Any) -> None:
    readers = {"still": stream(20, still=True), "moving": stream(20)}
    watch, _, _ = run(readers, 2.5, views="moving", gate=0.001, look=0.5, frozen=1.0)
    still, moving = watch.statuses()
    assert still.screened <= 6 < still.gated
    assert moving.gated == 0
    assert (still.state, moving.state) == ("frozen", "live")


def test_windows_that_move_over_a_still_picture_are_no_new_pictures(run: Any) -> None:
    rough = np.random.default_rng(0).random((200, 300, 3)) * np.linspace(10, 255, 300)[:, None]

    def read(attempt: Attempt) -> None:
        while attempt.wait(0.05):
            attempt.offer(RgbShot(rough.astype(np.uint8)), attempt.packet())

    watch, _, _ = run({"still": read}, 4, views="moving")
    [still] = (channel.lead.decision._runs[0] for channel in watch.scheduler.channels)
    assert still.frames > 10
    assert still.pictures == 1


def test_a_batch_is_what_waits_and_can_be_judged_in_a_quarter_second(run: Any) -> None:
    readers = {f"s{index}": stream(40) for index in range(8)}
    _, events, engine = run(readers, 3, view_seconds=0.1, batch=8)
    # Of the first nobody knows yet how long it takes; on a busy machine it takes longer than told.
    assert max(engine.batches[2:]) in (2, 3)
    shares = counts(events)
    assert max(shares.values()) - min(shares.values()) <= 2


def test_the_gate_passes_over_what_has_not_moved_but_looks_now_and_then(run: Any) -> None:
    readers = {"still": stream(40, still=True), "moving": stream(40)}
    watch, events, _ = run(readers, 3.5, gate=0.001, look=1.0, frozen=0.0)
    still, moving = watch.statuses()
    assert 2 <= still.screened <= 5
    assert still.gated > 5 * still.screened
    assert moving.gated == 0
    assert moving.screened > 5 * still.screened
    assert counts(events)["still"] == still.screened


def test_a_failing_source_takes_nothing_from_the_others(run: Any) -> None:
    def fail(attempt: Attempt) -> None:
        raise RuntimeError("no")

    watch, _, _ = run({"bad": fail, "good": stream(20)}, 2)
    bad, good = watch.statuses()
    assert bad.state == "down"
    assert good.screened > 10
    assert watch.ready()


def test_streams_are_decided(run: Any) -> None:
    watch, events, _ = run({"s": stream(20)}, 1.5)
    [status] = watch.statuses()
    frames = [event for event in events if isinstance(event, FrameEvent)]
    assert frames[-1].evidence == status.evidence
    assert frames[-1].stream_verdict == status.verdict
    changes = [event for event in events if isinstance(event, StreamEvent)]
    verdict = "unsure"
    for change in changes:
        assert change.previous == verdict
        verdict = change.verdict
    assert verdict == status.verdict


def test_an_engine_that_fails_ends_the_run_and_says_so(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SlowEngine):
        pass

    def nan(self: Any, patches: Any, positions: Any) -> Any:
        return np.full(len(patches), np.nan, np.float32)

    original = SlowEngine.run
    try:
        SlowEngine.run = nan  # type: ignore[method-assign]
        watch, _, _ = run({"s": stream(20)}, 5)
    finally:
        SlowEngine.run = original  # type: ignore[method-assign]
    assert isinstance(watch.scheduler.failure, GateError)
    assert watch.finished
    assert not watch.alive()
    assert not watch.ready()


def test_reloading_leaves_the_same_sources_alone(bundle: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(READERS, "gst", stream(20))
    screener = Screener.open(bundle, threads=1)

    def config(**decode: Any) -> Config:
        return Config(
            sources=named(
                [
                    source_settings("gst:test", name=name, size="1x1", gate=0.0, decode=value)
                    for name, value in decode.items()
                ]
            )
        )

    with Watch(screener, config(same="all", changed="all", gone="all")) as watch:
        eventually(lambda: all(s.state == "live" for s in watch.statuses()))
        same = watch.scheduler.channels[0].source
        watch.reload(config(new="all", changed="keyframes", same="all"))
        assert [s.source for s in watch.statuses()] == ["new", "changed", "same"]
        assert watch.scheduler.channels[2].source is same
        eventually(lambda: all(s.state == "live" for s in watch.statuses()))
        assert same.tally.reconnects == 0
        before = same.tally.screened
        eventually(lambda: same.tally.screened > before)
        names = [t.name for t in threading.enumerate()]
        eventually(lambda: "mpft-gone" not in [t.name for t in threading.enumerate()])
        assert names.count("mpft-same") == 1


def test_every_reader_has_its_protocols() -> None:
    assert open_av.ALLOWED.keys() <= READERS.keys()
