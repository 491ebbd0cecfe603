"""A window of a JPEG without decoding the rest: the same bytes, at a part of the cost.

Built where libjpeg-turbo's headers are (Debian: libjpeg62-turbo-dev; macOS: jpeg-turbo); without
them Pillow decodes the whole image, which gives the same pixels.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

HOW = (
    "this installation was built without libjpeg-turbo's headers; install them (Debian: "
    "libjpeg62-turbo-dev, Fedora: libjpeg-turbo-devel, macOS: jpeg-turbo) and install mpft-deploy "
    "again"
)


def why_not() -> str | None:
    """Why windows cannot be decoded here, or None; whole images are then decoded instead."""
    return None if _native() is not None else HOW


def decode_window(
    data: bytes, top: int, left: int, height: int, width: int
) -> npt.NDArray[np.uint8] | None:
    """Rows `top` to `top + height` and columns `left` to `left + width` of a JPEG.

    Args:
        data: the whole file.

    Returns:
        u8 [height, width, 3] RGB, equal to that part of Pillow's decode; None where the image must
        be decoded whole: it is unusual or damaged, or `why_not` says why.
    """
    native = _native()
    if native is None:
        return None
    out = np.empty((height, width, 3), np.uint8)
    return out if native.decode_into(data, top, left, out) else None


def is_damaged(data: bytes) -> bool:
    """Whether a decoder that does not stop at damage would make up pixels of a JPEG.

    Pillow's does not: what it cannot read it leaves grey, or repeats. False where `why_not` says
    why, and where Pillow refuses the file itself.
    """
    native = _native()
    return native is not None and bool(native.is_damaged(data))


def _native() -> Any:
    try:
        return importlib.import_module("mpft_deploy.kernels.jpeg_window._jpeg_window")
    except ImportError:
        return None
