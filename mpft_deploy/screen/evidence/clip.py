"""From coded pictures to a file that plays: remuxed, never decoded."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpft_deploy.files import TEMPORARY
from mpft_deploy.screen.evidence.ring import Coded, Coding, Recorder

if TYPE_CHECKING:
    import av

FORMATS = {"mp4": ".mp4", "matroska": ".mkv"}
"""The first that can hold a codec is taken: browsers play MP4, Matroska holds nearly all."""

JUMP = 10
"""Seconds: a step of the time stamps that is longer, or back, is not believed."""


class Tap:
    """Puts what a connection sends into a ring.

    Args:
        stream: the track that is read.
    """

    def __init__(self, stream: av.VideoStream, ring: Recorder) -> None:
        self._stream, self._ring = stream, ring
        self._coding: Coding | None = None
        self._failed = False

    def add(self, packet: av.Packet, received: float) -> None:
        """Keep a packet; never raises for what a stream sends."""
        data = bytes(packet)
        if self._coding is None and packet.is_keyframe and not self._failed:
            try:
                context = self._stream.codec_context
                self._coding = Coding(
                    codec=context.name,
                    header=bytes(context.extradata or b""),
                    size=(context.width, context.height),
                    base=packet.time_base,
                    sample=_sample(self._stream, data),
                )
            except Exception as error:  # FFmpeg's muxers may refuse whatever a stream is
                self._failed = True
                self._ring.fail(f"its coding cannot be kept: {error}")
        if self._coding is not None:
            picture = Coded(data, packet.pts, packet.dts, bool(packet.is_keyframe), received)
            self._ring.add(self._coding, picture)


def _sample(stream: av.VideoStream, data: bytes) -> bytes:
    """A file in NUT of one picture; see `Coding`."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="nut") as out:
        track = out.add_stream_from_template(stream, opaque=True)
        out.mux_one(_packet(track, data, 0, 0, Fraction(1, 1000), key=True))
    return file.getvalue()


def remux(coding: Coding, pictures: Sequence[Coded], folder: Path) -> tuple[str, bytes]:
    """A file of coded pictures; its suffix, and its bytes. MP4 has its index in front.

    Args:
        folder: for a file that is gone afterwards, since the index is put in front last.

    Raises:
        av.error.FFmpegError, ValueError: FFmpeg cannot put them into a file.
        OSError: the folder cannot be written.
    """
    import av

    # What cameras sent is decoded where they are read, and not here: a decoder may be broken by it.
    undecoded = {"codec_whitelist": "none"}
    with av.open(io.BytesIO(coding.sample), format="nut", options=undecoded) as sample:
        template = sample.streams.video[0]
        for form, suffix in FORMATS.items():
            with tempfile.NamedTemporaryFile(dir=folder, prefix=TEMPORARY, suffix=".tmp") as file:
                options = {"movflags": "faststart"} if form == "mp4" else {}
                with av.open(file.name, "w", format=form, options=options) as out:
                    try:
                        track = out.add_stream_from_template(template, opaque=True)
                    except ValueError:  # no such codec in such a file
                        continue
                    before = 0
                    for one, pts, dts in stamped(pictures, coding.base):
                        packet = _packet(track, one.data, pts, dts, coding.base, key=one.key)
                        packet.duration = dts - before  # of the last, players want it
                        out.mux_one(packet)
                        before = dts
                return suffix, file.read()
    raise ValueError(f"{coding.codec} does not go into {' or '.join(FORMATS)}")


def stamped(pictures: Iterable[Coded], base: Fraction) -> Iterator[tuple[Coded, int, int]]:
    """Each picture with its stamps (pts, dts) from 0 on, in units of `base`; dts rises.

    Where stamps are missing, loop or jump, the time of arrival takes their place.
    """
    jump = JUMP / base
    at, before = 0, None
    for one in pictures:
        stamp = one.pts if one.dts is None else one.dts
        if before is not None:
            last, received = before
            step = 0 if stamp is None or last is None else stamp - last
            if not 0 < step < jump:
                step = max(1, round((one.received - received) / base))
            at += step
        before = stamp, one.received
        shift = 0 if one.pts is None or one.dts is None else one.pts - one.dts
        yield one, at + (shift if 0 <= shift < jump else 0), at


def _packet(track: Any, data: bytes, pts: int, dts: int, base: Fraction, *, key: bool) -> Any:
    import av

    packet = av.Packet(data)
    packet.pts, packet.dts, packet.time_base, packet.is_keyframe = pts, dts, base, key
    packet.stream = track
    return packet
