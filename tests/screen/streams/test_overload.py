"""More comes in than can be judged: what nobody judges is not decoded, and turns are even."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import OLDEST_MS, SlowEngine
from media import picture
from telling import eventually
from test_live import check_accounts

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams import decoding, processes, read_av
from mpft_deploy.screen.streams.attempt import Attempt
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import FrameEvent
from mpft_deploy.screen.streams.source import MAX_ABANDONED

SOURCES = 8
GROUP = 10
"""Frames from keyframe to keyframe, at 25 a second."""

SLOW = 0.15
"""Seconds that the slow engine takes: 6.7 frames a second, of 20 keyframes and 200 frames."""


@pytest.fixture
def engine(bundle: Path) -> SlowEngine:
    return SlowEngine(load_engine(read_bundle(bundle), threads=1), SLOW)


@pytest.fixture
def screener(bundle: Path, engine: SlowEngine) -> Screener:
    """Of the slow engine; `watching` takes it."""
    return Screener(read_bundle(bundle), engine)  # type: ignore[arg-type]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows by one for every picture that comes out of a decoder, here or in another process."""
    times: list[float] = []

    def count(where: Any, kind: str) -> None:
        make = getattr(where, kind)

        def counted(*arguments: Any) -> Any:
            times.append(time.monotonic())
            return make(*arguments)

        monkeypatch.setattr(where, kind, counted)

    count(read_av, "DecodedShot")
    count(processes, "RemoteShot")
    return times


@pytest.fixture
def cameras(clip: Any, rtsp: Any, watching: Any) -> Callable[..., Any]:
    """Watch several cameras of a codec."""

    def start(codec: str = "h264", **settings: Any) -> Any:
        server = rtsp(cam=str(clip(codec, keyframes=GROUP, frames=50)))
        addresses = [server.url("cam") for _ in range(SOURCES)]
        running = watching(*addresses, **settings)
        eventually(lambda: all(status.screened for status in running.watch.statuses()))
        return running

    return start


def measure(running: Any, decoded: list[float], seconds: float) -> tuple[Counter[str], int]:
    """Verdicts by source in so many seconds, and how many pictures were decoded meanwhile."""
    events, pictures = len(running.events), len(decoded)
    time.sleep(seconds)
    judged = [event for event in running.events[events:] if isinstance(event, FrameEvent)]
    assert max(event.age_ms for event in judged) < OLDEST_MS
    return Counter(event.source for event in judged), len(decoded) - pictures


@pytest.mark.parametrize(
    ("codec", "decode"), [("h264", "keyframes"), ("mjpeg", "all"), ("h264", "all"), ("h264", 10.0)]
)
def test_what_is_not_judged_is_not_decoded(
    codec: str, decode: Any, cameras: Any, decoded: list[float], engine: SlowEngine
) -> None:
    running = cameras(codec, decode=decode)
    time.sleep(2)  # sources notice that whole groups of theirs are decoded in vain
    calls = len(engine.idle)
    verdicts, pictures = measure(running, decoded, 5)
    judged = sum(verdicts.values())
    # The engine is never kept waiting: the next keyframe would be 0.4 s away.
    assert np.median(engine.idle[calls:]) < SLOW / 2
    # Some are under way at either end.
    assert judged - 4 <= pictures <= judged + 4
    assert len(verdicts) == SOURCES
    assert max(verdicts.values()) - min(verdicts.values()) <= 2
    for status in running.watch.statuses():
        assert status.dropped["overload"] > status.screened
    check_accounts(running)


def test_all_is_decoded_again_when_there_is_time(cameras: Any, engine: SlowEngine) -> None:
    running = cameras(decode="all")

    def passed_over() -> list[int]:
        return [status.dropped.get("overload", 0) for status in running.watch.statuses()]

    eventually(lambda: min(passed_over()) > GROUP)
    engine.seconds = 0.0

    def all_judged() -> bool:
        """Of each camera a whole group and more; a busy machine may have to be asked again."""
        before, screened = passed_over(), [s.screened for s in running.watch.statuses()]
        time.sleep(1)
        now = [s.screened - n for s, n in zip(running.watch.statuses(), screened, strict=True)]
        return passed_over() == before and min(now) > GROUP

    eventually(all_judged)
    check_accounts(running)


def test_a_source_whose_decoder_hangs_is_given_up_and_read_anew(
    watching: Any, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "GRACE", 0.3)
    engine.seconds = 0.0
    hang, hung = threading.Event(), threading.Semaphore(MAX_ABANDONED - 1)

    def decode() -> RgbShot:
        if hung.acquire(blocking=False):
            hang.wait()
        return RgbShot(picture())

    def read(attempt: Attempt) -> None:
        attempt.offer(RgbShot(picture()), attempt.packet())
        while attempt.wait(0.02):
            attempt.hold(decode, attempt.packet())

    monkeypatch.setitem(READERS, "gst", read)
    running = watching(*[f"gst:test{index}" for index in range(4)], size="1x1", retry=0.1)
    eventually(lambda: hung._value == 0)
    for status in running.watch.statuses():
        running.frame(status.source)
    eventually(lambda: sum(s.dropped.get("damaged", 0) for s in running.watch.statuses()) >= 2)
    assert any(status.reconnects for status in running.watch.statuses())
    hang.set()
    check_accounts(running)
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "mpft-decode"])
