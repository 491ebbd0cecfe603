"""Checks of a machine: what screening needs, what it may use, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mpft_deploy import __version__
from mpft_deploy.cores import available_cores
from mpft_deploy.errors import EnvironmentLacksError, MpftError
from mpft_deploy.extras import how_to_install, require
from mpft_deploy.spec import Record

CODECS = ("h264", "hevc", "mjpeg", "mpeg4", "av1")

EXTRAS = {
    "export": ("onnx", "onnxruntime"),
    "mqtt": ("paho",),
    "webhook": ("httpx2",),
    "notify": ("apprise",),
    "push": ("cryptography", "httpx2"),
    "dashboard": ("starlette", "uvicorn", "prometheus_client"),
    "sign": ("cryptography",),
}
"""What is imported of each."""

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
    from mpft_deploy.engine import BACKENDS

    version = platform.python_version()
    yield _found(
        "Python",
        f"{version} on {platform.machine()}, {available_cores()} cores, mpft-deploy {__version__}",
    )
    yield _tried("kernel", _kernel)
    for name in BACKENDS:
        yield _tried(f"engine {name}", _engine, name)
    yield _video()
    yield _gstreamer()
    yield _readers()
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    none = "no /dev/video* here; in a container, pass them with --device"
    yield _found("cameras", ", ".join(devices) or none, fine=bool(devices))
    yield _gpu()
    yield from _jetson()
    yield from _optional()
    yield _disk()
    if bundle is not None:
        yield _tried("bundle", _bundle, bundle)
    if address is not None:
        yield _tried("camera", _camera, address)


def _found(name: str, text: str, *, fine: bool = True) -> Check:
    return Check(name=name, result="ok" if fine else "note", text=text)


def _tried(name: str, check: Callable[..., Check], *arguments: object) -> Check:
    """What a check finds, or the error that it ends in, which hides no other check."""
    try:
        return check(*arguments)
    except MpftError as error:
        return Check(name=name, result="fault", text=str(error), exit_code=error.exit_code)


def _kernel() -> Check:
    from mpft_deploy.kernels import implementations

    chosen = [version.name for version in implementations() if version.chosen]
    fast = chosen not in ([], ["numpy"])
    text = f"texture_patchify: {', '.join(chosen)}"
    if not fast:
        text += "; the compiled kernel is missing, install mpft-deploy again with a C++ compiler"
    return _found("kernel", text, fine=fast)


def _engine(name: str) -> Check:
    from mpft_deploy.engine import find_backend

    backend = find_backend(name)
    reason = backend.why_not()
    text = reason or ", ".join(f"{what} {of}" for what, of in backend.versions().items())
    return _found(f"engine {name}", text, fine=reason is None)


def _video() -> Check:
    if importlib.util.find_spec("av") is None:
        text = f"clips and streams need av: {how_to_install('video')}"
        return _found("video", text, fine=False)
    import av

    have = [codec for codec in CODECS if codec in av.codecs_available]
    protocols = [form for form in ("rtsp", "mpegts", "hls") if form in av.formats_available]
    text = f"PyAV {av.__version__}: {', '.join(have)}; {', '.join(protocols)}"
    if "h264" in have and "rtsp" in protocols:
        return _found("video", text)
    lack = ", ".join(codec for codec in CODECS if codec not in have)
    text += f"; lacks {lack}: install PyAV from its wheel, pip install --force av"
    return Check(name="video", result="fault", text=text, exit_code=3)


def _gstreamer() -> Check:
    """What runs the pipelines of csi:, v4l2: and gst: sources."""
    from mpft_deploy.screen.streams.read_raw import NO_GSTREAMER

    program = shutil.which("gst-launch-1.0")
    none = f"{NO_GSTREAMER}; csi:, v4l2: and gst: sources need it"
    return _found("GStreamer", program or none, fine=program is not None)


def _readers() -> Check:
    """What holds the processes that read streams, beside a limit of their memory."""
    if sys.platform != "linux":
        return _found("readers", "threads; processes of their own need Linux", fine=False)
    from mpft_deploy.screen.streams.sandbox import has_filters, landlock_version

    version = landlock_version()
    none = "processes without Landlock, which keeps them from files: it is in Linux from 5.13 on"
    confined = f"processes, confined by Landlock {version}"
    confined += " and by filters of system calls" if has_filters() else ""
    return _found("readers", none if version < 1 else confined, fine=version >= 1)


def _gpu() -> Check:
    from mpft_deploy.engine import cuda

    try:
        found = cuda.facts()
    except EnvironmentLacksError as error:
        return _found("GPU", str(error), fine=False)
    return _found("GPU", f"{found.name}, SM {found.capability}")


def _jetson() -> Iterator[Check]:
    from mpft_deploy import jetson

    for found in jetson.examine():
        yield _found(found.name, found.text, fine=found.fine)


def _optional() -> Iterator[Check]:
    for name, modules in EXTRAS.items():
        try:
            require(name, "it", *modules)
            yield _found(f"extra {name}", "installed")
        except EnvironmentLacksError as error:  # noqa: PERF203, each by itself
            yield _found(f"extra {name}", f"not installed: {error}", fine=False)


def _disk() -> Check:
    where = Path(os.environ.get("STATE_DIRECTORY", str(Path.cwd())).split(":")[0])
    there = next(folder for folder in (where, *where.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    lack = "" if free >= LOW_DISK else ": too little for snapshots and the store"
    return _found("disk", f"{free / 2**30:.1f} GiB free{lack}", fine=not lack)


def _bundle(path: Path) -> Check:
    from mpft_deploy.bundle import read_bundle
    from mpft_deploy.engine import load_engine
    from mpft_deploy.files import display

    bundle = read_bundle(path)
    load_engine(bundle)
    info, certificate = bundle.info, bundle.certificate
    kept = certificate.answer == "kept" and not certificate.smoke_faults
    text = f"{display(path)}: {info.backend} {info.precision}, verified and loaded"
    return _found("bundle", text if kept else f"{text}; {certificate.summary}", fine=kept)


def _camera(address: str) -> Check:
    """Connect and wait for a picture."""
    from mpft_deploy.screen.streams.doctor import describe

    return _found("camera", describe(address))
