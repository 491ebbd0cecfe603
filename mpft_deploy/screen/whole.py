"""Whether a container's own structure says that the file goes on: sizes that reach past its end.

A promise of seconds can be wrong in a whole file; the sizes of boxes, elements, chunks and packets
are what its readers go by.
"""

from __future__ import annotations

import os
from typing import BinaryIO

_BOXES = frozenset(
    {b"emsg", b"free", b"ftyp", b"mdat", b"mfra", b"moof", b"moov", b"sidx", b"skip", b"styp"}
    | {b"uuid", b"wide"}
)
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_MOST = 100_000
"""Boxes or elements that are looked at; a hostile file holds millions."""

_TS_SIZES = {188: 0, 192: 4, 204: 0}
"""Bytes from one sync byte to the next, and where the first is; cameras put a time before each."""


def is_cut(file: BinaryIO) -> bool | None:
    """Whether a file ends before its container does; None where it does not say.

    MP4 and its kin, fragmented too; Matroska and WebM; AVI; Ogg; MPEG-TS.
    """
    size = file.seek(0, os.SEEK_END)
    head = _read(file, 0, 1024)
    if head[4:8] in _BOXES:
        return _boxes_cut(file, size)
    if head[:4] == _EBML.to_bytes(4, "big"):
        return _matroska_cut(file, size)
    if head[:4] == b"RIFF":
        return _chunks_cut(file, size)
    if head[:4] == b"OggS":
        return _pages_cut(file, size)
    for step, first in _TS_SIZES.items():
        syncs = head[first::step]
        if len(head) == 1024 and syncs == b"\x47" * len(syncs):
            return size % step != 0
    return None


def _read(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _boxes_cut(file: BinaryIO, size: int) -> bool | None:
    """ISO/IEC 14496-12, 4.2: each box begins with its size and kind."""
    place = 0
    for _ in range(_MOST):
        head = _read(file, place, 16)
        if len(head) < 8 or head[4:8] not in _BOXES:
            return False  # its end, or what a phone wrote behind it
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            return False  # to the end, wherever that is
        if length < 8:
            return None
        place += length
        if place > size:
            return True
    return None


def _matroska_cut(file: BinaryIO, size: int) -> bool | None:
    """RFC 8794 and RFC 9559: elements of an identifier, a size, which may be unknown, and data."""
    place = 0
    for _ in range(_MOST):
        if place == size:
            return False
        identifier, place_of_size = _number(file, place, marker=True)
        length, data = _number(file, place_of_size, marker=False)
        if data > size or identifier == 0:
            return True
        if length is not None:
            place = data + length
            if place > size:
                return True
        elif identifier in (_SEGMENT, _CLUSTER):
            place = data  # of unknown size: its children are looked at instead
        else:
            return None
    return None


def _number(file: BinaryIO, place: int, *, marker: bool) -> tuple[int | None, int]:
    """A number of variable length, None if it stands for "unknown", and the place behind it."""
    data = _read(file, place, 8)
    if not data or data[0] == 0:
        return 0, place + max(1, len(data))
    count = 9 - data[0].bit_length()
    value = int.from_bytes(data[:count], "big")
    ones = (1 << 7 * count) - 1
    if not marker:
        value &= ones
    return (None if not marker and value == ones else value), place + count


def _chunks_cut(file: BinaryIO, size: int) -> bool | None:
    """RIFF: chunks of a kind, a size and data, padded to even places; large AVIs hold several."""
    place = 0
    for _ in range(_MOST):
        head = _read(file, place, 8)
        if head[:4] != b"RIFF":
            return False
        length = int.from_bytes(head[4:8], "little")
        if length in (0, 0xFFFFFFFF):
            return None  # a recorder that never came back to write it
        place += 8 + length
        if place > size:
            return True
        place += place % 2
    return None


def _pages_cut(file: BinaryIO, size: int) -> bool | None:
    """RFC 3533, 6: pages of at most 255 segments, whose sizes stand in its head."""
    start = max(0, size - 2 * 65_307)
    tail = _read(file, start, size - start)
    place = tail.rfind(b"OggS")
    head = tail[place : place + 27 + 255]
    if place < 0 or len(head) < 27:
        return None if place < 0 else True
    sizes = head[27 : 27 + head[26]]
    return len(sizes) < head[26] or start + place + 27 + head[26] + sum(sizes) > size
