"""Pictures of judged frames: made for whoever asks, however many, and not kept."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from PIL import Image
from telling import Told, eventually

from mpft_deploy.images import view_corners
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.attempt import Attempt
from mpft_deploy.screen.streams.channel import Channel
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.pixels import DecodedShot
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import Picture, StreamEvent
from mpft_deploy.screen.streams.settings import DecisionSettings
from mpft_deploy.screen.streams.watch import Watch

SIDES = (720, 1280)


def colour(name: str) -> tuple[int, int, int]:
    """Of the half of a source's pictures that tells whose they are."""
    return {"a": (200, 40, 40), "b": (40, 200, 40), "c": (40, 40, 200)}[name]


def frames(name: str) -> list[av.VideoFrame]:
    """Some, as a decoder gives them: noise on the left, a colour on the right."""
    rng = np.random.default_rng(ord(name))
    made = []
    for _ in range(4):
        pixels = rng.integers(0, 256, (*SIDES, 3), np.uint8)
        pixels[:, SIDES[1] * 3 // 4 :] = colour(name)
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        made.append(frame.reformat(format="yuv420p"))
    return made


class Cameras:
    """A reader of decoded frames, which are new objects each time, and what converted them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.converted: list[str] = []
        self._made = {name: frames(name) for name in "abc"}
        monkeypatch.setitem(READERS, "gst", self.read)
        whole = DecodedShot.whole

        def record(shot: DecodedShot) -> Any:
            self.converted.append(threading.current_thread().name)
            return whole(shot)

        monkeypatch.setattr(DecodedShot, "whole", record)

    def read(self, attempt: Attempt) -> None:
        index = 0
        while attempt.wait(0.15):
            frame = self._made[attempt.settings.name][index % 4].reformat(format="yuv420p")
            attempt.offer(DecodedShot(frame), attempt.packet())
            index += 1


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> Cameras:
    return Cameras(monkeypatch)


def watch_cameras(screener: Screener, **options: Any) -> Watch:
    sources = [source_settings("gst:t", name=name, size="1x1", gate=0.0) for name in "abc"]
    decision = options.pop("decision", DecisionSettings())
    config = Config(sources=named(sources), decision=decision)
    return Watch(screener, config, **options)


def ask(url: str, name: str, near: int, barrier: threading.Barrier, answers: list[Any]) -> None:
    """One picture, at the same moment as others ask."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.connect()
    barrier.wait()
    connection.request("GET", f"/api/v1/picture?source={name}&near={near}")
    answers.append((name, near, json.loads(connection.getresponse().read())))
    connection.close()


def test_many_ask_at_once_for_first_pictures(cameras: Cameras, screener: Screener) -> None:
    """Each round is a new service: what went wrong did so at the first request of a source."""
    from mpft_deploy.screen.tell.config import Http
    from mpft_deploy.screen.tell.fanout import Sinks
    from mpft_deploy.screen.web import serve

    for _ in range(4):
        watch = watch_cameras(screener, keep=True)
        server = serve(watch, Http(address="127.0.0.1:0"), Sinks())
        watch.tell(server)
        with watch:
            eventually(lambda watch=watch: all(s.screened for s in watch.statuses()))
            answers: list[Any] = []
            barrier = threading.Barrier(24)
            askers = [
                threading.Thread(target=ask, args=(server.url, name, n % 2, barrier, answers))
                for name in "abc"
                for n in range(8)
            ]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join(30)
            assert len(answers) == 24
            for name, near, shown in answers:
                with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as image:
                    pixels = np.asarray(image).astype(int)
                if near:
                    assert shown["width"] < SIDES[1]
                else:
                    assert (shown["height"], shown["width"]) == SIDES
                    corner = pixels[-40:-8, -40:-8].mean((0, 1))
                    assert np.abs(corner - colour(name)).max() < 12
            assert watch.alive()
    assert "mpft-engine" not in cameras.converted  # which has something better to do


def test_whoever_asks_has_a_picture_of_his_own(cameras: Cameras, screener: Screener) -> None:
    with watch_cameras(screener, keep=True) as watch:
        eventually(lambda: all(s.screened for s in watch.statuses()))
        shown: list[Picture | None] = []
        askers = [
            threading.Thread(target=lambda n=name: shown.append(watch.picture(n)))
            for name in 8 * "abc"
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(20)
        assert len(shown) == 24
        held = [picture.pixels for picture in shown if picture is not None]
        assert len({pixels.ctypes.data for pixels in held}) == 24
        # None stays with what was judged, of which there is one a camera.
        for channel in watch.scheduler.channels:
            assert channel.shown is not None
            kept = vars(channel.shown.shot).values()
            assert not [one for one in kept if isinstance(one, np.ndarray)]


def test_nobody_asks_and_nothing_is_converted(cameras: Cameras, screener: Screener) -> None:
    with watch_cameras(screener, keep=True) as watch:
        eventually(lambda: all(s.screened > 2 for s in watch.statuses()))
    assert not cameras.converted


def test_the_picture_of_a_verdict_is_the_frame_that_decided(
    cameras: Cameras, screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago that was when the event is handed on."""

    class Slow(Told):
        pictures: list[tuple[str, Picture | None]] = []  # noqa: RUF012, of this test alone

        def send(self, event: Any) -> None:
            super().send(event)
            if isinstance(event, StreamEvent):
                time.sleep(0.5)
                self.pictures.append((event.source, watch.take_evidence(event)))

    told = Slow()
    watch = watch_cameras(screener, evidence=("unsure", "generated", "real"))
    watch.tell(told)
    scheduler, judged = watch.scheduler, {}
    tell = Channel.tell

    def note(channel: Any, stream: Any, changes: Any, prepared: Any = None) -> None:
        for _ in changes:
            judged[len(judged)] = (channel.source.name, channel.shown.time)
        tell(channel, stream, changes, prepared)

    monkeypatch.setattr(Channel, "tell", note)
    with watch:
        for _ in range(3):
            eventually(lambda: all(c.lead.probability is not None for c in scheduler.channels))
            scheduler._ask(lambda: [_turn(c) for c in scheduler.channels])
        eventually(lambda: len(told.pictures) == 9)
    assert set(cameras.converted) == {"mpft-engine"}
    for (source, picture), (name, when) in zip(told.pictures, judged.values(), strict=True):
        assert picture is not None
        assert (source, picture.time) == (name, when)
        assert np.abs(picture.pixels[-9, -9].astype(int) - colour(name)).max() < 12


def _turn(channel: Any) -> None:
    """Its verdict becomes another one."""
    from mpft_deploy.screen.streams.decision import Change

    change = Change("generated", "unsure", 5.0, 9, 9.0, 3.0, "evidence")
    channel.tell(channel.lead, [change])


@pytest.mark.parametrize("method", ["cut", "whole"])
def test_a_frame_that_a_library_fails_at_costs_the_others_nothing(
    cameras: Cameras,
    screener: Screener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    """`cut` is what is judged, `whole` what is shown."""
    with watch_cameras(screener, keep=True) as watch:
        eventually(lambda: all(s.screened for s in watch.statuses()))
        source = watch.scheduler.channels[0].source
        take = source.take

        def spoiled(kind: Any) -> Any:
            frame = take(kind)
            if frame is not None:
                monkeypatch.setattr(frame.shot, method, fail_always, raising=False)
            return frame

        def fail_always(*arguments: Any) -> Any:
            raise MemoryError

        monkeypatch.setattr(source, "take", spoiled)
        before = {s.source: s.screened for s in watch.statuses()}
        eventually(lambda: all(s.screened > before[s.source] + 3 for s in watch.statuses()[1:]))
        assert watch.picture("b") is not None
        if method == "whole":
            eventually(lambda: watch.picture("a") is None)
        else:
            eventually(lambda: watch.statuses()[0].dropped.get("damaged", 0) > 3)
            assert caplog.text.count("a: a frame cannot be cut") == 1
        assert watch.alive()


def test_the_cells_lie_in_the_window_that_was_judged(cameras: Cameras, screener: Screener) -> None:
    with watch_cameras(screener, keep=True) as watch:
        eventually(lambda: all(s.screened for s in watch.statuses()))
        picture = watch.picture("a")
    assert picture is not None
    size = screener.spec.crop.size
    [(top, left)] = view_corners(*SIDES, size)
    assert len(picture.cells) == screener.spec.tokens
    for row, column, side in picture.cells:
        assert top <= row <= top + size - side
        assert left <= column <= left + size - side


def test_a_picture_that_does_not_come_is_no_hanging_visitor(
    cameras: Cameras, screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpft_deploy.screen.streams.scheduler.PATIENCE", 0.2)
    free = threading.Event()
    with watch_cameras(screener, keep=True) as watch:
        eventually(lambda: all(s.screened for s in watch.statuses()))
        scheduler = watch.scheduler
        hold: Callable[[], bool] = lambda: free.wait(60)  # noqa: E731
        threading.Thread(target=lambda: _quietly(scheduler, hold), daemon=True).start()
        time.sleep(0.1)
        began = time.monotonic()
        watch.picture("a")
        assert time.monotonic() - began < 20  # far below what its thread hangs for
        free.set()
    assert watch.picture("a") is None or isinstance(watch.picture("a"), Picture)


def _quietly(scheduler: Any, work: Callable[[], Any]) -> None:
    with contextlib.suppress(TimeoutError):
        scheduler._ask(work)


def test_a_crowd_before_the_page(rtsp: Any, run: Any, tmp_path: Path) -> None:
    """The command itself."""
    server, config = rtsp(), tmp_path / "cameras.toml"
    text = f"""
        [defaults]
        decode = 10
        [screen]
        threads = 1
        [http]
        address = "127.0.0.1:0"
        [snapshots]
        folder = "{tmp_path}/shots"
        """
    for name in "abc":
        text += f'[[source]]\nname = "{name}"\naddress = "{server.url("cam")}"\n'
    config.write_text(text, encoding="utf-8")
    one = run("--config", config, "--json")
    one.until(lambda: {"a", "b", "c"} == {e["source"] for e in one.events("frame")})
    [line] = [line for line in one.errors if "dashboard: " in line]
    url = json.loads(line)["message"].removeprefix("dashboard: ")
    for _ in range(5):
        answers: list[Any] = []
        barrier = threading.Barrier(24)
        askers = [
            threading.Thread(target=ask, args=(url, name, n % 2, barrier, answers))
            for name in "abc"
            for n in range(8)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(30)
        assert len(answers) == 24
        assert all(shown["jpeg"] for _, _, shown in answers)
    one.end()
    assert one.process.returncode == 0
