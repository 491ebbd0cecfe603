"""What is not judged: flat views with noise of sensors and codecs; soft pictures are."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.fitness import I32, TEXTURED, _textured, coarse_scores, has_texture, too_small
from mpft_deploy.images import decode_image
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Crop, KeepRule
from mpft_deploy.views import U8, views

SHIPPED = Path(__file__).parent.parent / "models" / "mpft-vit-b16"


@pytest.fixture(scope="module")
def crop() -> Crop:
    return read_detector(SHIPPED).spec.crop


def telling(crop: Crop, frame: U8) -> bool:
    view = views(frame, 224)
    scores = texture_patchify(view, 16, KeepRule("all")).scores
    return bool(has_texture(crop, view, scores, 16)[0])


def noisy(level: float, deviation: float, *, grey: bool, fall: float = 0.0, seed: int = 0) -> U8:
    """A wall of one level, darker by `fall` towards one side, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, deviation, (240, 240, 1 if grey else 3))
    wall = level - np.linspace(0, fall, 240)[:, None, None]
    return np.broadcast_to((wall + noise).round().clip(0, 255), (240, 240, 3)).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 3, 60, 150, 230, 250, 255])
@pytest.mark.parametrize("deviation", [0, 1, 2, 4])
@pytest.mark.parametrize("grey", [True, False])
def test_noise_is_no_texture(crop: Crop, level: int, deviation: float, grey: bool) -> None:
    for fall in (0, 40):
        frame = noisy(level, deviation, grey=grey, fall=fall)
        assert not telling(crop, frame)
        for quality in (40, 75, 95):
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=quality)
            assert not telling(crop, np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize("deviation", [10, 40, 200])
def test_noise_of_any_strength_is_no_texture(crop: Crop, deviation: float) -> None:
    assert not telling(crop, noisy(128, deviation, grey=False))


SCORES = arrays(
    np.int32, st.tuples(st.just(2), st.integers(1, 300)), elements=st.integers(0, 2**24)
)


@given(scores=SCORES)
def test_what_a_quarter_of_the_cells_reach_is_their_quantile(scores: I32) -> None:
    assert np.array_equal(_textured(scores), np.quantile(scores, 1 - TEXTURED, axis=1))


def test_a_soft_picture_has_texture(crop: Crop) -> None:
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(60, 200, (20, 20, 3), np.uint8))
    assert telling(crop, np.asarray(blobs.resize((240, 240), Image.Resampling.BICUBIC)))


def test_a_line_of_text_is_no_picture(crop: Crop) -> None:
    frame = np.zeros((240, 240, 3), np.uint8)
    frame[110:125, 60:180:3] = 255
    assert not telling(crop, frame)


def test_means_are_rounded_and_odd_sizes_have_their_whole_cells() -> None:
    view = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    means = view[:, :32, :32].reshape(2, 8, 4, 8, 4, 3).mean((2, 4))
    rounded = np.floor(means + 0.5).astype(np.uint8)
    expected = texture_patchify(rounded, 4, KeepRule("all")).scores
    assert np.array_equal(coarse_scores(view), expected)
    assert coarse_scores(view[:, :12, :12]).shape == (2, 0)


def test_the_shorter_side_decides_what_is_too_small(crop: Crop) -> None:
    assert too_small(crop, crop.least_side, 4000) == ""
    assert "3 × 4000" in too_small(crop, 4000, 3)


def test_photographs_are_judged(crop: Crop, shared: Path) -> None:
    with (shared / "data" / "manifest.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["split"] == "val" and row["label"] == "0"
        ]
    told = [telling(crop, decode_image(shared / "data" / row["path"])) for row in rows[::4]]
    assert np.mean(told) > 0.9
