"""Checks of a machine: what screening needs, what it may use, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mpft_deploy import __version__
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import EnvironmentLacksError, InputError, MpftError
from mpft_deploy.extras import how_to_install
from mpft_deploy.spec import Record

CODECS = ("h264", "hevc", "mjpeg", "mpeg4", "av1")

LOW_DISK = 2**30
"""Bytes; below that snapshots and the store will not last."""


class Check(Record, frozen=True):
    """What a check found.

    Attributes:
        result: "note" for what is absent but needed only by some.
        exit_code: that it asks the command to end with.
    """

    name: str
    result: Literal["ok", "note", "fault"]
    text: str
    exit_code: int = 0


def examine(bundle: Path | None = None, address: str | None = None) -> Iterator[Check]:
    """Check this machine, and a bundle and a camera if they are named."""
    yield _python()
    yield _kernel()
    yield from _engines()
    yield from _video()
    yield _gpu()
    yield from _jetson()
    yield from _optional()
    yield _disk()
    if bundle is not None:
        yield _bundle(bundle)
    if address is not None:
        yield _camera(address)


def _python() -> Check:
    version = platform.python_version()
    text = (
        f"{version} on {platform.machine()}, {available_cores()} cores, mpft-deploy {__version__}"
    )
    return Check(name="Python", result="ok", text=text)


def _kernel() -> Check:
    from mpft_deploy.kernels import implementations

    chosen = [version.name for version in implementations() if version.chosen]
    slow = chosen == ["numpy"] or not chosen
    text = f"texture_patchify: {', '.join(chosen)}"
    if slow:
        text += "; the compiled kernel is missing, install mpft-deploy again with a C++ compiler"
    return Check(name="kernel", result="note" if slow else "ok", text=text)


def _engines() -> Iterator[Check]:
    from mpft_deploy.engine import BACKENDS, find_backend

    for name in BACKENDS:
        backend = find_backend(name)
        reason = backend.why_not()
        if reason is None:
            text = ", ".join(f"{what} {version}" for what, version in backend.versions().items())
            yield Check(name=f"engine {name}", result="ok", text=text)
        else:
            yield Check(name=f"engine {name}", result="note", text=reason)


def _video() -> Iterator[Check]:
    import av

    have = [codec for codec in CODECS if codec in av.codecs_available]
    lack = [codec for codec in CODECS if codec not in have]
    protocols = [form for form in ("rtsp", "mpegts", "hls") if form in av.formats_available]
    text = f"PyAV {av.__version__}: {', '.join(have)}; {', '.join(protocols)}"
    if "h264" in lack or "rtsp" not in protocols:
        text += f"; lacks {', '.join(lack)}: install PyAV from its wheel, pip install --force av"
        yield Check(name="video", result="fault", text=text, exit_code=3)
    else:
        yield Check(name="video", result="ok", text=text)
    yield _gstreamer()
    yield _readers()
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    text = ", ".join(devices) or "no /dev/video* here; in a container, pass them with --device"
    yield Check(name="cameras", result="ok" if devices else "note", text=text)


def _gstreamer() -> Check:
    """By what `read_raw` would run a pipeline of a csi:, v4l2: or gst: source."""
    from mpft_deploy.screen.streams.read_raw import NO_BINDINGS, NO_GSTREAMER, find_bindings

    if python := find_bindings():
        return Check(name="GStreamer", result="ok", text=f"Python bindings, of {python}")
    program = shutil.which("gst-launch-1.0")
    if program is None:
        text = f"{NO_GSTREAMER}; csi:, v4l2: and gst: sources need it"
    else:
        text = f"{program}; addresses with a password need more: {NO_BINDINGS}"
    return Check(name="GStreamer", result="note", text=text)


def _readers() -> Check:
    """What holds the processes that read streams, beside a limit of their memory."""
    if sys.platform != "linux":
        text = "threads; processes of their own need Linux"
        return Check(name="readers", result="note", text=text)
    from mpft_deploy.screen.streams.sandbox import landlock_version

    version = landlock_version()
    if version < 1:
        text = (
            "processes without Landlock, which keeps them from files: it is in Linux from 5.13 on"
        )
        return Check(name="readers", result="note", text=text)
    return Check(name="readers", result="ok", text=f"processes, confined by Landlock {version}")


def _gpu() -> Check:
    from mpft_deploy.engine import cuda

    try:
        found = cuda.facts()
        return Check(name="GPU", result="ok", text=f"{found.name}, SM {found.capability}")
    except EnvironmentLacksError as error:
        return Check(name="GPU", result="note", text=str(error))


def _jetson() -> Iterator[Check]:
    from mpft_deploy import jetson

    for found in jetson.examine():
        yield Check(name=found.name, result="ok" if found.fine else "note", text=found.text)


def _optional() -> Iterator[Check]:
    import importlib.util

    extras = {
        "export": "onnxruntime",
        "mqtt": "paho",
        "webhook": "httpx2",
        "notify": "apprise",
        "dashboard": "uvicorn",
        "sign": "cryptography",
    }
    for extra, module in extras.items():
        found = importlib.util.find_spec(module) is not None
        text = "installed" if found else f"not installed: {how_to_install(extra)}"
        yield Check(name=f"extra {extra}", result="ok" if found else "note", text=text)


def _disk() -> Check:
    where = Path(os.environ.get("STATE_DIRECTORY", str(Path.cwd())).split(":")[0])
    free = shutil.disk_usage(where).free
    text = f"{free / 2**30:.1f} GiB free"
    if free < LOW_DISK:
        return Check(
            name="disk", result="note", text=f"{text}: too little for snapshots and the store"
        )
    return Check(name="disk", result="ok", text=text)


def _bundle(path: Path) -> Check:
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.engine import load_engine
    from mpft_deploy.files import display

    try:
        bundle = read_bundle(path)
        load_engine(bundle)
    except MpftError as error:
        return Check(name="bundle", result="fault", text=str(error), exit_code=error.exit_code)
    info = bundle.info
    text = f"{display(path)}: {info.backend} {info.precision}, verified and loaded"
    if bundle.certificate.answer != "kept":
        return Check(name="bundle", result="note", text=f"{text}; {bundle.certificate.summary}")
    return Check(name="bundle", result="ok", text=text)


def _camera(address: str) -> Check:
    """Connect and wait for a picture."""
    from mpft_deploy.screen.streams.doctor import describe

    try:
        text = describe(address)
    except MpftError as error:
        code = InputError.exit_code if error.exit_code == 1 else error.exit_code
        return Check(name="camera", result="fault", text=str(error), exit_code=code)
    return Check(name="camera", result="ok", text=text)
