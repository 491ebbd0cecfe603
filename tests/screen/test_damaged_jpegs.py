"""JPEGs whose decoder would make up pixels are damaged, and by each path to them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media import encoded, exif, picture
from PIL import Image

from mpft_deploy.errors import InputError
from mpft_deploy.images import read_picture
from mpft_deploy.kernels.jpeg_window import why_not


@pytest.mark.parametrize("harm", [lambda d: d[:-60], lambda d: d[: len(d) // 2]])
def test_what_one_path_refuses_every_path_refuses(
    tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(harm(encoded(picture(300, 400), "JPEG", quality=90)))
    for centre in (None, 32):
        with pytest.raises(InputError, match="damaged image"):
            read_picture(path, centre=centre)


RESTARTED = encoded(picture(300, 400), "JPEG", quality=90, restart_marker_blocks=20)
MARKERS = [at for at in range(len(RESTARTED)) if RESTARTED[at : at + 2] == b"\xff\xd3"]


def taller(jpeg: bytes) -> bytes:
    """A header that promises twice the rows that there are."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">H", 600) + jpeg[at + 2 :]


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
@pytest.mark.parametrize(
    "damaged",
    [
        taller(RESTARTED),
        RESTARTED[: MARKERS[1]] + RESTARTED[MARKERS[1] + 400 :],
        RESTARTED[: MARKERS[1]] + RESTARTED[MARKERS[1] + 2 :],
        RESTARTED[: MARKERS[1] + 9] + RESTARTED[MARKERS[2] :],
        RESTARTED[: MARKERS[1]] + b"\xff\xd9",
    ],
    ids=["rows", "part", "marker", "end of parts", "early end"],
)
@pytest.mark.parametrize("exif", [b"", exif()], ids=["upright", "turned"])
def test_a_jpeg_whose_decoder_would_make_up_pixels_is_damaged(
    tmp_path: Path, damaged: bytes, exif: bytes
) -> None:
    path = tmp_path / "a.jpg"
    turn = b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif if exif else b""
    path.write_bytes(RESTARTED[:2] + turn + RESTARTED[2:])
    assert read_picture(path).pixels.shape == ((400, 300, 3) if exif else (300, 400, 3))
    path.write_bytes(damaged[:2] + turn + damaged[2:])
    for centre in (None, 32):
        with pytest.raises(InputError, match="damaged image"):
            read_picture(path, centre=centre)


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_a_damaged_picture_among_several_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.mpo"
    small, large = Image.fromarray(picture(90, 120)), Image.fromarray(picture(300, 400))
    small.save(path, "MPO", save_all=True, append_images=[large])
    sound = path.read_bytes()
    assert read_picture(path).pixels.shape == (300, 400, 3)
    at = sound.rindex(b"\xff\xc0") + 5
    path.write_bytes(sound[:at] + struct.pack(">H", 600) + sound[at + 2 :])
    with pytest.raises(InputError, match="not all of its pixels can be read"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["RGB", "CMYK"])
def test_bytes_too_many_behind_a_jpeg_stop_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(90, 120)).convert(kind).save(path, "JPEG")
    sound, data = read_picture(path).pixels, path.read_bytes()
    path.write_bytes(data[:-2] + b"\x55" * 24 + data[-2:] + b"more")
    for centre in (None, 32):
        assert np.array_equal(read_picture(path, centre=centre).pixels, sound)
