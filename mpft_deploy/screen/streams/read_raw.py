"""Raw pictures from a pipe: standard input, or a GStreamer pipeline of this machine."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys

import numpy as np

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.task import Task

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

KEPT = 4096
"""Bytes of what a pipeline says that are kept."""

NO_GSTREAMER = (
    "GStreamer is not on this machine: install its tools (gst-launch-1.0) and its plugins"
)

_SLICE = 0.2
"""Seconds between two looks at whether to stop."""


def read_pipe(attempt: Attempt) -> None:
    """Read rgb24 pictures of the given size from standard input, until it ends.

    A pause of any length is waited for: there is nothing to connect anew, and what follows goes on
    in the middle of a picture.
    """
    assert attempt.settings.sides is not None  # no settings without
    attempt.describe("rgb24")
    _read(sys.stdin.fileno(), attempt.settings.sides, attempt, patient=True)


def read_gstreamer(attempt: Attempt) -> None:
    """Read the pictures of a GStreamer pipeline, run in a process of its own.

    Raises:
        EnvironmentLacksError: GStreamer is not here.
        SourceLostError: the pipeline failed or ended, or holds a secret.
    """
    target = attempt.settings.target
    sides = attempt.settings.sides or SIDES
    where = target.rest.strip("/") or "0" if target.scheme == "csi" else target.rest
    head = HEADS[target.scheme].format(where)
    height, width = sides
    pipeline = f"{head} ! {TAIL.format(width=width, height=height)}"
    with subprocess.Popen(
        _command(pipeline, secret=bool(target.secrets)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pipe, said = process.stderr, bytearray()

        def listen() -> None:  # or a pipe that nobody reads would stop it
            with contextlib.suppress(OSError, ValueError):  # closed, where a child of its lives on
                while heard := os.read(pipe.fileno(), KEPT):
                    said[:] = (said + heard)[-KEPT:]

        listening = Task("said", listen)
        listening.start()
        attempt.describe("gstreamer")
        try:
            _read(process.stdout.fileno(), sides, attempt)
        finally:
            if process.poll() is None:
                process.kill()
            listening.join(1.0)
    if not attempt.stopping:
        raise SourceLostError(f"the pipeline ended: {_first_line(said.decode(errors='replace'))}")


def _command(pipeline: str, *, secret: bool) -> list[str]:
    if secret:
        raise SourceLostError(
            "gst-launch-1.0 would show this address's password to every user of this machine: "
            "name the camera by an rtsp:// or http:// address, or let a server such as MediaMTX "
            "have the password"
        )
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise EnvironmentLacksError(NO_GSTREAMER)
    return [program, "--quiet", *pipeline.split()]


def _read(
    descriptor: int, sides: tuple[int, int], attempt: Attempt, *, patient: bool = False
) -> None:
    """Pictures from a file descriptor until it ends; patient: however long it is silent."""
    height, width = sides
    size = 3 * height * width
    interval, due = attempt.settings.interval, 0.0
    while not attempt.stopping:
        data = _exactly(descriptor, size, attempt, patient=patient)
        if data is None:
            return
        now = attempt.packet()
        if interval and now < due:
            attempt.drop("rate", picture=True)
            continue
        due = max(due + interval, now) if interval else 0.0
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        attempt.offer(RgbShot(pixels), now)


def _exactly(descriptor: int, size: int, attempt: Attempt, *, patient: bool) -> bytearray | None:
    """So many bytes; None at the end, or if the attempt was stopped."""
    data = bytearray(size)
    filled, silence, settings = 0, 0.0, attempt.settings
    limit = settings.timeout if attempt.pictures else settings.connect
    view = memoryview(data)
    while filled < size:
        attempt.within(settings.timeout)
        if attempt.stopping:
            return None
        if not select.select([descriptor], [], [], _SLICE)[0]:
            silence += _SLICE
            if silence > limit and not patient:
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
    """What a pipeline says of a failure."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or ["it said nothing"])[0].strip()
