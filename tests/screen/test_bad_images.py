"""Image files that are damaged, odd or hostile: pixels as they should be, or one clear error."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import encoded, picture
from PIL import Image

from mpft_deploy.errors import InputError
from mpft_deploy.finding import find_images
from mpft_deploy.images import decode_image, read_picture


def write(tmp_path: Path, data: bytes, name: str = "a.png") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes = b"", *, interlaced: int = 0
) -> bytes:
    """A PNG written by hand; `rows` with their filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"This is a letter, not a photograph.\n" * 9, "not an image"),
        (encoded(picture(), "JPEG")[:-60], "damaged image"),
        (encoded(picture())[:-2000], "damaged image"),
        (png(30_000, 30_000, 8, 2), "pixels"),
        (png(12_000, 12_000, 8, 2), "more than the limit of 128 megapixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (encoded(np.ones((4, 4), np.float32), "TIFF"), "floating-point pixels"),
        (png(8, 8, 8, 2, bytes(25 * 7)), "its pixels end before the last row"),
        (png(8, 8, 16, 6, bytes(65 * 8 - 1)), "its pixels end before the last row"),
        (png(9, 8, 1, 0, bytes(3 * 8 - 1)), "its pixels end before the last row"),
    ],
    ids=[
        *("empty", "text", "jpeg", "png", "bomb", "large", "postscript", "float"),
        *("rows", "byte", "bits"),
    ],
)
def test_unreadable_files_are_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path, data, "photo.jpg")
    with pytest.raises(InputError, match=message) as caught:
        decode_image(path)
    assert "photo.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (5, 2), (8, 8), (17, 13)])
@pytest.mark.parametrize(("depth", "colour", "bits"), [(8, 2, 24), (1, 0, 1), (16, 4, 32)])
def test_an_interlaced_png_needs_the_rows_of_all_passes(
    tmp_path: Path, size: tuple[int, int], depth: int, colour: int, bits: int
) -> None:
    width, height = size
    rows = b""
    for left, top, across, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        columns = len(range(left, width, across))
        if columns:
            rows += bytes(1 + -(-columns * bits // 8)) * len(range(top, height, down))
    for data, sound in ((rows, True), (rows[:-1], False)):
        path = write(tmp_path, png(width, height, depth, colour, data, interlaced=1))
        if sound:
            assert decode_image(path).shape == (height, width, 3)
        else:
            with pytest.raises(InputError, match="its pixels end before the last row"):
                decode_image(path)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in [
        ("none.png", "no such file"),
        (".", "is a folder"),
        ("loop.png", "symbolic links"),
        ("pipe.png", "no regular file"),
    ]:
        with pytest.raises(InputError, match=message):
            decode_image(tmp_path / name)


def test_grey_palette_and_alpha_keep_their_colours(tmp_path: Path) -> None:
    colours = picture()
    grey = colours[:, :, 0]
    assert np.array_equal(
        decode_image(write(tmp_path, encoded(grey))), np.repeat(grey[:, :, None], 3, 2)
    )
    few = np.array([[[255, 0, 0], [0, 128, 255]], [[9, 9, 9], [255, 0, 0]]], np.uint8)
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert np.array_equal(decode_image(tmp_path / "p.png"), few)
    # What is invisible may be what was generated: alpha hides nothing.
    alpha = np.dstack([colours, np.zeros(colours.shape[:2], np.uint8)])
    assert np.array_equal(decode_image(write(tmp_path, encoded(alpha))), colours)


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [0x1234, 0xFF00, 0xFFFF]], np.uint16)
    high = np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, 2)
    assert np.array_equal(decode_image(write(tmp_path, encoded(values))), high)
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    assert np.array_equal(decode_image(write(tmp_path, png(3, 2, 16, 2, rows))), high)


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(path, quality=100)
    pixels = decode_image(path)
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1)), (8, lambda x: np.rot90(x))],
)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, turned: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, encoded(picture(), exif=exif.tobytes()))
    assert np.array_equal(decode_image(path), turned(picture()))  # type: ignore[operator]


def test_a_single_pixel(tmp_path: Path) -> None:
    assert decode_image(write(tmp_path, encoded(np.full((1, 1, 3), 7, np.uint8)))).tolist() == [
        [[7, 7, 7]]
    ]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path: Path, kind: str) -> None:
    shades = [np.full((8, 8, 3), value, np.uint8) for value in (0, 120, 240)]
    images = [Image.fromarray(shade) for shade in shades]
    path = tmp_path / f"moving.{kind.lower()}"
    images[0].save(path, kind, save_all=True, append_images=images[1:], lossless=True)
    read = read_picture(path)
    assert read.pixels.max() <= 1
    assert "first was judged" in read.note
    assert read_picture(write(tmp_path, encoded(picture()))).note == ""


SEEDS = [
    encoded(picture(), "JPEG"),
    encoded(picture()),
    encoded(picture()[:, :, 0], "GIF"),
    encoded(picture(), "WEBP"),
    encoded(picture(), "TIFF"),
    encoded(picture(), "BMP"),
    encoded(picture(), "PPM"),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 2000),
)
def test_damage_never_escapes_as_anything_but_an_input_error(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    path = write(tmp_path, bytes(data[: len(data) - cut % len(data)]))
    message = ""
    try:
        pixels = decode_image(path)
    except InputError as error:
        message = str(error)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
    assert "\n" not in message


def test_find_images_is_sorted_and_skips_hidden(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "sub/c.webp", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.png", "b.JPG", "sub/c.webp"]
