"""PNG files without their metadata: what is said beside the pixels never stops the pixels.

Pillow refuses a file for a long text, a large colour profile or a wrong checksum in a chunk that
no viewer needs. What it gets to read is therefore the critical chunks alone.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from mpft_deploy.errors import InputError
from mpft_deploy.orientation import orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_LONGEST = 2**22
"""Bytes of a compressed text that are read, where it may hold the orientation."""


@dataclass
class Png:
    """A PNG file's pixels, and what its metadata says of them.

    Attributes:
        data: the file with its critical chunks alone.
        orientation: 1 to 8, as EXIF numbers them.
        frames: of an animation; `data` holds the one that is shown where animations are not.
        bits: of a grey sample that are significant, as sBIT states them; 0 if it does not.
        header, packed: what its IHDR and its IDATs hold.
    """

    data: bytes
    orientation: int = 1
    frames: int = 1
    bits: int = 0
    header: bytes = b""
    packed: tuple[bytes, ...] = ()


def read_png(data: bytes, name: str) -> Png:
    """Take a PNG file apart; an InputError if a critical chunk's checksum is wrong.

    Args:
        data: the whole file.
        name: of the file, for the error.
    """
    kept = [SIGNATURE]
    said: dict[bytes, bytes] = {}
    texts: dict[bytes, bytes] = {}
    header, packed = b"", []
    place = len(SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + length + 12
        if not kind.isalpha() or end > len(data) or kind[:1].isupper():
            # Of a chunk that is cut off, Pillow tells whether it is needed.
            kept.append(data[place:end])
            if end <= len(data) and kind.isalpha():
                _check(data[place:end], name)
            if kind == b"IHDR":
                header = data[place + 8 : end - 4]
            elif kind == b"IDAT":
                packed.append(data[place + 8 : end - 4])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = data[place + 8 : end - 4].partition(b"\0")
            if keyword in _READERS:
                texts.setdefault(keyword, _text(kind, text))
        else:
            said.setdefault(kind, data[place + 8 : end - 4])
        if kind == b"IEND" or not kind.isalpha():
            break
        place = end
    exif = said.get(b"eXIf", b"")
    profile = texts.get(b"Raw profile type exif") or texts.get(b"Raw profile type APP1", b"")
    return Png(
        b"".join(kept),
        orientation(exif or _from_hex(profile), texts.get(b"XML:com.adobe.xmp")),
        int.from_bytes(said.get(b"acTL", b"\0\0\0\1")[:4], "big"),
        max(said.get(b"sBIT") or b"\0"),
        header,
        tuple(packed),
    )


def require_all_rows(image: Png, name: str) -> None:
    """An InputError if the pixels end before the last row: Pillow would leave the rest black.

    Args:
        image: of which Pillow knows the header, and its size is within bounds.
        name: of the file, for the error.
    """
    missing = _packed_size(image.header)
    unpacker = zlib.decompressobj()
    try:
        for part in image.packed:
            while part and missing > 0:
                missing -= len(unpacker.decompress(part, _AT_ONCE))
                part = unpacker.unconsumed_tail
        missing -= len(unpacker.flush()) if missing > 0 else 0
    except zlib.error:
        return  # damage within them, which Pillow tells
    if missing > 0:
        raise InputError(f"{name}: damaged image (truncated: its pixels end before the last row)")


def _packed_size(header: bytes) -> int:
    """Bytes of all rows, each with its filter, as an IHDR describes them."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * _SAMPLES[colour]
    size = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


_AT_ONCE = 2**20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a pixel, by the type of colour."""

# Of each pass of an interlaced image: first column and row, and the steps to the next.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


_READERS = frozenset((b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"))


def _check(chunk: bytes, name: str) -> None:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        kind = chunk[4:8].decode("ascii", "replace")
        raise InputError(f"{name}: damaged image (wrong checksum of its chunk {kind})")


def _text(kind: bytes, text: bytes) -> bytes:
    """What a text chunk says behind its keyword, as far as it is read; b"" if it cannot be."""
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _LONGEST)
    except zlib.error:
        return b""


def _from_hex(profile: bytes) -> bytes:
    """The bytes of a raw profile: a line with its kind, one with its length, then hex digits."""
    digits = re.sub(rb"\s", b"", b"\n".join(profile.split(b"\n")[3:]))
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""
