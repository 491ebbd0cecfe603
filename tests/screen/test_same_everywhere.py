"""The shipped detector gives the same bits on every processor; here is what they are.

`MPFT_IMAGES=500 python -m pytest tests/screen/test_same_everywhere.py` asks for many pictures, of
which the slowest version judges one in some seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command import MPFT
from PIL import Image

from mpft_deploy.kernels.encoder.registry import VERSIONS

IMAGES = int(os.environ.get("MPFT_IMAGES", "3"))

SHA256 = {
    3: "7651a38eed5e64466e37922f4669e31f1aa54146acfd9934729ffa742f8ccab7",
    500: "5deb74798c990b598dd21be198141f4658f96274b880bb8bc12e27b26787c585",
}
"""Of what is said of so many pictures."""

RUNS = [
    *(
        pytest.param(version.name, ("--threads", "2"), id=version.name)
        for version in VERSIONS
        if version.name != "numpy" and version.device == "cpu"  # the whole way runs on no GPU yet
    ),
    pytest.param("", ("--threads", "1", "--batch", "8"), id="one-thread-in-batches"),
    pytest.param("", ("--threads", "3", "--batch", "2"), id="three-threads-in-pairs"),
]


def hashed(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Bytes u8 [count] that are the same everywhere (SplitMix64, Steele and others 2014)."""
    x = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
    x *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(56)).astype(np.uint8)


def picture(number: int) -> Image.Image:
    """Blocks of 64, 16, 4 and 1 pixels, one above the other, of another size in each picture."""
    height, width = 160 + 61 * (number % 9), 150 + 83 * (number % 7)
    total = np.zeros((height, width, 3), np.uint16)
    for scale in (64, 16, 4, 1):
        rows, columns = -(-height // scale), -(-width // scale)
        blocks = hashed(rows * columns * 3, 4 * number + scale).reshape(rows, columns, 3)
        large = blocks.repeat(scale, 0).repeat(scale, 1)[:height, :width]
        total += large // (1 if scale > 4 else 4)
    return Image.fromarray((total // 3).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same")
    (folder / "pictures").mkdir()
    for number in range(IMAGES):
        picture(number).save(folder / "pictures" / f"{number:03}.png", compress_level=1)
    return folder


@pytest.mark.parametrize(("version", "options"), RUNS)
def test_the_same_bits(version: str, options: tuple[str, ...], folder: Path) -> None:
    known = {one.name: one.why_not() for one in VERSIONS}
    if version and (reason := known[version]):
        pytest.skip(reason)
    done = subprocess.run(
        [*MPFT, "screen", "pictures", "--json", *options],
        cwd=folder,
        env={
            **os.environ,
            "MPFT_BUNDLE": "",
            "MPFT_KERNEL": version,
            "XDG_CACHE_HOME": str(folder),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == sorted(line["file"] for line in lines)
    assert len(lines) == IMAGES
    said = json.dumps(lines, sort_keys=True).encode()
    assert hashlib.sha256(said).hexdigest() == SHA256[IMAGES]
