"""Video files to frames: their moving track, and whether they are whole."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mpft_deploy.errors import InputError
from mpft_deploy.extras import how_to_install
from mpft_deploy.files import display
from mpft_deploy.images import U8, check_pixels, check_readable
from mpft_deploy.screen.video import (
    CONTAINERS,
    RefusedError,
    Sent,
    Sieve,
    is_picture,
    pick_track,
    prepare_decoder,
    to_rgb,
)
from mpft_deploy.screen.whole import is_cut

if TYPE_CHECKING:
    import av

_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}

# Rounding of time stamps to a container's clock, in seconds; far below a frame's length.
_CLOCK = 2e-3

# As Matroska's writers tell how long a track is.
_HOURS = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class Frame:
    """One frame of a clip, or an image.

    pixels: u8 [H, W, 3] RGB.
    time: seconds from the first frame of a clip; 0 for an image.
    note: what a reader of the verdict should know; mostly empty.
    whole: height and width of the frame, where `pixels` are only its centre window.
    """

    pixels: U8
    time: float = 0.0
    note: str = ""
    whole: tuple[int, int] | None = None


def read_clip(path: Path, fps: float) -> Iterator[Frame]:
    """The sound frames of a clip at `fps` of its media time; the first one always comes.

    Raises:
        InputError: it cannot be read, or, after its sound frames, it is damaged or cut short.
    """
    check_readable(path)
    name = display(path)
    if importlib.util.find_spec("av") is None:  # pictures beside it are judged all the same
        raise InputError(f"{name}: a clip needs av: {how_to_install('video')}")
    import av

    try:
        try:
            yield from _read(path, fps, name, strict=True)
        except RefusedError:
            yield from _read(path, fps, name, strict=False)
    except InputError:
        raise
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{name}: damaged, or not a video that can be read ({reason})") from None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except Exception as error:
        # PyAV lets others through when the data is damaged; the next file must still be read.
        raise InputError(f"{name}: damaged video ({error or type(error).__name__})") from None


def _read(path: Path, fps: float, name: str, *, strict: bool) -> Iterator[Frame]:
    import av

    # FFmpeg is handed an open file, never a name that it might take for an address.
    # Its titles may be in any encoding.
    with (
        path.open("rb") as file,
        av.open(file, options=_OPTIONS, metadata_errors="replace") as container,
    ):
        if not container.streams:
            raise InputError(f"{name}: damaged: it has no index, as when a recording was cut off")
        track = pick_track(container)
        if track is None:
            raise InputError(f"{name}: holds no video")
        stream, note = track
        if stream.codec_context is None:
            raise InputError(f"{name}: damaged, or coded in a way that cannot be read")
        check_pixels(stream.width, stream.height, name)
        stream.codec_context.thread_type = "AUTO"
        prepare_decoder(stream.codec_context, strict=strict)
        clip = _Clip(container, stream, name, strict=strict)
        frames = _sample(clip.frames(), fps, note)
        if is_picture(stream) and len(container.streams) > 1:
            frames = _at_least_two(frames, clip)
        yield from frames
        clip.judge_end(file)


def _at_least_two(frames: Iterator[Frame], clip: _Clip) -> Iterator[Frame]:
    """The frames, unless the track is a cover: one picture beside sound or other tracks."""
    head = list(itertools.islice(frames, 2))
    # Frames that were not due count as well.
    if len(head) < 2 and clip.count == 1:
        raise InputError(f"{clip.name}: holds no video, only a picture")
    yield from itertools.chain(head, frames)


def _sample(
    frames: Iterator[tuple[av.VideoFrame, float]], fps: float, note: str
) -> Iterator[Frame]:
    from av.video.reformatter import VideoReformatter

    interval, reformatter = 1 / fps, VideoReformatter()
    first = taken = None
    for frame, time in frames:
        first = time if first is None else first
        # A clock that jumps back, as joined recordings have it, starts a new interval.
        if taken is None or abs(time - taken) >= interval - _CLOCK:
            taken = time
            # As a player should turn it.
            pixels = np.rot90(to_rgb(frame, reformatter), round(frame.rotation / 90) % 4)
            yield Frame(np.ascontiguousarray(pixels), time - first, note)


class _Clip:
    """One reading of a clip: its sound frames, and what its packets tell of its length."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        name: str,
        *,
        strict: bool,
    ) -> None:
        self._container, self._stream, self.name, self._strict = container, stream, name, strict
        self._sieve = Sieve(stream.codec_context)
        self._promised = _promised(container, stream)
        self.count = 0
        self._begin, self._end = math.inf, -math.inf
        self._decoded, self._longest, self._packets = math.inf, 0.0, 0
        self._refused, self._decodable = 0, False

    def frames(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Sound frames and their times in seconds, in the order in which they are shown."""
        import av

        for place, packet in enumerate(self._container.demux(self._stream)):
            self._measure(packet)
            packet.opaque = Sent(place, packet.is_keyframe)
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(0, "")
                decoded = packet.decode()
            except av.error.FFmpegError:
                # One bad packet is no reason to leave the rest of a recording unseen.
                self._refused += 1
                self._sieve.fail(place)
                continue
            self._decodable = self._decodable or bool(decoded)
            yield from self._timed(self._sieve.take(decoded))
        yield from self._timed(self._sieve.flush())

    def _timed(self, frames: list[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, float]]:
        for frame in frames:
            check_pixels(frame.width, frame.height, self.name)
            time = frame.time
            if time is None:
                shown = self.count + self._sieve.left_out
                time = float(shown / (self._stream.average_rate or 25))
            self.count += 1
            yield frame, time

    def _measure(self, packet: av.Packet) -> None:
        """Note from when to when the track lasts, and how long one of its pictures stands."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_discard or packet.size == 0:
            return
        time = float(stamp * packet.time_base)
        self._begin = min(self._begin, time)
        self._end = max(self._end, time + float((packet.duration or 0) * packet.time_base))
        if packet.dts is not None:
            decoded = float(packet.dts * packet.time_base)
            self._longest = max(self._longest, decoded - self._decoded)
            self._decoded = decoded
        self._packets += 1

    def judge_end(self, file: BinaryIO) -> None:
        """At the end: an InputError if not all of the clip could be read and judged."""
        damaged = self._sieve.left_out
        if not self.count:
            # Damage leaves some that can be decoded; where there are none, their writer is odd.
            if self._strict and self._refused > 1 and not self._decodable:
                raise RefusedError
            sound = (
                f"none of its {damaged} frames is sound" if damaged else "no frame can be decoded"
            )
            raise InputError(f"{self.name}: damaged: {sound}")
        left_out = f"; damaged frames left out: {damaged}" if damaged else ""
        read = max(self._end, self._end - self._begin)
        cut = is_cut(file)
        missing = (self._promised or 0) - read
        # The last picture may stand as long as any before it, and a single one for all the time.
        short = missing > max(1.0, 0.1 * (self._promised or 0), self._longest)
        if cut or (short and not (cut is False and self._packets == 1)):
            should = f" it should last {self._promised:.1f} s," if missing > 0.05 else ""
            lasts = self._end - self._begin
            raise InputError(
                f"{self.name}: cut short:{should} only {lasts:.1f} s can be read and was judged"
                + left_out
            )
        if damaged:
            raise InputError(
                f"{self.name}: damaged: {damaged} of its {damaged + self.count} frames were left "
                "out, the rest judged"
            )


def _promised(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds of video that the header promises, where it does; longer sound does not count."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if found := _HOURS.fullmatch(stream.metadata.get("DURATION", "")):
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
    if len(container.streams) == 1 and container.duration is not None:
        return float(container.duration) / 1e6
    return None
