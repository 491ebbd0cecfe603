"""What is done to an image before it is judged, to real and generated ones alike.

`raw` leaves it as it is. Data sets differ between the classes in format and quality, and a detector
may live off that; `aligned` re-saves every image at JPEG 96, 4:2:0, which is how DDA aligns
formats. The robustness protocols change the aligned image, so that no difference of format is left
in them either. All of them work on the whole frame, before the crop is cut.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache, partial
from typing import Literal

import numpy as np

from mpft_deploy.bundle import Device
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.extras import require
from mpft_deploy.images import U8
from mpft_deploy.screen.video import to_rgb

Change = Callable[[U8, np.random.Generator], U8]
"""u8 [H, W, 3] → u8 [H', W', 3]; chance comes from the generator alone."""

RAW, ALIGNED = "raw", "aligned"
BASIC = (RAW, ALIGNED)

ALIGNED_QUALITY = 96

Interpolation = Literal["box", "bilinear", "bicubic", "lanczos"]
FACTORS = (0.35, 0.5, 0.7, 0.75, 1.4, 1.5, 2.0)

PAN, FILMED, LEAST_FILMED = 16, 25, 64
"""Pixels that a filmed picture moves by at most along each side, the frames of its second, and the
pixels of its shortest side."""


JPEG_LONGEST, LONGEST = 65_500, 16_383
"""Pixels of a side that libjpeg saves, and WebP and encoders of video."""


def resave(frame: U8, kind: str, quality: int, subsampling: str = "4:2:0") -> U8:
    """A frame, u8 [H, W, 3], after a round trip through JPEG or WebP (which is always 4:2:0)."""
    from PIL import Image

    buffer = io.BytesIO()
    options = {"subsampling": subsampling} if kind == "JPEG" else {}
    Image.fromarray(frame).save(buffer, kind, quality=quality, **options)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def _reencode(frame: U8, rng: np.random.Generator, *, kind: str, quality: int) -> U8:
    return resave(frame, kind, quality)


def resize(
    frame: U8, rng: np.random.Generator, *, factor: float, kind: Interpolation = "bicubic"
) -> U8:
    """Scaled by an interpolation of Pillow's, which smooths before it shrinks."""
    from PIL import Image

    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    resample = Image.Resampling[kind.upper()]
    return np.asarray(Image.fromarray(frame).resize((width, height), resample))


def _crop(frame: U8, rng: np.random.Generator, *, share: float) -> U8:
    """A part of `share` of each side, anywhere in the frame."""
    height, width = (max(1, round(side * share)) for side in frame.shape[:2])
    top = int(rng.integers(frame.shape[0] - height + 1))
    left = int(rng.integers(frame.shape[1] - width + 1))
    return frame[top : top + height, left : left + width]


def blur(frame: U8, rng: np.random.Generator, *, radius: float) -> U8:
    """Gaussian blur, as Pillow approximates it; the radius is its standard deviation in pixels."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)))


def _sharpen(frame: U8, rng: np.random.Generator, *, percent: int) -> U8:
    """What a Gaussian blur by a pixel takes away, added once more by so many per cent."""
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(frame).filter(ImageFilter.UnsharpMask(1.0, percent, 0)))


def _noise(frame: U8, rng: np.random.Generator, *, deviation: float) -> U8:
    """Gaussian noise of that standard deviation, in levels of 0 to 255."""
    return np.clip(np.rint(frame + rng.normal(0, deviation, frame.shape)), 0, 255).astype(np.uint8)


def recolour(frame: U8, rng: np.random.Generator, *, colour: float) -> U8:
    """With so many times the saturation; 0 is grey, as by infrared."""
    from PIL import Image, ImageEnhance

    return np.asarray(ImageEnhance.Color(Image.fromarray(frame)).enhance(colour))


def _screenshot(frame: U8, rng: np.random.Generator) -> U8:
    """A simulated screenshot that was sent on: shown at some size, captured, saved as JPEG 85."""
    from PIL import Image

    factor = rng.uniform(0.6, 1.4)
    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    shown = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    return resave(np.asarray(shown), "JPEG", 85)


def _messenger(frame: U8, rng: np.random.Generator, *, longest: int, quality: int) -> U8:
    """As messengers pass a picture on: shrunk to a longer side, and saved as JPEG."""
    return resave(resize(frame, rng, factor=min(1.0, longest / max(frame.shape))), "JPEG", quality)


@cache
def _steady_x264() -> dict[str, str]:
    """In its code for AVX-512 x264 weighs macroblocks by what lies in memory, so that no run is
    like another; those of older instruction sets give the same bits."""
    has_avx512 = "avx512f" in Device.here().instructions
    return {"x264-params": "asm=avx2"} if has_avx512 else {}


def filmed(frame: U8, rng: np.random.Generator, *, codec: str = "libx264", **options: str) -> U8:
    """A frame of a second of video in which a camera pans over the picture, as it is decoded.

    The picture is mirrored at its edges, so that frames have its size. A `bit_rate` is that of
    1080p, and is scaled by the picture's pixels.

    Raises:
        EnvironmentLacksError: the extra `video` is not installed.
    """
    require("video", "a protocol of video", "av")
    import av

    # Encoders want even sides, and some of them.
    height, width = (max(LEAST_FILMED, side + side % 2) for side in frame.shape[:2])
    edges = ((PAN, PAN + height - frame.shape[0]), (PAN, PAN + width - frame.shape[1]), (0, 0))
    padded = np.pad(frame, edges, "symmetric")
    down, right = rng.uniform(-PAN, PAN, 2)
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FILMED), Fraction(FILMED)
    encoder.thread_count = 1  # rate control of several threads is drawn anew by each run
    if rate := options.pop("bit_rate", None):
        encoder.bit_rate = round(float(rate) * height * width / (1920 * 1080))
        options |= {"maxrate": str(encoder.bit_rate), "bufsize": str(encoder.bit_rate)}
    encoder.options = {"x265-params": "log-level=none", **_steady_x264(), **options}
    decoder = av.CodecContext.create(encoder.codec.canonical_name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    packets = []
    for number in range(FILMED):
        top, left = (PAN + round(way * number / FILMED) for way in (down, right))
        seen = padded[top : top + height, left : left + width]
        packets += encoder.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(seen)))
    packets += encoder.encode(None)
    frames = [one for packet in [*packets, None] for one in decoder.decode(packet)]
    shown = to_rgb(frames[int(rng.integers(FILMED // 2, FILMED))])
    return shown[: frame.shape[0], : frame.shape[1]]


ROBUSTNESS: dict[str, Change] = {
    **{f"jpeg-{q}": partial(_reencode, kind="JPEG", quality=q) for q in (95, 90, 80, 70, 60, 40)},
    **{f"webp-{q}": partial(_reencode, kind="WEBP", quality=q) for q in (80, 50)},
    **{f"resize-{factor:g}": partial(resize, factor=factor) for factor in FACTORS},
    **{
        f"resize-0.7-{kind}": partial(resize, factor=0.7, kind=kind)
        for kind in ("box", "bilinear", "lanczos")
    },
    "crop-0.75": partial(_crop, share=0.75),
    **{f"blur-{radius:g}": partial(blur, radius=radius) for radius in (1.0, 2.0)},
    **{
        f"noise-{deviation:g}": partial(_noise, deviation=deviation)
        for deviation in (3.0, 5.0, 10.0)
    },
    **{f"colour-{colour:g}": partial(recolour, colour=colour) for colour in (0.0, 1.5)},
    **{f"sharpen-{percent}": partial(_sharpen, percent=percent) for percent in (60, 150)},
    "screenshot": _screenshot,
    "messenger-1600": partial(_messenger, longest=1600, quality=75),
    "messenger-960": partial(_messenger, longest=960, quality=65),
    **{f"h264-crf-{crf}": partial(filmed, crf=str(crf)) for crf in (18, 23, 28, 34)},
    **{f"h264-{rate}-mbit": partial(filmed, bit_rate=f"{rate}e6") for rate in (1, 2, 4)},
    "h265-crf-28": partial(filmed, codec="libx265", crf="28"),
}
"""Name → change of the aligned frame. A new protocol is one line."""


def protocol_names(*, robustness: bool) -> list[str]:
    """The protocols of a run, in the order of its tables."""
    return [*BASIC, *(ROBUSTNESS if robustness else ())]


def changed_frames(frame: U8, names: Iterable[str], digest: str) -> Iterator[U8]:
    """A frame u8 [H, W, 3] under each protocol, in turn.

    Args:
        names: protocols.
        digest: SHA-256 of the image file; decides whatever is drawn by chance.

    Raises:
        InputError: the frame is longer than what a protocol saves it as can be.
    """
    aligned: U8 | None = None
    for name in names:
        changed = frame
        if name != RAW:
            most = JPEG_LONGEST if name == ALIGNED else LONGEST
            if max(frame.shape) > most:
                raise InputError(
                    f"{max(frame.shape)} pixels a side are more than the {most} that protocol "
                    f"{name} can save: scale or crop it first"
                )
            if aligned is None:
                aligned = resave(frame, "JPEG", ALIGNED_QUALITY)
            changed = aligned
        if name not in BASIC:
            if name not in ROBUSTNESS:
                raise UsageError(
                    f"protocol {name!r} is unknown: choose raw, aligned, {', '.join(ROBUSTNESS)}"
                )
            seed = [int(digest[:16], 16), *name.encode()]
            changed = ROBUSTNESS[name](changed, np.random.default_rng(seed))
        yield changed
