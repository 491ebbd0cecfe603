"""From decoded frames to RGB: only what the detector looks at is converted, exactly as the whole.

Converting a frame of 1080p costs milliseconds, its central crop a fraction of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mpft_deploy.images import U8, view_corners

if TYPE_CHECKING:
    import av

# FFmpeg converts these without looking at neighbours: a pixel depends on its own chroma sample
# alone. That holds for even heights; all others go through its scaler, and are converted whole.
_LOCAL_FORMATS = ("yuv420p", "yuvj420p")


class Shot(Protocol):
    """A received picture, not yet RGB."""

    height: int
    width: int

    def centre(self, size: int, cutter: Cutter) -> U8:
        """The central view, u8 [size, size, 3] RGB; both sides of the picture are at least that."""

    def whole(self) -> U8:
        """u8 [height, width, 3] RGB."""


class RgbShot:
    """A picture that came as RGB."""

    def __init__(self, pixels: U8) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def centre(self, size: int, cutter: Cutter) -> U8:
        """See `Shot`."""
        return _centre(self._pixels, size)

    def whole(self) -> U8:
        """See `Shot`."""
        return self._pixels


class DecodedShot:
    """A frame as the decoder gave it, turned as its stream says."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._turns = round(frame.rotation / 90) % 4
        sides = (frame.height, frame.width)
        self.height, self.width = sides if self._turns % 2 == 0 else sides[::-1]

    def centre(self, size: int, cutter: Cutter) -> U8:
        """See `Shot`."""
        if self._turns:
            return _centre(self.whole(), size)
        return cutter.cut(self._frame, size)

    def whole(self) -> U8:
        """See `Shot`."""
        pixels: U8 = self._frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, self._turns)) if self._turns else pixels


class Cutter:
    """Cuts central views out of frames; keeps what the conversion needs. For one thread."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._scratch: av.VideoFrame | None = None

    def cut(self, frame: av.VideoFrame, size: int) -> U8:
        """The central view, u8 [size, size, 3] RGB: the bytes of the converted whole."""
        if frame.format.name not in _LOCAL_FORMATS or frame.height % 2:
            return _centre(frame.to_ndarray(format="rgb24"), size)
        [(top, left)] = view_corners(frame.height, frame.width, size)
        # Chroma samples lie at even rows and columns: the cut starts and ends on them.
        row, column = top & ~1, left & ~1
        height = (top + size - row + 1) & ~1
        width = (left + size - column + 1) & ~1
        cut = self._blank(frame, height, width)
        for index, (source, target) in enumerate(zip(frame.planes, cut.planes, strict=True)):
            step = 2 if index else 1
            rows, columns = height // step, width // step
            r, c = row // step, column // step
            part = _plane(source)[r : r + rows, c : c + columns]
            # Beyond the last chroma column of an odd width there is nothing to copy, nor seen.
            _plane(target)[:rows, : part.shape[1]] = part
        converted: Any = self._reformatter.reformat(cut, format="rgb24").to_ndarray()
        view: U8 = converted[top - row : top - row + size, left - column : left - column + size]
        return view

    def _blank(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
        """A frame to fill, of the same format and colours."""
        import av

        blank, name = self._scratch, frame.format.name
        if blank is None or (blank.height, blank.width, blank.format.name) != (height, width, name):
            blank = self._scratch = av.VideoFrame(width, height, name)
        blank.colorspace, blank.color_range = frame.colorspace, frame.color_range
        return blank


def _centre(pixels: U8, size: int) -> U8:
    [(row, column)] = view_corners(pixels.shape[0], pixels.shape[1], size)
    return pixels[row : row + size, column : column + size]


def _plane(plane: av.VideoPlane) -> U8:
    """A plane's bytes, u8 [rows, bytes of a line]; a view, writable if the plane is."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
