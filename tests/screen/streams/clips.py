"""Coded clips for the test servers, and clips as files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mpft_deploy.images import U8

ENCODERS = {".h264": "libx264", ".h265": "libx265", ".mjpeg": "mjpeg"}
OPTIONS = {
    ".h264": {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x264-params": "repeat-headers=1:sliced-threads=0:threads=1",
    },
    ".h265": {"preset": "ultrafast", "x265-params": "log-level=none:repeat-headers=1:bframes=0"},
    ".mjpeg": {},
}


def moving(height: int, width: int, count: int, seed: int = 0) -> Iterator[U8]:
    """Frames of a texture that drifts sideways, each u8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8) + count, 3), np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    for index in range(count):
        shift = 4 * index
        yield np.ascontiguousarray(texture[:height, shift : shift + width])


def write_clip(
    path: Path,
    *,
    width: int = 320,
    height: int = 240,
    frames: int = 25,
    keyframes: int = 5,
    still: bool = False,
    seed: int = 0,
    bit_rate: int = 0,
) -> Path:
    """Access units of a clip, each after its length (u32, big-endian); the suffix tells the codec.

    Args:
        keyframes: frames from one to the next.
        still: every frame is the same picture.
    """
    import av

    encoder = av.CodecContext.create(ENCODERS[path.suffix], "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p" if path.suffix == ".mjpeg" else "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.gop_size = keyframes
    encoder.options = OPTIONS[path.suffix]
    if bit_rate:
        encoder.bit_rate = bit_rate
    units = []
    pictures = moving(height, width, frames, seed)
    first: Any = None
    for index, pixels in enumerate(pictures):
        first = pixels if first is None else first
        frame = av.VideoFrame.from_ndarray(first if still else pixels, "rgb24")
        frame.pts = index
        units += [
            bytes(packet) for packet in encoder.encode(frame.reformat(format=encoder.pix_fmt))
        ]
    units += [bytes(packet) for packet in encoder.encode(None)]
    path.write_bytes(b"".join(struct.pack(">I", len(unit)) + unit for unit in units))
    return path


GROUPS = {"x264-params": "bframes=0:keyint=12:min-keyint=12:scenecut=0:log-level=none"}


def write_spoiled(path: Path, options: dict[str, str] = GROUPS) -> Path:
    """36 frames of H.264, by default in groups of twelve, of which number 15 is spoiled."""
    import av

    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=12, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for pixels in moving(144, 192, 36):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    with av.open(path) as container:
        coded = [bytes(packet) for packet in container.demux(video=0)]
    data = bytearray(path.read_bytes())
    middle = data.index(coded[15]) + len(coded[15]) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    return path
