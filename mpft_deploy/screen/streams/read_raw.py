"""Raw pictures from a pipe: standard input, or a GStreamer pipeline of this machine."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys

import numpy as np

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.settings import SourceSettings

HEADS = {
    # Of a camera at a Jetson's CSI port; nvvidconv brings its picture out of the GPU's memory.
    "csi": "nvarguscamerasrc sensor-id={0} ! nvvidconv",
    "v4l2": "v4l2src device={0} ! decodebin",
    "gst": "{0}",
}
"""The part of the pipeline that an address stands for."""

SIDES = (720, 1280)
"""Height and width of pictures where none are set; a camera that has no such mode says so."""

TAIL = (
    "videoconvert ! video/x-raw,format=RGB,width={width},height={height} ! fdsink fd=1 sync=false"
)

_SLICE = 0.2
"""Seconds between two looks at whether to stop."""


def read_pipe(settings: SourceSettings, attempt: Attempt) -> None:
    """Read rgb24 pictures of the given size from standard input, until it ends."""
    if settings.sides is None:
        raise SourceLostError('pipe: needs the size of its pictures: size = "1280x720"')
    attempt.describe("rgb24")
    _read(sys.stdin.fileno(), settings.sides, settings, attempt)


def read_gstreamer(settings: SourceSettings, attempt: Attempt) -> None:
    """Read the pictures of a GStreamer pipeline, run by gst-launch-1.0.

    Raises:
        EnvironmentLacksError: GStreamer is not here.
        SourceLostError: the pipeline failed or ended.
    """
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise EnvironmentLacksError(
            "gst-launch-1.0 is not on this machine: install GStreamer's tools and plugins"
        )
    target = settings.target
    sides = settings.sides or SIDES
    where = target.rest.strip("/") or "0" if target.scheme == "csi" else target.rest
    head = HEADS[target.scheme].format(where)
    height, width = sides
    pipeline = f"{head} ! {TAIL.format(width=width, height=height)}"
    with subprocess.Popen(
        [program, "--quiet", *pipeline.split()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        attempt.describe("gstreamer")
        try:
            _read(process.stdout.fileno(), sides, settings, attempt)
        finally:
            if process.poll() is None:
                process.kill()
            said = process.stderr.read().decode(errors="replace") if process.stderr else ""
    if not attempt.stopping:
        raise SourceLostError(f"the pipeline ended: {_first_line(said)}")


def _read(
    descriptor: int, sides: tuple[int, int], settings: SourceSettings, attempt: Attempt
) -> None:
    """Pictures from a file descriptor until it ends."""
    height, width = sides
    size = 3 * height * width
    interval = 1 / settings.decode if isinstance(settings.decode, float) else 0.0
    due = 0.0
    while not attempt.stopping:
        data = _exactly(descriptor, size, settings, attempt)
        if data is None:
            return
        now = attempt.packet()
        if interval and now < due:
            attempt.drop("rate", picture=True)
            continue
        due = max(due + interval, now) if interval else 0.0
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        attempt.offer(RgbShot(pixels), now)


def _exactly(
    descriptor: int, size: int, settings: SourceSettings, attempt: Attempt
) -> bytearray | None:
    """So many bytes; None at the end, or if the attempt was stopped."""
    data = bytearray(size)
    filled, silence = 0, 0.0
    limit = settings.timeout if attempt.pictures else settings.connect
    view = memoryview(data)
    while filled < size:
        attempt.within(settings.timeout)
        if attempt.stopping:
            return None
        if not select.select([descriptor], [], [], _SLICE)[0]:
            silence += _SLICE
            if silence > limit:
                raise SourceLostError(f"no data for {limit:g} s")
            continue
        count = os.readv(descriptor, [view[filled:]])
        if count == 0:
            if filled:
                attempt.packet()
                attempt.drop("damaged")
            return None
        filled, silence = filled + count, 0.0
    return data


def _first_line(text: str) -> str:
    """What gst-launch says of a failure."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or ["it said nothing"])[0].strip()
