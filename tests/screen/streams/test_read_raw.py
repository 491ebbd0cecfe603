"""Raw pictures: pipes that pause, pipelines that talk, and what `ps` shows of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams import read_raw

PICTURE = np.zeros((48, 64, 3), np.uint8)
PICTURE[:24] = 255


def test_a_pipe_that_pauses_in_mid_picture_goes_on_where_it_was(
    watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause beyond every limit of time, in the middle of a picture."""
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    data = PICTURE.tobytes()
    running = watching("pipe:", size="64x48", timeout=0.3, connect=0.3, stall=0.3)
    os.write(write, data[:100])
    time.sleep(1)
    os.write(write, data[100:])
    running.frame()
    os.write(write, data[: len(data) // 2])
    running.state("stalled")
    time.sleep(0.5)
    os.write(write, data[len(data) // 2 :])
    for _ in range(3):
        os.write(write, data)
        running.frame()
        shown = running.watch.picture(running.status().source)
        assert np.array_equal(shown.pixels[:48, :64], PICTURE)
    os.close(write)
    running.state("ended")
    assert running.status().dropped.get("damaged", 0) == 0


def require_gstreamer() -> None:
    if read_raw.find_bindings() is None or shutil.which("gst-launch-1.0") is None:
        pytest.skip("GStreamer is not installed: apt-get install gstreamer1.0-tools python3-gi")


def test_a_pipeline_that_talks_without_end_is_not_stopped(
    watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_gstreamer()
    monkeypatch.setenv("GST_DEBUG", "videotestsrc:6,basesrc:6,GST_BUFFER:7,GST_PADS:6")
    running = watching(
        "gst:videotestsrc is-live=true ! video/x-raw,framerate=25/1", size="64x48", stall=60.0
    )
    for _ in range(50):  # it has talked more than a pipe holds after a few
        running.frame()
    assert running.states() == ["live"]


def test_ps_shows_no_password_of_a_pipeline(watching: Any) -> None:
    require_gstreamer()
    seen: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
                    line = path.read_bytes()
                except OSError:
                    continue
                if int(parent) == os.getpid():
                    seen.append(line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        # The name is that of a property of the element; what it says does not matter here.
        running = watching(
            "gst:videotestsrc name=key-hunter2secret is-live=true ! identity name=pw=hunter2secret",
            "gst:videotestsrc is-live=true ! textoverlay text=x user-pw=hunter2secret",
            size="64x48",
            retry=0.2,
        )
        event = running.state("down")
        time.sleep(1)
    finally:
        over.set()
        thread.join()
    assert "hunter2secret" not in event.reason
    assert any(b"gst_child" in line for line in seen)
    assert not any(b"hunter2secret" in line for line in seen)


def test_without_the_bindings_no_password_is_given_to_gst_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_raw, "find_bindings", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(EnvironmentLacksError, match="python3-gi"):
        read_raw._command("rtspsrc user-pw=x ! fdsink", secret=True)
    command = read_raw._command("videotestsrc ! fdsink", secret=False)
    assert command == ["/usr/bin/gst-launch-1.0", "--quiet", "videotestsrc", "!", "fdsink"]


def test_a_pipeline_that_cannot_be_says_why() -> None:
    require_gstreamer()
    child = subprocess.run(
        read_raw._command("nosuchelement ! fdsink", secret=True),
        input=b"nosuchelement ! fdsink",
        capture_output=True,
        timeout=60,
    )
    assert child.returncode == 1
    assert b'ERROR: no element "nosuchelement"' in child.stderr
