"""Live sources of every kind: verdicts come, and every frame is accounted for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import servers
from engines import OLDEST_MS
from media import encoded, picture, write_video

from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams import open_av
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.records import FrameEvent, SourceEvent
from mpft_deploy.screen.streams.settings import ScreenSettings
from mpft_deploy.spec import Calibration
from mpft_deploy.views import view_corners


def check_accounts(running: Any) -> None:
    """Every received frame was screened, gated or dropped for a cause."""
    running.stop()
    for status in running.watch.statuses():
        spent = status.screened + status.gated + sum(status.dropped.values())
        assert status.received == spent, status


def wait_until_finished(running: Any) -> None:
    """Until every source has ended and its last frame was judged."""
    end = time.monotonic() + 60
    while not running.watch.finished:
        assert time.monotonic() < end, running.watch.statuses()
        time.sleep(0.01)


@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_rtsp(codec: str, clip: Any, rtsp: Any, watching: Any) -> None:
    server = rtsp(cam=str(clip(codec)))
    running = watching(server.url("cam"))
    event = running.frame()
    running.frame()
    status = running.status()
    assert (status.width, status.height, status.state) == (320, 240, "live")
    assert status.codec == {"h265": "hevc"}.get(codec, codec)
    assert status.address == server.url("cam")
    assert 0 <= event.age_ms < OLDEST_MS
    # Three looks at clocks, between which a busy machine may do something else.
    assert abs(event.captured - (event.time - event.age_ms / 1000)) < 1
    check_accounts(running)


def test_only_keyframes_are_decoded(clip: Any, rtsp: Any, watching: Any) -> None:
    server = rtsp(cam=str(clip(keyframes=10, frames=50)))
    running = watching(server.url("cam"), decode="keyframes")
    for _ in range(4):
        running.frame()
    status = running.status()
    # One of ten is a keyframe; all others were not decoded.
    assert status.dropped["no keyframe"] >= 8 * (status.screened - 1)
    assert status.screened + status.dropped.get("superseded", 0) <= status.received / 8 + 2
    check_accounts(running)


def test_frames_a_second(rtsp: Any, watching: Any) -> None:
    running = watching(rtsp().url("cam"), decode=5.0)
    running.frame()
    start, before = time.monotonic(), running.status().screened
    time.sleep(3)
    status = running.status()
    rate = (status.screened - before) / (time.monotonic() - start)
    assert rate <= 6.5
    assert status.dropped["rate"] > status.screened
    check_accounts(running)


def test_the_picture_shows_what_was_judged(rtsp: Any, watching: Any, screener: Any) -> None:
    running = watching(rtsp().url("cam"))
    name = running.status().source
    running.frame()
    shown = running.watch.picture(name)
    assert shown.pixels.shape == (240, 320, 3)
    assert len(shown.cells) == screener.spec.tokens
    [(top, left)] = view_corners(240, 320, screener.spec.crop.size)
    for row, column, side in shown.cells:
        assert top <= row <= top + screener.spec.crop.size - side
        assert left <= column <= left + screener.spec.crop.size - side
    with pytest.raises(KeyError):
        running.watch.picture("nobody")


def test_a_login_is_used_and_never_told(clip: Any, rtsp: Any, watching: Any) -> None:
    server = rtsp(cam=f"{clip()},25,viewer:s3cr3tw0rd")
    good = watching(server.url("cam", "viewer:s3cr3tw0rd"))
    bad = watching(server.url("cam", "viewer:wr0ngw0rd"))
    good.frame()
    event = bad.state("down")
    assert "401" in event.reason or "uthoriz" in event.reason, event.reason
    told = repr([good.events, bad.events, good.watch.statuses(), bad.watch.statuses()])
    assert "s3cr3tw0rd" not in told
    assert "wr0ngw0rd" not in told


def test_http_stream(tmp_path: Path, watching: Any) -> None:
    clip = write_video(tmp_path / "clip.ts", seconds=4, codec="mpeg2video", rate=25)
    data = clip.read_bytes()

    def serve(connection: socket.socket) -> None:
        servers.send_http(connection)
        for at in range(0, len(data), 1316):
            connection.sendall(data[at : at + 1316])
            time.sleep(4 * 1316 / len(data))

    listener = servers.Listener(serve)
    try:
        running = watching(f"http://127.0.0.1:{listener.port}/live.ts")
        running.frame(after=0)
        # Its end is a loss, not an end: cameras do not finish.
        event = running.state("down")
        assert event.reason in ("the stream ended", "Input/output error")
        assert event.retry_in is not None
        check_accounts(running)
    finally:
        listener.close()


def test_a_file_is_played_at_its_own_speed(tmp_path: Path, watching: Any) -> None:
    clip = write_video(tmp_path / "clip.mp4", seconds=2, rate=8)
    start = time.monotonic()
    running = watching(f"file://{clip}")
    running.state("ended")
    assert time.monotonic() - start > 1.5
    wait_until_finished(running)
    status = running.status()
    assert status.screened + status.dropped.get("superseded", 0) == 16
    assert status.screened > 1
    check_accounts(running)


def test_every_image_of_a_folder_is_judged(tmp_path: Path, watching: Any, screener: Any) -> None:
    for index in range(7):
        (tmp_path / f"{index}.png").write_bytes(encoded(picture(seed=index)))
    (tmp_path / "3.png").write_bytes(b"broken")
    running = watching(str(tmp_path))
    wait_until_finished(running)
    running.stop()
    logits = [e.logit for e in running.events if isinstance(e, FrameEvent)]
    assert logits == [
        pytest.approx(screener(picture(seed=index)).logit, abs=1e-4)
        for index in range(7)
        if index != 3
    ]
    assert running.status().dropped == {"damaged": 1}
    check_accounts(running)


def test_gstreamer_pipelines(watching: Any) -> None:
    servers.require_rtsp_server()
    running = watching("gst:videotestsrc is-live=true pattern=snow", size="160x120")
    running.frame()
    assert running.status().width == 160
    assert running.stop()


def test_a_pipeline_that_fails_says_why(watching: Any) -> None:
    servers.require_rtsp_server()
    running = watching("gst:nosuchelement", size="160x120")
    assert "nosuchelement" in running.state("down").reason


def test_a_camera_that_is_not_there(watching: Any) -> None:
    servers.require_rtsp_server()
    running = watching("v4l2:///dev/video99")
    assert "/dev/video99" in running.state("down").reason


def test_raw_pictures_on_standard_input(bundle: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mpft_deploy.screen import Screener; import sys\n"
            "for event in Screener.open(sys.argv[1], threads=1).watch("
            "'pipe:', size='64x48', gate=0.0): print(event)",
            str(bundle),
        ],
        input=b"".join(picture(seed=index).tobytes() for index in range(3)) + b"rest",
        capture_output=True,
        timeout=60,
    )
    out = run.stdout.decode()
    assert "state='ended'" in out, run.stderr.decode()
    assert "FrameEvent" in out


def test_an_iterator_ends_with_its_streams(tmp_path: Path, screener: Any) -> None:
    clip = write_video(tmp_path / "clip.mp4", seconds=1)
    events = list(screener.watch(str(clip), gate=0.0))
    assert sum(isinstance(event, FrameEvent) for event in events) >= 2
    assert any(isinstance(event, SourceEvent) and event.state == "ended" for event in events)
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(("told", "shift"), [(None, 7.0), ("centre", 0.0)])
def test_a_library_watches_by_the_views_of_streams_unless_told_of_others(
    tmp_path: Path, make_detector: Any, told: Any, shift: float
) -> None:
    calibrations = {
        "calibration": Calibration(views="three", shift=0.0),
        "stream": Calibration(views="moving", shift=7.0),
    }
    make_detector(tmp_path / "tiny", **calibrations)
    export(Request(tmp_path / "tiny", tmp_path / "bundle", *reference.FLOAT32))
    clip = write_video(tmp_path / "clip.mp4", seconds=1)
    screener = Screener.open(tmp_path / "bundle", views=told, threads=1)
    events = screener.watch(str(clip), gate=0.0)
    frames = [event for event in events if isinstance(event, FrameEvent)]
    assert frames
    for frame in frames:
        odds = np.log(frame.probability / (1 - frame.probability))
        assert odds == pytest.approx(frame.logit + shift, abs=1e-3)
    assert screener.policy == (told or "three")  # pictures are judged as before


@pytest.mark.parametrize("name", ["cuda", "vaapi", "nonsense"])
def test_without_its_hardware_a_source_is_decoded_in_software(
    name: str, tmp_path: Path, watching: Any, caplog: pytest.LogCaptureFixture
) -> None:
    open_av.why_no_hardware.cache_clear()
    clip = write_video(tmp_path / "clip.mp4", seconds=1, codec="libx264")
    running = watching(f"file://{clip}", f"file://{clip}", hwaccel=name)
    wait_until_finished(running)
    assert all(status.screened for status in running.watch.statuses())
    assert caplog.text.count(f"hwaccel {name} cannot be used") in (0, 1)
    if name == "nonsense":
        assert "it is none of" in caplog.text


@pytest.mark.parametrize("readers", ["threads", "processes"])
def test_rtsp_by_udp(readers: Any, rtsp: Any, watching: Any) -> None:
    source = source_settings(rtsp().url("cam"), transport="udp", gate=0.0)
    running = watching(
        config=Config(sources=named([source]), screen=ScreenSettings(readers=readers))
    )
    running.frame()
    assert running.status().state == "live"
