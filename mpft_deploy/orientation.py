"""How a picture is to be turned, by its EXIF or XMP; odd metadata says nothing, and stops nothing.

Pillow reads EXIF as a whole, and one entry of a wrong type fails all of it. Here one number is
looked for, and what is not understood is no answer.
"""

from __future__ import annotations

import re
import struct

_TAG = 0x0112
_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>\s*)([1-8])\s*[\"'<]")

# Of each type of TIFF that holds numbers: how `struct` reads the first of them.
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_RATIONALS = {5: "II", 10: "ii"}


def exif_orientation(exif: bytes) -> int | None:
    """The orientation, 1 to 8, that a block of EXIF states in its first directory; else None."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        [start] = struct.unpack_from(f"{order}I", exif, 4)
        [count] = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _TAG:
                return _value(exif, order, kind, place + 8)
    except struct.error:  # cut off before it
        pass
    return None


def xmp_orientation(xmp: bytes) -> int | None:
    """The orientation, 1 to 8, that XMP states as tiff:Orientation; else None."""
    found = _XMP.search(xmp)
    return int(found[1]) if found else None


def orientation(exif: object, xmp: object) -> int:
    """The orientation that EXIF states, or else XMP, as Pillow's `info` holds them; 1 if neither.

    1 is upright; the others are turned and mirrored as EXIF numbers them.
    """
    stated = exif_orientation(exif) if isinstance(exif, bytes) else None
    if stated is None:
        text = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
        stated = xmp_orientation(text) if isinstance(text, bytes) else None
    return stated or 1


def _value(exif: bytes, order: str, kind: int, place: int) -> int | None:
    if kind in _TYPES:
        [number] = struct.unpack_from(order + _TYPES[kind], exif, place)
    elif kind in _RATIONALS:
        [offset] = struct.unpack_from(f"{order}I", exif, place)
        numerator, denominator = struct.unpack_from(order + _RATIONALS[kind], exif, offset)
        number = numerator / denominator if denominator else 0
    else:
        return None
    return int(number) if number in range(1, 9) else None
