"""Pictures, image files and clips for tests."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpft_deploy.images import U8


def picture(height: int = 48, width: int = 64, seed: int = 0) -> U8:
    """Smooth colours with some noise, u8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 200, height)[:, None, None]
    columns = np.linspace(0, 50, width)[None, :, None]
    noise = rng.integers(0, 6, (height, width, 3))
    return (rows + columns + noise).astype(np.uint8)


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_video(
    path: Path,
    *,
    seconds: float = 3,
    rate: int = 8,
    sound: bool = False,
    pictures: bool = True,
    codec: str = "mpeg4",
) -> Path:
    """A clip of 64 × 48 pixels that goes from dark to bright."""
    import av

    with av.open(path, "w") as container:
        container.metadata["title"] = "Le cafe"
        if pictures:
            video = container.add_stream(codec, rate=rate)
            video.width, video.height = 64, 48
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if sound:
            audio = container.add_stream("aac", rate=16000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
        if pictures:
            count = round(seconds * rate)
            for index in range(count):
                pixels = picture(seed=index) // 2 + np.uint8(100 * index // count)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(video.encode())
    return path


def exif(*others: bytes, order: str = "<", kind: int = 3) -> bytes:
    """EXIF that states orientation 6 after some other entries of 12 bytes."""
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], 6).ljust(4, b"\0")
    entries = [*others, struct.pack(f"{order}HHI", 0x0112, kind, 1) + value]
    start = b"II*\0" if order == "<" else b"MM\0*"
    return (
        start + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + b"\0" * 4 + b"72\0"
    )
