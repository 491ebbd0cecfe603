"""Raw pictures: pipes that pause, pipelines that talk, and what `ps` shows of them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

import numpy as np
import pytest

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
    before = len(running.events)
    os.write(write, data[100:])
    running.frame(after=before)
    os.write(write, data[: len(data) // 2])
    running.state("stalled")
    time.sleep(0.5)
    for rest in (data[len(data) // 2 :], data, data, data):
        before = len(running.events)
        os.write(write, rest)
        running.frame(after=before)
        shown = running.watch.picture(running.status().source)
        assert np.array_equal(shown.pixels[:48, :64], PICTURE)
    os.close(write)
    running.state("ended")
    assert running.status().dropped.get("damaged", 0) == 0


def require_gstreamer() -> None:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("GStreamer is not installed: apt-get install gstreamer1.0-tools")


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


def test_a_pipeline_that_holds_a_password_is_refused_and_never_run(
    watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_raw.subprocess, "Popen", None)
    running = watching("gst:rtspsrc user-pw=hunter2secret ! decodebin", size="64x48", retry=0.2)
    event = running.state("down")
    assert "rtsp://" in event.reason
    assert "hunter2secret" not in event.reason
    command = read_raw._command("a wait-for-keyframe=true ! b", secret=False)
    assert command[1:] == ["--quiet", "a", "wait-for-keyframe=true", "!", "b"]


def test_a_pipeline_that_cannot_be_says_why(watching: Any) -> None:
    require_gstreamer()
    running = watching("gst:nosuchelement", size="64x48", retry=0.2)
    assert 'no element "nosuchelement"' in running.state("down").reason
