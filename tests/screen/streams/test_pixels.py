"""Central crops: the bytes of the converted whole, for every size, format and colour space."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.images import views
from mpft_deploy.screen.streams.pixels import Cutter, DecodedShot, RgbShot

FORMATS = ["yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv444p", "yuv420p10le", "gray", "rgb24"]


def frame_of(height: int, width: int, form: str, seed: int = 0) -> av.VideoFrame:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    frame: av.VideoFrame = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=form)
    return frame


@settings(max_examples=150)
@given(
    height=st.integers(32, 130),
    width=st.integers(32, 200),
    form=st.sampled_from(FORMATS),
    size=st.sampled_from([32, 31]),
    seed=st.integers(0, 99),
    space=st.sampled_from([Colorspace.DEFAULT, Colorspace.ITU709, Colorspace.ITU601]),
    full=st.booleans(),
)
def test_the_crop_is_that_of_the_whole(
    height: int, width: int, form: str, size: int, seed: int, space: Colorspace, full: bool
) -> None:
    frame = frame_of(height, width, form, seed)
    frame.colorspace = space
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    whole = DecodedShot(frame).whole()
    assert whole.shape == (height, width, 3)
    assert np.array_equal(
        DecodedShot(frame).centre(size, Cutter()), views(whole, size, "centre")[0]
    )


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (720, 1280), (576, 704), (224, 224)])
def test_sizes_of_cameras(height: int, width: int) -> None:
    cutter = Cutter()
    for form in ("yuv420p", "yuvj420p", "yuv420p"):
        shot = DecodedShot(frame_of(height, width, form))
        assert np.array_equal(shot.centre(224, cutter), views(shot.whole(), 224, "centre")[0])


def test_a_cutter_changes_neither_the_frame_nor_an_earlier_view() -> None:
    cutter = Cutter()
    frames = [frame_of(120, 160, "yuv420p", seed) for seed in (1, 2)]
    before = [frame.to_ndarray() for frame in frames]
    views_ = [cutter.cut(frame, 32) for frame in frames]
    first = DecodedShot(frames[0]).whole()
    assert np.array_equal(views_[0], views(first, 32, "centre")[0])
    for frame, pixels in zip(frames, before, strict=True):
        assert np.array_equal(frame.to_ndarray(), pixels)


def test_pictures_that_came_as_rgb() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    shot = RgbShot(pixels)
    assert (shot.height, shot.width) == (50, 61)
    assert np.array_equal(shot.centre(32, Cutter()), views(pixels, 32, "centre")[0])
    assert shot.whole() is pixels
