"""Image files that hold more than pixels: odd metadata, several pictures, more than 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from media import encoded, exif, picture
from PIL import Image, TiffImagePlugin, features

from mpft_deploy.errors import InputError
from mpft_deploy.images import decode_image, read_picture
from mpft_deploy.orientation import exif_orientation

PIXELS = picture(60, 90)
TURNED = np.rot90(PIXELS, -1)


def text_entry(tag: int) -> bytes:
    """An entry that should be a number and is the text 72."""
    return struct.pack("<HHI", tag, 2, 3) + b"72\0\0"


ODD_EXIF = {
    "sound": exif(),
    "big-endian": exif(order=">"),
    "byte": exif(kind=1),
    "long": exif(kind=4),
    "twice": b"Exif\0\0" + exif(),
    "resolution as text": exif(*map(text_entry, (0x011A, 0x011B, 0x0128))),
    "directory as text": exif(text_entry(0x8769), text_entry(0x8825)),
    "endless text": exif(struct.pack("<HHII", 0x010F, 2, 0x7FFFFFFF, 40)),
    "unknown type": exif(struct.pack("<HHII", 0x010F, 99, 1, 0)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", ODD_EXIF.values(), ids=ODD_EXIF)
def test_orientation_is_applied_whatever_else_exif_holds(
    tmp_path: Path, kind: str, block: bytes
) -> None:
    path = tmp_path / "a"
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(PIXELS).save(path, kind, exif=b"Exif\0\0" + block, **options)
    upright = tmp_path / "b"
    Image.fromarray(PIXELS).save(upright, kind, **options)
    assert np.array_equal(decode_image(path), np.rot90(decode_image(upright), -1))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("odd", [b"garb", b"II*\0\xff\xff\xff\xff", b""])
def test_avif_is_turned_as_it_says_itself(tmp_path: Path, odd: bytes) -> None:
    path = tmp_path / "a.avif"
    Image.fromarray(PIXELS).save(path, quality=100, exif=exif(text_entry(0x9286)))
    sound = path.read_bytes()
    place = sound.index(b"II*\0")
    path.write_bytes(sound[:place] + odd + sound[place + len(odd) :])
    turned = decode_image(path)
    assert turned.shape == TURNED.shape
    assert np.abs(turned.astype(int) - TURNED).mean() < 4


@pytest.mark.parametrize("block", [b"", b"garbage", exif()[:13], b"II*\0\xff\xff\xff\xff"])
def test_exif_that_is_none_says_nothing(block: bytes) -> None:
    assert exif_orientation(block) is None


def chunk(kind: bytes, data: bytes, *, wrong: bool = False) -> bytes:
    checksum = zlib.crc32(kind + data) ^ wrong
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


LONG = b'{"nodes": [' + b'{"type": "KSampler"}, ' * 100_000 + b"]}"
XMP = b'<rdf:Description tiff:Orientation="6"/>'
HEX = exif().hex().encode()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)), PIXELS),
        (chunk(b"zTXt", b"parameters\0\0" + zlib.compress(LONG)), PIXELS),
        (chunk(b"tEXt", b"parameters\0" + LONG * 40), PIXELS),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 2**22)), PIXELS),
        (chunk(b"iCCP", b"x\0\7nothing"), PIXELS),
        (chunk(b"iCCP", b""), PIXELS),
        (chunk(b"eXIf", b"no TIFF"), PIXELS),
        (chunk(b"tEXt", b"a\0b", wrong=True), PIXELS),
        (chunk(b"tIME", b"", wrong=True), PIXELS),
        (chunk(b"pHYs", b"1"), PIXELS),
        (chunk(b"gAMA", b""), PIXELS),
        (chunk(b"cHRM", b"123"), PIXELS),
        (chunk(b"tRNS", b"1"), PIXELS),
        (chunk(b"acTL", b""), PIXELS),
        (chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nzzzz"), PIXELS),
        (chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  99\n" + HEX), TURNED),
        (
            chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + HEX)),
            TURNED,
        ),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), TURNED),
        (chunk(b"eXIf", exif()) + chunk(b"tEXt", b"a\0b", wrong=True), TURNED),
    ],
)
def test_chunks_beside_the_pixels_stop_nothing(
    tmp_path: Path, extra: bytes, expected: np.ndarray
) -> None:
    sound = encoded(PIXELS)
    path = tmp_path / "a.png"
    path.write_bytes(sound[:33] + extra + sound[33:])
    assert np.array_equal(decode_image(path), expected)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_critical_chunk_with_a_wrong_checksum_is_damage(tmp_path: Path, kind: bytes) -> None:
    data = bytearray(encoded(PIXELS))
    place = data.index(kind)
    end = place + 4 + int.from_bytes(data[place - 4 : place], "big")
    data[end] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"wrong checksum of its chunk {kind.decode()}"):
        decode_image(path)


def tiff(*pages: Image.Image, **tags: dict[int, int]) -> bytes:
    """A TIFF of some pages; of page number n, the tags named `of{n}`."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as file:
        for number, page in enumerate(pages):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            for tag, value in tags.get(f"of{number}", {}).items():
                info[tag] = value
            page.save(file, "TIFF", tiffinfo=info)
            file.newFrame()
    return buffer.getvalue()


WHOLE = Image.fromarray(PIXELS)
HALF = WHOLE.resize((45, 30))


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (tiff(WHOLE), ""),
        (tiff(WHOLE, HALF, of1={254: 1}), ""),
        (tiff(HALF, WHOLE, of0={254: 1}), ""),
        (tiff(HALF, WHOLE), "picture 2 of 2"),
        (tiff(WHOLE, HALF), "picture 1 of 2"),
        (tiff(WHOLE, HALF, of0={254: 2}, of1={254: 2}), "picture 1 of 2"),
        (tiff(WHOLE.convert("1"), WHOLE, of0={254: 4}), ""),
        (tiff(HALF, WHOLE, of0={255: 2}), ""),
    ],
    ids=["one", "pyramid", "preview", "smaller first", "larger first", "pages", "mask", "old"],
)
def test_the_main_picture_of_a_tiff_is_judged(tmp_path: Path, data: bytes, note: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    read = read_picture(path)
    assert np.array_equal(read.pixels, PIXELS)
    assert read.note.startswith(note)
    assert bool(read.note) == bool(note)


def below(data: bytes) -> bytes:
    """A TIFF of two pages, the second of which hangs below the first instead (SubIFDs)."""
    order = "<" if data[:2] == b"II" else ">"
    [first] = struct.unpack_from(f"{order}I", data, 4)
    [count] = struct.unpack_from(f"{order}H", data, first)
    end = first + 2 + 12 * count
    [second] = struct.unpack_from(f"{order}I", data, end)
    entry = struct.pack(f"{order}HHII", 330, 13, 1, second)
    directory = struct.pack(f"{order}H", count + 1) + data[first + 2 : end] + entry + b"\0" * 4
    return data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + directory


def test_a_picture_below_its_preview_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(below(tiff(HALF, WHOLE, of0={254: 1})))
    assert np.array_equal(decode_image(path), PIXELS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(HALF, of0={254: 1}), "only reduced copies"),
        (below(tiff(HALF, WHOLE, of0={254: 1}, of1={262: 32803})), "raw photograph"),
        (below(tiff(HALF, WHOLE, of0={254: 1}, of1={262: 34892})), "raw photograph"),
        (tiff(HALF, of0={50706: 1}), "raw photograph"),
        (tiff(WHOLE)[:8] + b"CR\2\0" + tiff(WHOLE)[12:], "raw photograph"),
        (tiff(WHOLE)[:100], "damaged image"),
    ],
    ids=["preview alone", "mosaic", "linear", "DNG", "CR2", "cut off"],
)
def test_a_preview_is_never_judged_for_the_picture(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "a.dng"
    path.write_bytes(data)
    for centre in (None, 32):
        with pytest.raises(InputError, match=message):
            read_picture(path, centre=centre)


def test_metadata_of_wrong_types_stops_no_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(WHOLE, of0={274: 6, 282: 1, 283: 1, 296: 2}))
    data = bytearray(path.read_bytes())
    for tag in (282, 283, 296):
        place = data.index(struct.pack("<H", tag) + struct.pack("<H", 5 if tag < 296 else 3))
        data[place + 2 : place + 12] = struct.pack("<HI", 2, 3) + b"72\0\0"
    path.write_bytes(data)
    assert np.array_equal(decode_image(path), TURNED)


def test_of_a_jpeg_with_several_pictures_the_largest_is_judged(tmp_path: Path) -> None:
    small, large = Image.fromarray(picture(30, 40, seed=1)), Image.fromarray(PIXELS)
    for name, pages, note in [
        ("depth", [large, small], ""),
        ("preview", [small, large], "picture 2 of 2 in the file was judged, the largest"),
        ("burst", [large, large], "picture 1 of 2 in the file was judged, the largest"),
    ]:
        path = tmp_path / f"{name}.jpg"
        pages[0].save(path, "MPO", save_all=True, append_images=pages[1:], quality=90)
        for centre in (None, 32):
            read = read_picture(path, centre=centre)
            assert (read.whole or read.pixels.shape[:2]) == (60, 90)
            assert read.note == note


GREY = np.arange(0, 65536, 9, np.uint16)[:7200].reshape(80, 90)
HIGH = np.repeat((GREY >> 8).astype(np.uint8)[:, :, None], 3, 2)


def sixteen(values: np.ndarray, *, order: str = "<", photometric: int = 1) -> bytes:
    """A TIFF of 16-bit grey numbers, written by hand."""
    height, width = values.shape
    body = values.astype(f"{order}u2").tobytes()
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(body))]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return (
        start
        + struct.pack(f"{order}I", 8 + len(body))
        + body
        + struct.pack(f"{order}H", len(tags))
        + entries
        + b"\0" * 4
    )


def pgm(values: np.ndarray, most: int) -> bytes:
    height, width = values.shape
    return f"P5\n{width} {height}\n{most}\n".encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "data",
    [
        encoded(GREY),
        encoded(GREY, "TIFF"),
        sixteen(GREY),
        sixteen(GREY, order=">"),
        sixteen(65535 - GREY, photometric=0),
        sixteen(65535 - GREY, order=">", photometric=0),
        pgm(GREY, 65535),
    ],
    ids=["PNG", "TIFF", "little", "big", "white is zero", "white is zero, big", "PGM"],
)
def test_sixteen_bits_are_sixteen_in_any_container(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    assert np.array_equal(decode_image(path), HIGH)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_fewer_bits_in_sixteen_are_spread(tmp_path: Path, bits: int) -> None:
    values = GREY >> (16 - bits)
    path = tmp_path / "a"
    path.write_bytes(pgm(values, 2**bits - 1))
    assert np.abs(decode_image(path).astype(int) - HIGH).max() <= 1
    sound = encoded(values)
    path.write_bytes(sound[:33] + chunk(b"sBIT", bytes([bits])) + sound[33:])
    assert np.array_equal(decode_image(path), HIGH)
    # By the letter of PNG they are spread already, and so they mostly are.
    sound = encoded(GREY)
    path.write_bytes(sound[:33] + chunk(b"sBIT", bytes([bits])) + sound[33:])
    assert np.array_equal(decode_image(path), HIGH)
    path.write_bytes(encoded(GREY >> 4))
    assert "brightest value" in read_picture(path).note


@pytest.mark.parametrize("bits", [0, 1, 7, 17, 32, 255])
@pytest.mark.parametrize("values", [GREY, np.ones_like(GREY)], ids=["spread", "dark"])
def test_bits_that_cannot_be_say_nothing(tmp_path: Path, values: np.ndarray, bits: int) -> None:
    """With more than there are, the picture became black; with fewer, it could not be read."""
    sound = encoded(values)
    path = tmp_path / "a"
    path.write_bytes(sound[:33] + chunk(b"sBIT", bytes([bits])) + sound[33:])
    assert np.array_equal(decode_image(path)[:, :, 0], values >> 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((4, 4), np.float32), "floating-point pixels"),
        (np.ones((4, 4), np.int32), "32-bit pixels"),
        (np.ones((4, 4), np.int16), "signed 16-bit pixels"),
        (np.ones((4, 4), np.int8), "signed 8-bit pixels"),
    ],
)
def test_numbers_without_a_range_are_refused(
    tmp_path: Path, values: np.ndarray, message: str
) -> None:
    path = tmp_path / "a.tif"
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if values.dtype.kind == "i" and values.itemsize < 4:
        info[339] = 2  # signed, which Pillow writes of 32 bits alone
        values = values.view(f"u{values.itemsize}")
    path.write_bytes(encoded(values, "TIFF", tiffinfo=info))
    with pytest.raises(InputError, match=message):
        decode_image(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
def test_sixteen_bits_in_planes(tmp_path: Path, order: str, compression: int) -> None:
    colours = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])
    planes = [plane.astype(f"{order}u2").tobytes() for plane in colours]
    if compression == 8:
        planes = [zlib.compress(plane) for plane in planes]
    height, width = GREY.shape
    starts = [8, 8 + len(planes[0]), 8 + len(planes[0]) + len(planes[1])]
    tags = [(256, [width]), (257, [height]), (258, [16] * 3), (259, [compression]), (262, [2])]
    tags += [(273, starts), (277, [3]), (278, [height]), (279, list(map(len, planes))), (284, [2])]
    body = b"".join(planes)
    entries = b""
    for tag, values in tags:
        numbers = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            numbers, body = struct.pack(f"{order}I", 8 + len(body)), body + numbers
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + numbers
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4
    path = tmp_path / "a.tif"
    path.write_bytes(start + body + directory)
    assert np.array_equal(decode_image(path), (colours >> 8).astype(np.uint8).transpose(1, 2, 0))


def in_strips(starts: list[int], *, rows: int) -> bytes:
    """A TIFF of GREY's high bytes; of its strips, where each is, and how many rows it has."""
    height, width = GREY.shape
    data = HIGH[:, :, 0].tobytes()
    tags = [(256, [width]), (257, [height]), (258, [8]), (259, [1]), (262, [1]), (273, starts)]
    tags += [(277, [1]), (278, [rows]), (279, [rows * width] * len(starts))]
    body, entries = data, b""
    for tag, values in tags:
        numbers = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            numbers, body = struct.pack("<I", 8 + len(body)), body + numbers
        entries += struct.pack("<HHI", tag, 4, len(values)) + numbers
    start = b"II*\0" + struct.pack("<I", 8 + len(body))
    return start + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_a_tiff_without_some_of_its_strips_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    starts = [8 + 900 * strip for strip in range(8)]
    for sound in (starts, [*starts, 8]):
        path.write_bytes(in_strips(sound, rows=10))
        assert np.array_equal(decode_image(path), HIGH)
    for damaged in (starts[:7], starts[:1], [*starts[:3], 0, *starts[4:]]):
        path.write_bytes(in_strips(damaged, rows=10))
        with pytest.raises(InputError, match="some of its strips or tiles are missing"):
            decode_image(path)
