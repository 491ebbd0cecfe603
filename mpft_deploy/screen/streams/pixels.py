"""From decoded frames to RGB: only what the detector looks at is converted, exactly as the whole.

Converting a frame of 1080p costs milliseconds, its central crop a fraction of one.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mpft_deploy.images import U8
from mpft_deploy.screen.video import to_rgb
from mpft_deploy.views import Window

if TYPE_CHECKING:
    import av


class _Layout(NamedTuple):
    """How a pixel format lies in memory.

    across, down: chroma samples have 2 ** that columns and rows.
    columns: bytes of a column (of luma in the first plane, of chroma in others), for each plane.
    """

    across: int
    down: int
    columns: tuple[int, ...]


def _planar(name: str, across: int, down: int) -> dict[str, _Layout]:
    deep = {f"{name}{bits}le": _Layout(across, down, (2, 2, 2)) for bits in (10, 12)}
    return {name: _Layout(across, down, (1, 1, 1)), **deep}


# What cameras, decoders of hardware and files give. All others are converted whole.
_LAYOUTS = {
    **_planar("yuv420p", 1, 1),
    **_planar("yuv422p", 1, 0),
    **_planar("yuv444p", 0, 0),
    "yuvj420p": _Layout(1, 1, (1, 1, 1)),
    "yuvj422p": _Layout(1, 0, (1, 1, 1)),
    "yuvj444p": _Layout(0, 0, (1, 1, 1)),
    "nv12": _Layout(1, 1, (1, 2)),
    "nv21": _Layout(1, 1, (1, 2)),
    "nv16": _Layout(1, 0, (1, 2)),
    "p010le": _Layout(1, 1, (2, 4)),
    "p210le": _Layout(1, 0, (2, 4)),
    "yuyv422": _Layout(1, 0, (2,)),
    "uyvy422": _Layout(1, 0, (2,)),
    "gray": _Layout(0, 0, (1,)),
    "gray10le": _Layout(0, 0, (2,)),
    "rgb24": _Layout(0, 0, (3,)),
    "bgr24": _Layout(0, 0, (3,)),
    "bgra": _Layout(0, 0, (4,)),
    "bgr0": _Layout(0, 0, (4,)),
}

_ROWS, _COLUMNS = 8, 64
"""Converters look at a few neighbours, and treat so many columns at once: a cut starts on multiples
of these, and takes one more on each side."""


class Shot(Protocol):
    """A received picture, not yet RGB."""

    height: int
    width: int

    def cut(self, window: Window, cutter: Cutter) -> U8:
        """A window that lies within the picture, u8 [height, width, 3] RGB."""

    def whole(self) -> U8:
        """u8 [height, width, 3] RGB."""


class RgbShot:
    """A picture that came as RGB."""

    def __init__(self, pixels: U8) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def cut(self, window: Window, cutter: Cutter) -> U8:
        """See `Shot`."""
        return _part(self._pixels, window)

    def whole(self) -> U8:
        """See `Shot`."""
        return self._pixels


class DecodedShot:
    """A frame as the decoder gave it, turned as its stream says; from any thread.

    A conversion writes to the frame it reads meanwhile: one thread at a time is let near it, and
    the whole is converted once.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._lock = threading.Lock()
        self._whole: U8 | None = None
        self._turns = round(frame.rotation / 90) % 4
        sides = (frame.height, frame.width)
        self.height, self.width = sides if self._turns % 2 == 0 else sides[::-1]

    def cut(self, window: Window, cutter: Cutter) -> U8:
        """See `Shot`."""
        if self._turns or self._whole is not None:
            return _part(self.whole(), window)
        with self._lock:
            return cutter.cut(self._frame, window)

    def whole(self) -> U8:
        """See `Shot`; read-only."""
        with self._lock:
            if self._whole is None:
                pixels = to_rgb(self._frame)
                self._whole = np.ascontiguousarray(np.rot90(pixels, self._turns))
                self._whole.flags.writeable = False
            return self._whole


class Cutter:
    """Cuts windows out of frames; keeps what the conversion needs. For one thread."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._scratch: tuple[tuple[Any, ...], av.VideoFrame] | None = None

    def cut(self, frame: av.VideoFrame, window: Window) -> U8:
        """A window, u8 [height, width, 3] RGB: the bytes of the converted whole."""
        layout = _LAYOUTS.get(frame.format.name)
        # Odd sides have their chroma stretched, each row and column by another amount.
        if layout is None or frame.height % 2 or frame.width % 2:
            return _part(to_rgb(frame), window)
        row, height = _span(window.row, window.height, frame.height, _ROWS)
        column, width = _span(window.column, window.width, frame.width, _COLUMNS)
        cut = self._blank(frame, height, width)
        for index, (source, target) in enumerate(zip(frame.planes, cut.planes, strict=True)):
            down, across = (layout.down, layout.across) if index else (0, 0)
            step = layout.columns[index]
            rows = slice(row >> down, (row + height) >> down)
            columns = slice((column >> across) * step, ((column + width) >> across) * step)
            _plane(target)[:, : columns.stop - columns.start] = _plane(source)[rows, columns]
        converted = to_rgb(cut, self._reformatter)
        return _part(
            converted, window._replace(row=window.row - row, column=window.column - column)
        )

    def _blank(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
        """A frame to fill, of the same format and colours, and interlaced if that one is."""
        kind = (height, width, frame.format.name, frame.interlaced_frame)
        if self._scratch is None or self._scratch[0] != kind:
            import av

            # Scaled, for its properties alone: a new frame could not be marked as interlaced.
            like = self._reformatter.reformat(frame, width=width, height=height, threads=1)
            blank = like if frame.interlaced_frame else av.VideoFrame(width, height, kind[2])
            self._scratch = kind, blank
        blank = self._scratch[1]
        blank.colorspace, blank.color_range = frame.colorspace, frame.color_range
        return blank


def _span(start: int, size: int, side: int, step: int) -> tuple[int, int]:
    """Where a cut along one side starts, and how long it is."""
    first = max(0, start // step - 1) * step
    end = min(side, (-(-(start + size) // step) + 1) * step)
    return first, end - first


def _part(pixels: U8, window: Window) -> U8:
    row, column, height, width = window
    return pixels[row : row + height, column : column + width]


def _plane(plane: av.VideoPlane) -> U8:
    """A plane's bytes, u8 [rows, bytes of a line]; a view, writable if the plane is."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
