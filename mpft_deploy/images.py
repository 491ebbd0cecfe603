"""Image files to pixels, and pixels to views. Every crop is cut here; none resizes."""

from __future__ import annotations

import functools
import importlib.util
import os
import stat
import warnings
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import absolute, display

if TYPE_CHECKING:
    import PIL.Image

U8 = npt.NDArray[np.uint8]
ViewPolicy = Literal["centre", "five", "grid"]

MAX_PIXELS = 128 * 2**20
"""The largest image that is decoded: 384 MiB of RGB."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)

_EXIF_ORIENTATION = 0x0112

# The formats that are tried, whatever a file is called. Pillow knows more, and some of those start
# other programs (EPS runs Ghostscript), which a file from a stranger must not.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


class Picture(NamedTuple):
    """A decoded image file.

    pixels: u8 [H, W, 3] RGB.
    note: what a reader of the verdict should know about the file; mostly empty.
    whole: height and width of the image, where `pixels` are only its centre view.
    """

    pixels: U8
    note: str
    whole: tuple[int, int] | None = None


def decode_image(path: Path) -> U8:
    """Decode an image file to u8 [H, W, 3] RGB; see `read_picture`."""
    return read_picture(path).pixels


def read_picture(path: Path, *, centre: int | None = None) -> Picture:
    """Decode an image file to RGB.

    EXIF rotation is applied; grey and palette images become RGB; an alpha channel is dropped, its
    colours kept; 16-bit images keep their high byte; CMYK is converted without a profile. Of an
    animation the first frame is taken. JPEG goes through libjpeg at full precision.

    Args:
        centre: side of the centre view, where nothing else is needed: of a JPEG, little more is
            then decoded, to the same bytes. Other images still come whole.

    Raises:
        InputError: missing, unreadable, empty, no image, truncated, or over MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    name = display(path)
    try:
        check_readable(path)
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow's own size warning would come first; ours is an error.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_known_formats()) as image:
                return _read_centre(image, file, name, centre) or _read_open(image, name)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{name}: its header claims more pixels than can be decoded") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image that can be read") from None
    except MemoryError:
        raise InputError(f"{name}: too large for the memory of this machine") from None
    except OSError as error:
        reason = error.strerror or f"damaged image ({error})"
        raise InputError(f"{name}: {reason}") from None
    except Exception as error:
        # Pillow's decoders let struct.error, KeyError, zlib.error and others through when the data
        # is damaged; whatever it is, the file is at fault and the next one must still be read.
        raise InputError(f"{name}: damaged image ({error or type(error).__name__})") from None


def check_readable(path: Path) -> None:
    """An InputError unless `path` is a file with something in it; never opens pipes or devices."""
    name = display(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: no such file") from None
    except ValueError:
        raise InputError(f"{name}: not a possible file name") from None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is no regular file")
    if status.st_size == 0:
        raise InputError(f"{name}: the file is empty")


def check_pixels(width: int, height: int, name: str) -> None:
    """An InputError if a picture of that size is over MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width} × {height} pixels are more than the limit of "
            f"{MAX_PIXELS // 2**20} megapixels; scale or crop it first"
        )


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """The formats that this Pillow can tell; AVIF came with 11.3."""
    avif = importlib.util.find_spec("PIL.AvifImagePlugin") is not None
    return _FORMATS if avif else _FORMATS[:-1]


def _read_centre(
    image: PIL.Image.Image, file: BinaryIO, name: str, side: int | None
) -> Picture | None:
    """The centre view of an opened JPEG alone; None where the image must be decoded whole."""
    check_pixels(*image.size, name)
    width, height = image.size
    if side is None or image.format != "JPEG" or min(width, height) < side:
        return None
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        return None
    from mpft_deploy.kernels.jpeg_window import decode_window

    [(top, left)] = view_corners(height, width, side)
    file.seek(0)
    pixels = decode_window(file.read(), top, left, side, side)
    return None if pixels is None else Picture(pixels, "", (height, width))


def _read_open(image: PIL.Image.Image, name: str) -> Picture:
    """Pixels of an opened file."""
    from PIL import Image, ImageOps

    check_pixels(*image.size, name)
    # A phone's JPEG may carry a second picture, for depth or preview: that is no animation.
    several = image.format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") and getattr(
        image, "is_animated", False
    )
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    image.load()
    # Neither this nor the conversion below copies an image that is upright and RGB already: of
    # 1080p, each copy would take longer than decoding a window.
    ImageOps.exif_transpose(image, in_place=True)
    upright: PIL.Image.Image = image
    if sixteen:
        upright = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no defined range; save it with 8 or 16 bits")
    note = "several frames in the file: the first was judged" if several else ""
    return Picture(np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB")), note)


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
    corners = view_corners(frame.shape[0], frame.shape[1], size, policy)
    return np.stack([frame[r : r + size, c : c + size] for r, c in corners])


def view_corners(
    height: int, width: int, size: int, policy: ViewPolicy = "centre"
) -> list[tuple[int, int]]:
    """Row and column of the top left pixel of each view, in a frame of at least `size`."""
    bottom, right = height - size, width - size
    centre = (bottom // 2, right // 2)
    if policy == "centre":
        return [centre]
    if policy == "five":
        return [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    if policy == "grid":
        top, left = (height % size) // 2, (width % size) // 2
        return [
            (row, column)
            for row in range(top, bottom + 1, size)
            for column in range(left, right + 1, size)
        ]
    raise UsageError(f"views {policy!r}: choose centre, five or grid")


def find_files(
    folder: Path,
    suffixes: Container[str],
    *,
    skip: Container[Path] = (),
    on_error: Callable[[InputError], None] | None = None,
) -> Iterator[Path]:
    """Files under a folder, by suffix, in the order of their names.

    Hidden files and folders are skipped, and links to folders are not followed.

    Args:
        suffixes: in lower case, with the dot.
        skip: paths, as `absolute` gives them, of files and folders to pass over.
        on_error: called for each folder that cannot be read; without it, that is raised.
    """

    def unreadable(error: OSError) -> None:
        failure = InputError(f"{display(error.filename)}: {error.strerror}")
        if on_error is None:
            raise failure
        on_error(failure)

    base = absolute(folder)
    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = base / Path(root).relative_to(folder)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and here / n not in skip)
        for name in sorted(names):
            wanted = not name.startswith(".") and Path(name).suffix.lower() in suffixes
            if wanted and here / name not in skip:
                yield Path(root, name)


def find_images(folder: Path) -> Iterator[Path]:
    """Image files under a folder, by suffix; see `find_files`."""
    return find_files(folder, IMAGE_SUFFIXES)


def load_views(paths: Iterable[Path], size: int) -> U8:
    """The centre views of some image files: u8 [n, size, size, 3]."""
    return np.concatenate([views(read_picture(path, centre=size).pixels, size) for path in paths])
