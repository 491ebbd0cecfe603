"""PNG files without their metadata: what is said beside the pixels never stops the pixels.

Pillow refuses a file for a long text, a large colour profile or a wrong checksum in a chunk that
no viewer needs. What it gets to read is therefore the critical chunks alone.
"""

from __future__ import annotations

import re
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
    """

    data: bytes
    orientation: int = 1
    frames: int = 1
    bits: int = 0


def read_png(data: bytes, name: str) -> Png:
    """Take a PNG file apart; an InputError if a critical chunk's checksum is wrong.

    Args:
        data: the whole file.
        name: of the file, for the error.
    """
    kept = [SIGNATURE]
    said: dict[bytes, bytes] = {}
    texts: dict[bytes, bytes] = {}
    place = len(SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + length + 12
        if not kind.isalpha() or end > len(data) or kind[:1].isupper():
            # Of a chunk that is cut off, Pillow tells whether it is needed.
            kept.append(data[place:end])
            if end <= len(data) and kind.isalpha():
                _check(data[place:end], name)
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
