"""What is done to an image before it is judged, to real and generated ones alike.

`raw` leaves it as it is. Data sets differ between the classes in format and quality, and a detector
may live off that; `aligned` re-saves every image at JPEG 96, 4:2:0, which is how DDA aligns
formats. The robustness protocols change the aligned image, so that no difference of format is left
in them either. All of them work on the whole frame, before the crop is cut.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from mpft_deploy.errors import UsageError
from mpft_deploy.images import U8

Change = Callable[[U8, np.random.Generator], U8]
"""u8 [H, W, 3] → u8 [H', W', 3]; chance comes from the generator alone."""

RAW, ALIGNED = "raw", "aligned"
BASIC = (RAW, ALIGNED)

ALIGNED_QUALITY = 96


def resave(frame: U8, kind: str, quality: int) -> U8:
    """A frame, u8 [H, W, 3], after a round trip through JPEG (4:2:0) or WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    options = {"subsampling": "4:2:0"} if kind == "JPEG" else {}
    Image.fromarray(frame).save(buffer, kind, quality=quality, **options)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def _reencode(frame: U8, rng: np.random.Generator, *, kind: str, quality: int) -> U8:
    return resave(frame, kind, quality)


def resize(frame: U8, rng: np.random.Generator, *, factor: float) -> U8:
    """Scaled by Pillow's bicubic, which smooths before it shrinks."""
    from PIL import Image

    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


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


def _noise(frame: U8, rng: np.random.Generator, *, deviation: float) -> U8:
    """Gaussian noise of that standard deviation, in levels of 0 to 255."""
    return np.clip(np.rint(frame + rng.normal(0, deviation, frame.shape)), 0, 255).astype(np.uint8)


def _screenshot(frame: U8, rng: np.random.Generator) -> U8:
    """A simulated screenshot that was sent on: shown at some size, captured, saved as JPEG 85."""
    from PIL import Image

    factor = rng.uniform(0.6, 1.4)
    height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
    shown = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    return resave(np.asarray(shown), "JPEG", 85)


ROBUSTNESS: dict[str, Change] = {
    **{f"jpeg-{q}": partial(_reencode, kind="JPEG", quality=q) for q in (95, 90, 80, 70, 60, 40)},
    **{f"webp-{q}": partial(_reencode, kind="WEBP", quality=q) for q in (80, 50)},
    **{f"resize-{factor:g}": partial(resize, factor=factor) for factor in (0.5, 0.75, 1.5, 2.0)},
    "crop-0.75": partial(_crop, share=0.75),
    **{f"blur-{radius:g}": partial(blur, radius=radius) for radius in (1.0, 2.0)},
    **{f"noise-{deviation:g}": partial(_noise, deviation=deviation) for deviation in (5.0, 10.0)},
    "screenshot": _screenshot,
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
    """
    aligned: U8 | None = None
    for name in names:
        changed = frame
        if name != RAW:
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
