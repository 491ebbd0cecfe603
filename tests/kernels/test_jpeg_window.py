"""Windows of JPEGs equal Pillow's decode of the whole image, or are not given at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import encoded, picture
from PIL import Image

from mpft_deploy.errors import InputError
from mpft_deploy.images import decode_image, read_picture
from mpft_deploy.kernels.jpeg_window import decode_window, why_not
from mpft_deploy.views import view_corners, views

needs_libjpeg = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def whole(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@needs_libjpeg
@settings(max_examples=300)
@given(st.data())
def test_window_equals_the_whole_decode(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 130))
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, 256, (height, width, 3)
    )
    pixels = (picture(height, width) // 2 + noise // 2).astype(np.uint8)
    options = {
        "quality": data.draw(st.sampled_from([5, 50, 75, 95, 100])),
        "subsampling": data.draw(st.sampled_from([0, 1, 2])),
        "progressive": data.draw(st.booleans()),
        "restart_marker_rows": data.draw(st.sampled_from([0, 1, 3])),
    }
    image = Image.fromarray(pixels)
    if data.draw(st.booleans()):
        image = image.convert("L")
        del options["subsampling"]
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    jpeg = buffer.getvalue()
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows = data.draw(st.integers(1, height - top))
    columns = data.draw(st.integers(1, width - left))
    found = decode_window(jpeg, top, left, rows, columns)
    assert found is not None
    assert np.array_equal(found, whole(jpeg)[top : top + rows, left : left + columns])


@needs_libjpeg
@pytest.mark.parametrize("factor", ["0x411111", "0x221111", "0x211111", "0x121111", "0x111111"])
def test_every_subsampling(factor: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV writes the rarer ones")
    noise = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, int(factor, 16)])[1]
    data = jpeg.tobytes()
    for top, left in [(0, 0), (37, 51), (86, 106), (85, 0)]:
        found = decode_window(data, top, left, 64, 64)
        assert found is not None
        assert np.array_equal(found, whole(data)[top : top + 64, left : left + 64])


@needs_libjpeg
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_no_window_of_a_file_that_ends_early(cut: float, progressive: bool) -> None:
    jpeg = encoded(picture(200, 200), "JPEG", progressive=progressive)
    assert decode_window(jpeg, 0, 0, 20, 20) is not None
    assert decode_window(jpeg[: int(cut * len(jpeg))], 0, 0, 20, 20) is None


@needs_libjpeg
def test_no_window_of_what_is_unusual() -> None:
    cmyk = io.BytesIO()
    Image.fromarray(picture(64, 64)).convert("CMYK").save(cmyk, "JPEG")
    jpeg = encoded(picture(64, 64), "JPEG")
    assert decode_window(cmyk.getvalue(), 0, 0, 8, 8) is None
    assert decode_window(b"", 0, 0, 8, 8) is None
    assert decode_window(b"\xff\xd8\xff\xd9", 0, 0, 8, 8) is None
    assert decode_window(jpeg, 60, 0, 8, 8) is None
    assert decode_window(jpeg, 0, 2**31, 8, 8) is None


@needs_libjpeg
def test_damage_below_the_window_is_damage() -> None:
    """A second frame header within the picture's data: no decoder goes on there."""
    jpeg = encoded(picture(160, 160), "JPEG", quality=90)
    start = jpeg.index(b"\xff\xc0")
    header = jpeg[start : start + 19]
    late = len(jpeg) * 9 // 10
    damaged = jpeg[:late] + header + jpeg[late:]
    with pytest.raises(OSError, match="broken data stream"):
        whole(damaged)
    assert decode_window(jpeg, 0, 0, 32, 32) is not None
    assert decode_window(damaged, 0, 0, 32, 32) is None


@needs_libjpeg
@settings(max_examples=200)
@given(st.binary(max_size=40), st.integers(0, 2000), st.integers(0, 2000))
def test_damaged_files_give_the_same_pixels_or_none(junk: bytes, start: int, length: int) -> None:
    jpeg = encoded(picture(90, 90), "JPEG", quality=40)
    damaged = jpeg[: start % len(jpeg)] + junk + jpeg[start % len(jpeg) + length % 50 :]
    found = decode_window(damaged, 30, 30, 32, 32)
    if found is not None:
        assert np.array_equal(found, whole(damaged)[30:62, 30:62])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"exif": 6},
        {"exif": 3},
        {"mode": "CMYK"},
        {"mode": "L"},
        {"kind": "PNG"},
        {"size": (30, 90)},
    ],
    ids=str,
)
def test_the_centre_of_a_file_is_the_centre_of_its_whole(
    tmp_path: Path, options: dict[str, object]
) -> None:
    height, width = options.pop("size", (121, 203))  # type: ignore[misc]
    image = Image.fromarray(picture(height, width)).convert(str(options.pop("mode", "RGB")))
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop("exif")
        options["exif"] = exif
    path = tmp_path / "image"
    image.save(path, options.pop("kind", "JPEG"), **options)
    decoded, centre = decode_image(path), read_picture(path, centre=64)
    assert np.array_equal(views(centre.pixels, 64), views(decoded, 64))
    assert (centre.whole or centre.pixels.shape[:2]) == decoded.shape[:2]


@needs_libjpeg
def test_a_plain_jpeg_is_not_decoded_whole(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(picture(300, 400), "JPEG"))
    found = read_picture(path, centre=64)
    assert found.pixels.shape == (64, 64, 3)
    assert found.whole == (300, 400)
    assert view_corners(300, 400, 64) == [(118, 168)]


def test_a_cut_off_jpeg_is_an_error_though_its_centre_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    jpeg = encoded(picture(300, 300), "JPEG")
    path.write_bytes(jpeg[: int(0.9 * len(jpeg))])
    with pytest.raises(InputError, match="truncated"):
        read_picture(path, centre=64)
