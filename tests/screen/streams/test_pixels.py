"""Central crops: the bytes of the converted whole, for every size, format and colour space."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.screen.streams.pixels import DecodedShot, RgbShot, Shot, cut
from mpft_deploy.screen.video import to_rgb
from mpft_deploy.views import Window, views, windows_of
from mpft_deploy.views import cut as cut_views

FORMATS = [
    "yuv420p",
    "yuv420p10le",
    "yuv420p12le",
    "yuv422p",
    "yuv422p10le",
    "yuv444p",
    "yuv444p10le",
    "yuvj420p",
    "yuvj422p",
    "yuvj444p",
    "nv12",
    "nv21",
    "nv16",
    "p010le",
    "p210le",
    "yuyv422",
    "uyvy422",
    "gray",
    "gray10le",
    "rgb24",
    "bgr24",
    "bgra",
    "bgr0",
    "yuv411p",
    "yuva420p",
    "gbrp",
    "yuv410p",
    "monow",
    "rgb565le",
    "yuv440p",
    "yuv444p12le",
    "yuv422p12le",
]


def frame_of(height: int, width: int, form: str, seed: int = 0) -> av.VideoFrame:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    frame: av.VideoFrame = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=form)
    return frame


def centre(picture: Shot | av.VideoFrame, size: int) -> Window:
    [window] = windows_of(picture.height, picture.width, size)
    return window


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(32, 200),
    width=st.integers(32, 500),
    form=st.sampled_from(FORMATS),
    size=st.sampled_from([32, 31]),
    turn=st.integers(0, 40),
    seed=st.integers(0, 99),
    space=st.sampled_from([Colorspace.DEFAULT, Colorspace.ITU709, Colorspace.ITU601]),
    full=st.booleans(),
)
def test_the_crop_is_that_of_the_whole(
    height: int,
    width: int,
    form: str,
    size: int,
    turn: int,
    seed: int,
    space: Colorspace,
    full: bool,
) -> None:
    frame = frame_of(height, width, form, seed)
    frame.colorspace = space
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    whole = DecodedShot(frame).whole()
    assert whole.shape == (height, width, 3)
    [window] = windows_of(height, width, size, "moving", turn)
    [expected] = cut_views(whole, [window], size)
    assert np.array_equal(DecodedShot(frame).cut(window), expected)


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (720, 1280), (576, 704), (224, 224)])
def test_sizes_of_cameras(height: int, width: int) -> None:
    for form in ("yuv420p", "nv12", "p010le", "yuvj422p", "yuyv422", "yuv444p", "yuv420p"):
        shot = DecodedShot(frame_of(height, width, form))
        assert np.array_equal(shot.cut(centre(shot, 224)), views(shot.whole(), 224, "centre")[0])


def test_a_cut_changes_neither_the_frame_nor_an_earlier_view() -> None:
    frames = [frame_of(120, 160, "yuv420p", seed) for seed in (1, 2)]
    before = [frame.to_ndarray() for frame in frames]
    views_ = [cut(frame, centre(frame, 32)) for frame in frames]
    first = DecodedShot(frames[0]).whole()
    assert np.array_equal(views_[0], views(first, 32, "centre")[0])
    for frame, pixels in zip(frames, before, strict=True):
        assert np.array_equal(frame.to_ndarray(), pixels)


def test_pictures_that_came_as_rgb() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    shot = RgbShot(pixels)
    assert (shot.height, shot.width) == (50, 61)
    assert np.array_equal(shot.cut(centre(shot, 32)), views(pixels, 32, "centre")[0])
    assert shot.whole() is pixels


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_interlaced_frames(form: str) -> None:
    """Their fields are converted each by itself, so the cut must be interlaced as well."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 192, form
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"x264-params": "tff=1:log-level=none", "tune": "zerolatency"}
    packets = [*encoder.encode(frame_of(192, 320, form)), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    [frame] = [*decoder.decode(packets[0]), *decoder.decode(None)]
    assert frame.interlaced_frame
    shot = DecodedShot(frame)
    for size in (32, 64):
        view = shot.cut(centre(shot, size))
        assert np.array_equal(view, views(to_rgb(frame), size, "centre")[0])


@pytest.mark.parametrize("form", ["yuv420p", "nv12", "yuv422p"])
def test_one_frame_is_converted_by_one_thread_at_a_time(form: str) -> None:
    """Several that asked for the picture of one frame at once ended the process, or hung."""
    for seed in range(6):
        frame = frame_of(360, 640, form, seed)
        expected = to_rgb(frame_of(360, 640, form, seed))
        shot, start = DecodedShot(frame), threading.Barrier(4)

        def ask(index: int, shot: DecodedShot = shot, start: threading.Barrier = start) -> Any:
            start.wait(10)
            return shot.whole() if index % 2 else shot.cut(centre(shot, 224))

        with ThreadPoolExecutor(4) as pool:
            pictures = list(pool.map(ask, range(4)))
        for index, pixels in enumerate(pictures):
            whole = expected if index % 2 else views(expected, 224, "centre")[0]
            assert np.array_equal(pixels, whole)


def test_no_whole_is_kept_of_a_frame_but_a_turned_one() -> None:
    """It is twice as large as the frame, of which a screener keeps one a camera."""
    shot = DecodedShot(frame_of(64, 96, "yuv420p"))
    assert shot.whole() is not shot.whole()
    turned = frame_of(64, 96, "yuv420p")
    shot = DecodedShot(turned)
    shot._turns = 1
    assert shot.whole() is shot.whole()
    with pytest.raises(ValueError, match="read-only"):
        shot.whole()[0, 0] = 0
