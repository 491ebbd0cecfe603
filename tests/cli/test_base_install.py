"""What works with the base install alone: a bundle of the backend native from start to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import without
from PIL import Image

from mpft_deploy.bundle import read_bundle
from mpft_deploy.extras import how_to_install

OTHERS = (
    "av", "cryptography", "cv2", "matplotlib", "ml_dtypes", "onnx", "onnxruntime", "open_clip",
    "openvino", "paho", "pyarrow", "scipy", "sklearn", "tensorrt",
    "tensorrt_rtx", "torch", "torchvision",
)  # fmt: skip
"""Modules of the extras; where one is None it cannot be imported, nor is it found."""


def without_extras(*commands: list[object]) -> tuple[list[int], str]:
    """Exit codes and errors of commands, in a process of the base install."""
    return without(OTHERS, *commands)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(5):
        noise = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


def test_a_bundle_from_start_to_end(detector: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    report = tmp_path / "report.html"
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"of whatever")
    judged = ["--images", pictures, "--budget", "flips<=50%", "--json"]
    codes, errors = without_extras(
        ["export", detector, out],
        ["verify", out],
        ["inspect", out],
        ["screen", pictures, "--bundle", out, "--report", report],
        ["screen", pictures, clip, "--bundle", out],
        ["screen", "file:///no.mp4", "--bundle", out],
        ["profile", out, "--samples", "10", "--limit", "2", "--html", tmp_path / "profile.html"],
        ["export", detector, tmp_path / "judged", *judged],
        ["doctor", "--bundle", out],
    )
    assert codes == [0, 0, 0, 0, 1, 3, 0, 0, 0], errors
    for what in ("a clip", "a stream"):
        assert f"{what} needs av: {how_to_install('video')}" in errors
    info = read_bundle(out).info
    assert (info.backend, str(info.precision)) == ("native", "wide")
    assert read_bundle(tmp_path / "judged").certificate.answer == "kept"


def test_what_needs_an_extra_names_it(
    detector: Path, bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    codes, errors = without_extras(
        ["export", detector, out, "--precision", "int8"],
        ["export", detector, out, "--backend", "onnxruntime"],
        ["export", detector, tmp_path / "model.onnx", "--standalone"],
        ["export", detector, out, "--layout", "triton"],
        ["screen", pictures, "--bundle", bundle],
        ["profile", bundle, "--layers"],
        ["export", detector, out, "--precision", "bf16"],
        ["export", detector, out, "--backend", "tensorrt"],
    )
    assert codes == [3] * 8, errors
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    for line, extra in zip(told, ["export"] * 6 + ["openvino", "tensorrt"], strict=True):
        assert how_to_install(extra) in line
    assert not out.exists()
