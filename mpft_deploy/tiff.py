"""TIFF files: which of their pictures is the main one, and that one alone.

A TIFF file may hold pages of a scan, a pyramid of reduced copies, masks, or a raw photograph
behind a small preview. Pillow reads the first whatever it is, and fails over metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mpft_deploy.errors import InputError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MOST = 4096
"""Directories that are looked at: pages of a file and what hangs on them."""

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 255, 256, 257, 258, 262
_SUB_IFDS, _FORMAT, _ORIENTATION, _PLANES, _DNG_VERSION = 330, 339, 274, 284, 50706
_STRIPS, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 273, 277, 278, 322, 323, 324
_REDUCED, _MASK = 1, 4
_RAW = (32803, 34892)  # a mosaic of colours, and what a raw converter makes of one

_CR2 = b"CR\2\0"

# What the pixels depend on. All else is metadata, which stops nothing.
_PIXELS = {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _FORMAT, _PLANES, _STRIPS, _SAMPLES, _ROWS}
_PIXELS |= {_TILE_WIDTH, _TILE_HEIGHT, _TILES, 259, 266, 279, 292, 293, 317, 320, 325, 332, 338}
_PIXELS |= {347, *range(512, 522), 529, 530, 531, 532}

# Bytes of a value by its type.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES |= {16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True)
class Page:
    """A picture in a TIFF file.

    entries: its directory's, as they stand in the file, by tag.
    bits: of a sample; form: 1 unsigned, 2 signed, 3 floating-point.
    planar: its samples are stored one plane after the other.
    white_is_zero: its numbers grow with darkness.
    """

    entries: dict[int, bytes]
    width: int
    height: int
    subfile: int
    photometric: int
    bits: int
    form: int
    orientation: int
    planar: bool

    @property
    def white_is_zero(self) -> bool:
        """Whether its numbers grow with darkness."""
        return self.photometric == 0


@dataclass(frozen=True)
class Tiff:
    """The main picture of a TIFF file.

    Attributes:
        data: a file that holds it alone, without metadata. Of 16 bits, it is said to be darker for
            smaller numbers even if `page` says that it is not.
        page: what it is.
        number, of: which picture of the file it is, from 1, and of how many.
    """

    data: bytes
    page: Page
    number: int
    of: int


def read_tiff(data: bytes, name: str) -> Tiff:
    """The main picture of a TIFF file: the largest that is no reduced copy and no mask.

    Args:
        data: the whole file.
        name: of the file, for the error.

    Raises:
        InputError: it is a raw photograph, damaged, or holds reduced copies and masks alone.
    """
    reader = _Reader(data)
    try:
        pages = [] if data[8:12] == _CR2 else list(reader.pages())
    except struct.error:
        raise InputError(f"{name}: damaged image (its directory is cut off)") from None
    if data[8:12] == _CR2 or any(
        page.photometric in _RAW or _DNG_VERSION in page.entries for page in pages
    ):
        raise InputError(
            f"{name}: a raw photograph, of which only its preview could be read; "
            "develop it, and save it as TIFF or JPEG"
        )
    full = [page for page in pages if not page.subfile & (_REDUCED | _MASK)]
    if not full:
        raise InputError(
            f"{name}: holds only reduced copies or masks of a picture, not the picture"
            if pages
            else f"{name}: damaged image (it holds no picture)"
        )
    main = max(full, key=lambda page: page.width * page.height)
    if not reader.has_all_parts(main):
        raise InputError(f"{name}: damaged image (some of its strips or tiles are missing)")
    return Tiff(reader.alone(main), main, full.index(main) + 1, len(full))


class _Reader:
    """Reads directories of classic TIFF and BigTIFF."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.offset, self.count, self.step = ("Q", "Q", 20) if self.big else ("I", "H", 12)

    def pages(self) -> Iterator[Page]:
        """The file's pictures: the chain of directories, each followed by those below it."""
        waiting = [self._number(self.offset, struct.calcsize(self.offset))]
        seen: set[int] = set()
        while waiting:
            place = waiting.pop()
            if not place or place in seen or len(seen) >= _MOST:
                continue
            seen.add(place)
            try:
                entries, following = self._directory(place)
            except struct.error:
                if len(seen) > 1:  # what is behind the first may be cut off
                    continue
                raise
            below = self._values(entries, _SUB_IFDS)
            waiting += [following, *reversed(below)]
            if _WIDTH in entries and _HEIGHT in entries:
                yield self._page(entries)

    def alone(self, page: Page) -> bytes:
        """The file with one picture, and of its directory only what the pixels depend on."""
        entries = {tag: entry for tag, entry in page.entries.items() if tag in _PIXELS}
        if page.white_is_zero and page.bits == 16:
            # Pillow would not turn it round, nor read it in the order of Motorola.
            bright = struct.pack(f"{self.order}HH{self.offset}H", _PHOTOMETRIC, 3, 1, 1)
            entries[_PHOTOMETRIC] = bright.ljust(self.step, b"\0")
        body = self.data + b"\0" * (len(self.data) % 2)
        directory = struct.pack(self.order + self.count, len(entries))
        directory += b"".join(entries[tag] for tag in sorted(entries))
        start = struct.calcsize(self.offset)
        header = body[:start] + struct.pack(self.order + self.offset, len(body))
        return header + body[len(header) :] + directory + b"\0" * 8

    def has_all_parts(self, page: Page) -> bool:
        """Whether each strip or tile of a picture is said to be somewhere.

        Pillow leaves a part that is not black, or takes the file's header for it.
        """

        def first(tag: int, default: int) -> int:
            return next(iter(self._values(page.entries, tag)), 0) or default

        place = _TILES if _TILES in page.entries else _STRIPS
        across, down = page.width, first(_ROWS, page.height)
        if place == _TILES:
            across, down = first(_TILE_WIDTH, across), first(_TILE_HEIGHT, page.height)
        needed = -(-page.width // across) * -(-page.height // down) if across and down else 0
        needed *= first(_SAMPLES, 1) if page.planar else 1
        found = self._values(page.entries, place, most=needed)
        # Of a list that cannot be read, Pillow tells.
        return not found or (len(found) == needed and 0 not in found)

    def _number(self, form: str, place: int) -> int:
        [number] = struct.unpack_from(self.order + form, self.data, place)
        return int(number)

    def _directory(self, place: int) -> tuple[dict[int, bytes], int]:
        """Entries by tag, and where the next directory is."""
        count = self._number(self.count, place)
        start = place + struct.calcsize(self.count)
        end = start + self.step * count
        if end > len(self.data):
            raise struct.error
        entries = {
            self._number("H", at): self.data[at : at + self.step]
            for at in range(start, end, self.step)
        }
        try:
            return entries, self._number(self.offset, end)
        except struct.error:
            return entries, 0

    def _values(self, entries: dict[int, bytes], tag: int, most: int = _MOST) -> list[int]:
        """The first whole numbers of an entry; none if it is not there or of another type."""
        if tag not in entries:
            return []
        entry = entries[tag]
        kind, count = struct.unpack_from(f"{self.order}H{self.offset}", entry, 2)
        if kind not in _INTEGERS:
            return []
        inline, kept = entry[-struct.calcsize(self.offset) :], min(count, most)
        if count * _BYTES[kind] > len(inline):
            [place] = struct.unpack(self.order + self.offset, inline)
            inline = self.data[place : place + kept * _BYTES[kind]]
        if len(inline) < kept * _BYTES[kind]:
            return []
        numbers = f"{self.order}{kept}{_INTEGERS[kind]}"
        return list(struct.unpack_from(numbers, inline))

    def _page(self, entries: dict[int, bytes]) -> Page:
        def first(tag: int, default: int) -> int:
            return next(iter(self._values(entries, tag)), default)

        # Old files say 1 full, 2 reduced, 3 page; so do some that say nothing in the new field.
        subfile = first(_SUBFILE, _REDUCED if first(_OLD_SUBFILE, 1) == 2 else 0)
        photometric = first(_PHOTOMETRIC, 1)
        return Page(
            entries=entries,
            width=first(_WIDTH, 0),
            height=first(_HEIGHT, 0),
            subfile=subfile | (_MASK if photometric == 4 else 0),
            photometric=photometric,
            bits=max(self._values(entries, _BITS), default=1),
            form=first(_FORMAT, 1),
            orientation=first(_ORIENTATION, 1),
            planar=first(_PLANES, 1) == 2,
        )
