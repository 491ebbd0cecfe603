"""Image files to pixels, each with what its reader should know of it."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import stat
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy import png, tiff
from mpft_deploy.errors import InputError
from mpft_deploy.files import display
from mpft_deploy.orientation import orientation
from mpft_deploy.packed import is_packed, read_bytes
from mpft_deploy.views import Window, view_corners, view_side, views

if TYPE_CHECKING:
    import PIL.Image

U8 = npt.NDArray[np.uint8]

MAX_PIXELS = 128 * 2**20
"""The largest image that is decoded: 384 MiB of RGB."""

# The formats that are tried, whatever a file is called. Pillow knows more, and some of those start
# other programs (EPS runs Ghostscript), which a file from a stranger must not.
_FORMATS = ("WEBP", "GIF", "BMP", "PPM", "AVIF")
_JPEG = b"\xff\xd8\xff"

# The entry of EXIF in the list of what an AVIF file holds.
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)

_FIRST_FRAME = "several frames in the file: the first was judged"

# How an EXIF orientation is undone, in Pillow's names.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_DARK = 16
"""Part of the range of 16 bits that a sound picture's brightest value reaches; see `_high_byte`."""


class Picture(NamedTuple):
    """A decoded image file.

    pixels: u8 [H, W, 3] RGB.
    note: what a reader of the verdict should know about the file; mostly empty.
    whole: height and width of the image, where `pixels` are only a window of it.
    """

    pixels: U8
    note: str
    whole: tuple[int, int] | None = None


class _Opened(NamedTuple):
    """An image file whose header was read.

    orientation: 1 to 8, as EXIF numbers them.
    note: see `Picture`.
    depth: bits of its numbers, where Pillow gives more than 8 of them.
    negative: whether these numbers grow with darkness.
    form: 1 unsigned, 2 signed, 3 floating-point, where Pillow gives no bytes.
    """

    image: PIL.Image.Image
    orientation: int
    note: str = ""
    depth: int = 16
    negative: bool = False
    form: int = 1


def decode_image(path: Path) -> U8:
    """Decode an image file to u8 [H, W, 3] RGB; see `read_picture`."""
    return read_picture(path).pixels


def read_picture(
    path: Path,
    *,
    centre: int | None = None,
    window: Callable[[int, int], Window] | None = None,
    data: bytes | None = None,
) -> Picture:
    """Decode an image file to RGB.

    The rotation that EXIF or XMP states is applied; grey and palette images become RGB; an alpha
    channel is dropped, its colours kept; of more than 8 bits the highest 8 are kept; CMYK is
    converted without a profile. Of several pictures in a file the main one is taken, of an
    animation the first. JPEG goes through libjpeg at full precision. Metadata stops nothing.

    Args:
        centre: side of the centre view, where nothing else is needed: of a JPEG, little more is
            then decoded, to the same bytes. Other images still come whole.
        window: the same for another window than that, by the picture's height and width.
        data: the file's bytes, where they were read already.

    Raises:
        InputError: missing, unreadable, empty, no image, truncated, a raw photograph, or over
            MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    name = display(path)
    if centre is not None:
        window = functools.partial(_centre_window, centre)
    try:
        if data is not None or is_packed(path):
            opening: BinaryIO = io.BytesIO(read_bytes(path) if data is None else data)
        else:
            check_readable(path)
            opening = path.open("rb")
        with warnings.catch_warnings(), opening as file:
            # Pillow's own size warning would come first; ours is an error.
            warnings.simplefilter("ignore")
            opened = _open(file, name)
            check_pixels(*opened.image.size, name)
            return _read_jpeg(opened, file, window, name) or _read_whole(opened, name)
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


def _open(file: BinaryIO, name: str) -> _Opened:
    """Open an image file by what it holds, its metadata put aside."""
    from PIL import Image

    magic = file.read(8)
    file.seek(0)
    if magic.startswith(_JPEG):
        return _open_jpeg(file)
    if magic == png.SIGNATURE:
        plain = png.read_png(file.read(), name)
        image = Image.open(io.BytesIO(plain.data), formats=("PNG",))
        check_pixels(*image.size, name)
        png.require_all_rows(plain, name)
        note = _FIRST_FRAME if plain.frames > 1 else ""
        bits = plain.bits if 8 <= plain.bits <= 16 else 16
        return _Opened(image, plain.orientation, note, bits)
    if magic[:4] in tiff.MAGIC:
        return _open_tiff(file.read(), name)
    if magic[4:] == b"ftyp":
        # AVIF says by itself how it is turned; EXIF, which stops it if it is odd, is not asked.
        plain_avif = _EXIF_ITEM.sub(rb"\1skip", file.read())
        image = Image.open(io.BytesIO(plain_avif), formats=_known_formats())
        note = _FIRST_FRAME if getattr(image, "is_animated", False) else ""
        return _Opened(image, orientation(image.info.get("exif"), None), note)
    image = Image.open(file, formats=_known_formats())
    note = _FIRST_FRAME if getattr(image, "is_animated", False) else ""
    return _Opened(image, orientation(image.info.get("exif"), image.info.get("xmp")), note)


def _open_jpeg(file: BinaryIO) -> _Opened:
    """Open a JPEG: the largest of its pictures, where it holds more than one."""
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    image: PIL.Image.Image = JpegImageFile(file)
    note = ""
    if "mp" in image.info:
        try:
            several = Image.open(file, formats=("JPEG",))
            sizes = []
            for index in range(getattr(several, "n_frames", 1)):
                several.seek(index)
                sizes.append(several.width * several.height)
            main = sizes.index(max(sizes))
            if sizes.count(sizes[main]) > 1 or main:
                note = f"picture {main + 1} of {len(sizes)} in the file was judged, the largest"
                several.seek(main)
                image = several
        except Exception:
            # The list of further pictures is metadata: the first is there without it.
            file.seek(0)
            image = JpegImageFile(file)
    info = image.info
    return _Opened(image, orientation(info.get("exif"), info.get("xmp")), note)


def _open_tiff(data: bytes, name: str) -> _Opened:
    """Open the main picture of a TIFF file."""
    from PIL import Image, UnidentifiedImageError

    main = tiff.read_tiff(data, name)
    page = main.page
    try:
        image = Image.open(io.BytesIO(main.data), formats=("TIFF",))
    except UnidentifiedImageError:
        form = {2: "signed ", 3: "floating-point "}.get(page.form, "")
        raise InputError(
            f"{name}: a TIFF of {page.bits}-bit {form}samples in a form that cannot be read; "
            "save it as RGB with 8 or 16 bits"
        ) from None
    if page.planar and page.bits == 16 and image.tile[0].codec_name == "raw":
        # Pillow would read the planes as bytes.
        order = ";16L" if data[:2] == b"II" else ";16B"
        planes = [(str(tile[3][0]) if tile[3] else "", tile) for tile in image.tile]
        image.tile = [tile._replace(args=(plane + order, 0, 1)) for plane, tile in planes]
    note = f"picture {main.number} of {main.of} in the file was judged, the largest"
    return _Opened(
        image,
        page.orientation if page.orientation in range(1, 9) else 1,
        note if main.of > 1 else "",
        page.bits,
        page.white_is_zero,
        page.form,
    )


def _centre_window(size: int, height: int, width: int) -> Window:
    """The window of the centre view of that size."""
    side = view_side(height, width, size)
    [(top, left)] = view_corners(height, width, side)
    return Window(top, left, side, side)


def _read_jpeg(
    opened: _Opened, file: BinaryIO, window: Callable[[int, int], Window] | None, name: str
) -> Picture | None:
    """A JPEG, or a window of it alone; None where Pillow must decode it, or where it is none."""
    image = opened.image
    if image.format not in ("JPEG", "MPO"):
        return None
    from PIL import Image

    from mpft_deploy.kernels.jpeg_window import decode_window, is_damaged

    file.seek(getattr(image, "offset", 0))  # of several pictures, where this one is
    data = file.read()
    width, height = image.size
    if window is None or opened.orientation != 1:
        pixels = decode_window(data, 0, 0, height, width)
    else:
        pixels = decode_window(data, *window(height, width))
    if pixels is None:
        if is_damaged(data):
            raise InputError(
                f"{name}: damaged image (truncated or changed: not all of its pixels can be read)"
            )
        return None
    if pixels.shape[:2] != (height, width):
        return Picture(pixels, opened.note, (height, width))
    if opened.orientation != 1:
        pixels = np.asarray(_turned(Image.fromarray(pixels), opened.orientation))
    return Picture(pixels, opened.note)


def _turned(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """An image as EXIF says that it is to be turned; the same one if it is upright."""
    from PIL import Image

    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _read_whole(opened: _Opened, name: str) -> Picture:
    """Pixels of an opened file."""
    image = opened.image
    image.load()
    # Neither this nor the conversion below copies an image that is upright and RGB already.
    image = _turned(image, opened.orientation)
    note = opened.note
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.image.format != "TIFF"):
        image, dark = _high_byte(image, opened.depth, negative=opened.negative)
        note = "; ".join(filter(None, [note, dark]))
    elif image.mode in ("I", "F") or opened.form == 2:
        kind = "32-bit" if opened.form == 1 else f"signed {opened.depth}-bit"
        kind = "floating-point" if image.mode == "F" else kind
        raise InputError(f"{name}: {kind} pixels have no defined range; save it with 8 or 16 bits")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return Picture(pixels, note)


def _high_byte(
    image: PIL.Image.Image, depth: int, *, negative: bool
) -> tuple[PIL.Image.Image, str]:
    """A grey image of up to 16 bits with 8, and what is to be said of it.

    Args:
        depth: bits that its numbers have; where more are used, that was meant otherwise: sBIT tells
            how many bits there were before they were spread over 16, as they mostly are.
    """
    from PIL import Image

    values = np.asarray(image)
    brightest = int(values.max())
    if brightest >> depth:
        depth = 16
    dark = depth == 16 and not negative and brightest < 2**16 // _DARK
    bright = 2**depth - 1 - values if negative else values
    note = f"its brightest value is {brightest} of 65535: it was judged as dark as that is"
    return Image.fromarray((bright >> (depth - 8)).astype(np.uint8)), note if dark else ""


def load_views(paths: Iterable[Path], size: int) -> U8:
    """The centre views of some image files: u8 [n, size, size, 3]."""
    return np.concatenate([views(read_picture(path, centre=size).pixels, size) for path in paths])
