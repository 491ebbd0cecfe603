"""Image files to pixels, and pixels to views. Every crop is cut here; none resizes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display

U8 = npt.NDArray[np.uint8]
ViewPolicy = Literal["centre", "five", "grid"]

MAX_PIXELS = 128 * 2**20
"""The largest image that is decoded: 384 MiB of RGB."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)


def decode_image(path: Path) -> U8:
    """Decode an image file to u8 [H, W, 3] RGB.

    EXIF rotation is applied; grey and palette images become RGB; an alpha channel is dropped, its
    colours kept; 16-bit grey keeps its high byte; CMYK is converted without a profile. Of an
    animation the first frame is taken. JPEG goes through libjpeg at full precision.

    Raises:
        InputError: missing, unreadable, empty, no image, truncated, or over MAX_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = display(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow's own size warning would come first; ours is an error.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(file)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{name}: {width} × {height} pixels are more than the limit of "
                    f"{MAX_PIXELS // 2**20} megapixels; scale or crop it first"
                )
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise InputError(
                    f"{name}: 32-bit pixels have no defined range; save it with 8 or 16 bits"
                )
            return np.asarray(image.convert("RGB"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: no such file") from None
    except PermissionError:
        raise InputError(f"{name}: permission denied") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder, not an image") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: its header claims more pixels than can be decoded") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise InputError(f"{name}: {'the file is empty' if empty else 'not an image'}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders raise all of these for damaged data.
        raise InputError(f"{name}: damaged image ({error})") from None


def at_least(frame: U8, size: int) -> U8:
    """Tile a frame by repetition until no side is below `size`; u8 [H, W, 3]."""
    height, width = frame.shape[:2]
    if height >= size and width >= size:
        return frame
    return np.tile(frame, (-(-size // height), -(-size // width), 1))


def views(frame: U8, size: int, policy: ViewPolicy = "centre") -> U8:
    """Cut square views from a frame: u8 [H, W, 3] → u8 [V, size, size, 3].

    `centre` is one view; `five` the four corners and the centre; `grid` as many non-overlapping
    views as fit, centred. Frames below `size` are tiled first.
    """
    frame = at_least(frame, size)
    height, width = frame.shape[:2]
    bottom, right = height - size, width - size
    centre = (bottom // 2, right // 2)
    if policy == "centre":
        corners = [centre]
    elif policy == "five":
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    elif policy == "grid":
        top, left = (height % size) // 2, (width % size) // 2
        corners = [
            (row, column)
            for row in range(top, bottom + 1, size)
            for column in range(left, right + 1, size)
        ]
    else:
        raise UsageError(f"views {policy!r}: choose centre, five or grid")
    return np.stack([frame[r : r + size, c : c + size] for r, c in corners])


def find_images(folder: Path) -> Iterator[Path]:
    """Image files under a folder, by suffix, in the order of their names; hidden ones are not."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(root, name)


def load_views(paths: Iterable[Path], size: int) -> U8:
    """The centre views of some image files: u8 [n, size, size, 3]."""
    return np.concatenate([views(decode_image(path), size) for path in paths])
