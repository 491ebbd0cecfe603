"""From decoded frames to RGB: only what the detector looks at is converted, exactly as the whole.

Converting a frame of 1080p costs milliseconds, its central crop a fraction of one.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mpft_deploy.images import U8
from mpft_deploy.screen.video import to_rgb
from mpft_deploy.views import Window

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

_ROWS, _COLUMNS = 8, 64
"""Converters look at a few neighbours, and treat so many columns at once: a cut starts on multiples
of these, and takes one more on each side."""

_WHOLE = 64
"""Columns or rows of luma that are a whole number of chroma."""

_OF_THREAD = threading.local()


class Shot(Protocol):
    """A received picture, not yet RGB."""

    height: int
    width: int

    def cut(self, window: Window) -> U8:
        """A window that lies within the picture, u8 [height, width, 3] RGB."""

    def whole(self) -> U8:
        """u8 [height, width, 3] RGB, read-only where several hold it."""


class RgbShot(Shot):
    """A picture that came as RGB."""

    def __init__(self, pixels: U8) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def cut(self, window: Window) -> U8:
        return _part(self._pixels, window)

    def whole(self) -> U8:
        return self._pixels


class DecodedShot(Shot):
    """A frame as the decoder gave it, turned as its stream says; from any thread.

    A conversion writes to the frame it reads meanwhile: one thread at a time is let near it.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._lock = threading.Lock()
        self._turned: U8 | None = None
        self._turns = round(frame.rotation / 90) % 4
        sides = (frame.height, frame.width)
        self.height, self.width = sides if self._turns % 2 == 0 else sides[::-1]

    def cut(self, window: Window) -> U8:
        if self._turns:
            return _part(self.whole(), window)
        with self._lock:
            return cut(self._frame, window)

    def whole(self) -> U8:
        """See `Shot`; what is turned is converted once, for windows are cut out of it."""
        with self._lock:
            if not self._turns:
                return to_rgb(self._frame)
            if self._turned is None:
                self._turned = np.ascontiguousarray(np.rot90(to_rgb(self._frame), self._turns))
                self._turned.flags.writeable = False
            return self._turned


def cut(frame: av.VideoFrame, window: Window) -> U8:
    """A window of a frame, u8 [height, width, 3] RGB: the bytes of the converted whole."""
    form = frame.format
    across, down = _WHOLE // form.chroma_width(_WHOLE), _WHOLE // form.chroma_height(_WHOLE)
    # Along sides that are odd, or that chroma does not fill, it is stretched, unevenly.
    # Of formats that mix it with luma FFmpeg's crop takes other columns than are asked for.
    mixed = form.is_bit_stream or (across > 1 and not form.is_planar)
    if mixed or frame.height % max(2, down) or frame.width % max(2, across):
        return _part(to_rgb(frame), window)
    row, height = _span(window.row, window.height, frame.height, _ROWS)
    column, width = _span(window.column, window.width, frame.width, _COLUMNS)
    part = to_rgb(_crop(frame, Window(row, column, height, width)), _reformatter())
    return _part(part, window._replace(row=window.row - row, column=window.column - column))


def _reformatter() -> VideoReformatter:
    """This thread's, which keeps what it needs for one size of pictures after another."""
    if not hasattr(_OF_THREAD, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _OF_THREAD.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _OF_THREAD.reformatter
    return reformatter


def _crop(frame: av.VideoFrame, window: Window) -> Any:
    """A window of a frame, whose memory it shares."""
    import av

    graph = av.filter.Graph()
    graph.threads = 1
    crop = graph.add("crop", f"{window.width}:{window.height}:{window.column}:{window.row}:exact=1")
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    sink = graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def _span(start: int, size: int, side: int, step: int) -> tuple[int, int]:
    """Where a cut along one side starts, and how long it is."""
    first = max(0, start // step - 1) * step
    end = min(side, (-(-(start + size) // step) + 1) * step)
    return first, end - first


def _part(pixels: U8, window: Window) -> U8:
    row, column, height, width = window
    return pixels[row : row + height, column : column + width]
