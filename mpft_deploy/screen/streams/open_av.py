"""Opening a source with FFmpeg: what it may be, what it may lead to, and why it could not."""

from __future__ import annotations

import errno
import functools
import logging
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpft_deploy.images import check_readable
from mpft_deploy.screen.streams.attempt import GONE, OUT_OF_MEMORY, Attempt, SourceLostError
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.video import CONTAINERS, size_limit

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)

_HTTP = f"{CONTAINERS},mpjpeg,mjpeg,h264,hevc,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe"
_HLS = "hls,mpegts,mov,mp4"

ALLOWED = {
    "rtsp": ("rtsp,rtp,udp,tcp", "rtsp,sdp,rtp,mpegts"),
    "rtsps": ("rtsp,rtsps,rtp,srtp,udp,tcp,tls", "rtsp,sdp,rtp,mpegts"),
    "http": ("http,https,tcp,tls,crypto", _HTTP),
    "https": ("https,tcp,tls,crypto", _HTTP),
    "hls+http": ("http,https", _HLS),
    "hls+https": ("http,https", _HLS),
    "rtmp": ("rtmp,tcp", "flv,live_flv"),
    "file": ("file", CONTAINERS),
}
"""By scheme, protocols and formats of FFmpeg. A stream may not make it open any others: a playlist
from a stranger must not lead to local files, and playlists, which lead to further addresses, are
read only where asked for."""

_ASKING_HARDWARE = threading.Lock()
"""Sources that start together ask once."""

# What PyAV raises when its time is up; it says nothing to an operator.
_TIME_OUT = ("ExitError", "TimeoutError")


def open_source(settings: SourceSettings, location: str | None) -> av.container.InputContainer:
    """Open a source; location: where it redirected to."""
    import av

    target, ca_file = settings.target, settings.ca_file
    arguments: dict[str, Any] = {
        "metadata_errors": "replace",
        "timeout": (settings.connect, settings.timeout),
    }
    with _ASKING_HARDWARE:
        hardware = bool(settings.hwaccel) and not why_no_hardware(settings.hwaccel)
    if hardware:
        from av.codec.hwaccel import HWAccel

        arguments["hwaccel"] = HWAccel(settings.hwaccel, allow_software_fallback=True)
    protocols, formats = ALLOWED[target.scheme]
    options = {
        "protocol_whitelist": protocols,
        "format_whitelist": formats,
        # Of the decoders that look at what a stream sends before it is read.
        **size_limit(settings.max_pixels),
    }
    if target.scheme == "file":
        check_readable(Path(target.rest))
        # With its protocol: a name may look like an address.
        return av.open(f"file:{target.rest}", options=options, **arguments)
    # Little is looked at before the first frame is given out: that is age of the first frames.
    options |= {"fpsprobesize": "0", "analyzeduration": "500000"}
    # Where it is not said, later versions of FFmpeg check.
    options |= {"tls_verify": "1", "ca_file": ca_file} if ca_file else {"tls_verify": "0"}
    if target.scheme.startswith("rtsp"):
        options |= {"rtsp_transport": settings.transport, "allowed_media_types": "video"}
    if target.scheme.startswith("hls+"):
        from mpft_deploy.screen.streams.origin import Playlists

        options |= {"http_persistent": "0", "http_multiple": "0"}
        opened = Playlists(settings)
        try:
            return av.open(
                opened.origin, format="hls", io_open=opened, options=options, **arguments
            )
        except (av.error.FFmpegError, OSError):
            if opened.failure is not None:
                raise opened.failure from None
            raise
    # One picture's name may hold what would stand for the numbers of many.
    options |= {"max_redirects": "0", "pattern_type": "none"}
    return av.open(location or target.raw, options=options, **arguments)


def is_still(container: av.container.InputContainer) -> bool:
    """Whether it is one still picture, rather than a stream of them."""
    name: str = container.format.name
    return name == "image2" or name.endswith("_pipe")


@functools.cache
def why_no_hardware(name: str) -> str:
    """Why a hardware decoder cannot be used here, "" if it can; a reason is logged, once."""
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available

    reason = ""
    known = hwdevices_available()
    if name not in known:
        reason = f"it is none of {', '.join(known) or 'those of this FFmpeg, which has none'}"
    else:
        try:
            HWAccel(name).create(av.Codec("h264", "r"))
        except Exception as error:  # a driver may say anything
            reason = getattr(error, "strerror", None) or str(error)
    if reason:
        logger.warning("hwaccel %s cannot be used (%s): decoding in software", name, reason)
    return reason


def check_size(width: int, height: int, settings: SourceSettings) -> None:
    """A SourceLostError if pictures of a source are larger than it may send."""
    if width * height > settings.max_pixels:
        raise SourceLostError(
            f"its pictures of {width} × {height} have more than max_pixels = "
            f"{settings.max_pixels} pixels"
        )


def lost(error: av.error.FFmpegError, attempt: Attempt) -> SourceLostError:
    """What happened, without the address: str(error) names it."""
    settings = attempt.settings
    why, gone = error.strerror or type(error).__name__, error.errno in GONE
    if error.errno == errno.ENOMEM:
        why = OUT_OF_MEMORY
    elif attempt.opened:
        if type(error).__name__ in _TIME_OUT:
            why = f"no data for {settings.timeout:g} s"
    elif settings.target.network and error.errno == errno.EIO and not _resolves(settings):
        why, gone = f"the name {settings.target.host} cannot be resolved", True
    elif settings.ca_file and error.errno == errno.EIO and (found := _find_distrust(settings)):
        why = found
    elif settings.target.network and error.errno == errno.EINVAL:
        why = (
            "it sends a format that is not read here; for a playlist write hls+http:// or "
            "hls+https://"
        )
    # What FFmpeg says when its time is up depends on where it was.
    elif attempt.now - attempt.began >= 0.95 * settings.connect:
        why = f"no stream within {settings.connect:g} s"
    return SourceLostError(why, gone=gone)


def _find_distrust(settings: SourceSettings) -> str:
    from mpft_deploy.screen.streams.tls import find_distrust  # with it 2 MB that others do without

    return find_distrust(settings)


def _resolves(settings: SourceSettings) -> bool:
    """Whether a source's host has an address; FFmpeg calls it an input/output error if not."""
    try:
        return bool(socket.getaddrinfo(settings.target.host, settings.target.port))
    except (OSError, UnicodeError):
        return False
