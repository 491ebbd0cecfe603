"""The examples on streams, and those of the dashboard, run as their first lines say."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import clips
import dashboard_screenshots
import pytest
import servers
from media import write_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, IMAGES = ROOT / "examples", ROOT / "docs" / "images"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", seconds=2)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """The address of a camera."""
    servers.require_rtsp_server()
    server = servers.RtspServer(cam=str(clips.write_clip(tmp_path / "cam.h264")))
    yield server.url("cam")
    server.close()


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(*arguments: str | Path) -> Iterator[IO[str]]:
    """What an example prints that goes on until Ctrl-C, at which it ends without complaint."""
    process = subprocess.Popen(
        [sys.executable, "-u", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_opencv_loop(bundle: Path, clip: Path) -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    lines = run(EXAMPLES / "opencv_loop.py", bundle, clip, "--every", "4").splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("frame")] == [
        f"frame {index}" for index in range(0, 16, 4)
    ]
    assert "evidence" in lines[-1]


def test_watch_stream(bundle: Path, clip: Path) -> None:
    out = run(EXAMPLES / "watch_stream.py", bundle, clip)
    assert " ms old" in out
    assert "is ended" in out


def test_watch_stream_of_a_camera(bundle: Path, camera: str) -> None:
    with running(EXAMPLES / "watch_stream.py", bundle, camera) as lines:
        assert "is live" in lines.readline()
        assert " ms old" in lines.readline()


def test_opencv_loop_of_a_camera(bundle: Path, camera: str) -> None:
    pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    with running(EXAMPLES / "opencv_loop.py", bundle, camera) as lines:
        assert lines.readline().startswith("frame 0: ")
        assert lines.readline().startswith("frame 5: ")


def test_dashboard_demo() -> None:
    words = ("--sources", "3", "--address", "127.0.0.1:0")
    with running(EXAMPLES / "dashboard_demo.py", *words) as lines:
        url = lines.readline().removeprefix("dashboard: ").strip()
        with urllib.request.urlopen(f"{url}api/v1/sources") as answer:
            assert len(json.load(answer)["sources"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="apt install chromium")
def test_dashboard_screenshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("websockets")
    # A sixteenth of the pixels: the best palette of all takes most of the time.
    save = dashboard_screenshots.save
    monkeypatch.setattr(dashboard_screenshots, "save", lambda all_, at: save(all_.reduce(4), at))
    monkeypatch.setattr(sys, "argv", ["dashboard_screenshots.py", str(tmp_path)])
    dashboard_screenshots.main()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in IMAGES.glob("dashboard-*.png")}
