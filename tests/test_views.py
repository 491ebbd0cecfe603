"""Windows of pictures and how they become views: geometry, and bicubic to the last bit."""

from __future__ import annotations

import math
import tracemalloc
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import tiny_spec

from mpft_deploy.cli.options import VIEWS
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.kernels.texture_patchify.oracle import texture_scores
from mpft_deploy.prepared import prepare
from mpft_deploy.spec import Calibration, Crop, Scaling, ViewPolicy, convert_record
from mpft_deploy.views import (
    CELL,
    ELONGATED,
    MAX_VIEWS,
    U8,
    SizePolicy,
    Window,
    bring_up,
    centre_alone,
    crop_views,
    frame_scores,
    one_window,
    share_in,
    view_windows,
    views,
    why_no_window,
    windows_of,
)

BITS = 22
"""Of the fixed-point weights: 32 without those of a pixel and two for sums that overshoot."""


def weight(distance: float) -> float:
    """Keys' cubic convolution with a = −0.5."""
    x, a = abs(distance), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def along_columns(pixels: U8, size: int) -> U8:
    """Bicubic enlargement of the second axis, u8 [h, w, 3] → u8 [h, size, 3], in integers."""
    width = pixels.shape[1]
    out = np.empty((len(pixels), size, 3), np.uint8)
    for place in range(size):
        centre = (place + 0.5) * (width / size)
        first, last = max(0, int(centre - 2 + 0.5)), min(width, int(centre + 2 + 0.5))
        weights = [weight(column - centre + 0.5) for column in range(first, last)]
        total = 0.0
        for value in weights:
            total += value
        fixed = [int(math.copysign(0.5, w) + w / total * (1 << BITS)) for w in weights]
        sums = pixels[:, first:last].astype(np.int64).transpose(0, 2, 1) @ np.array(fixed)
        out[:, place] = np.clip((sums + (1 << (BITS - 1))) >> BITS, 0, 255)
    return out


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_small_windows_are_brought_up_by_bicubic_to_the_bit(
    side: int, more: int, seed: int
) -> None:
    window = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    size = side + more
    columns = along_columns(window, size)
    expected = along_columns(columns.transpose(1, 0, 2), size).transpose(1, 0, 2)
    assert np.array_equal(bring_up(window, size), expected)


@settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(16, 40),
    st.sampled_from(["bilinear", "bicubic"]),
    st.booleans(),
)
def test_scaled_pictures_are_those_of_torchvision_to_the_bit(
    height: int, width: int, side: int, method: str, square: bool
) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    assume(max(height, width) <= ELONGATED * min(height, width))
    frame = np.random.default_rng(side).integers(0, 256, (height, width, 3), np.uint8)
    wanted = transforms.Resize(
        (side, side) if square else side, transforms.InterpolationMode(method)
    )
    crop = Crop(size=16, scaling=Scaling(side=side, filter=method, square=square))  # type: ignore[arg-type]
    [view], [window] = crop_views(frame, crop)
    expected = transforms.CenterCrop(16)(wanted(Image.fromarray(frame)))
    assert np.array_equal(view, np.asarray(expected))
    assert 0 <= window.row < window.row + window.height <= height
    assert 0 <= window.column < window.column + window.width <= width


def test_of_a_ribbon_only_the_middle_is_scaled() -> None:
    frame = np.zeros((2, 2**20, 3), np.uint8)
    frame[:, 2**19 - 16 : 2**19 + 16] = 200
    [view], [window] = crop_views(frame, Crop(size=16, scaling=Scaling(side=16)))
    assert (view == 200).all()
    assert window == Window(0, 2**19 - 1, 2, 2)


def test_a_scaled_picture_has_one_view() -> None:
    crop = Crop(size=32, scaling=Scaling(side=40))
    assert one_window(90, 90, crop, "centre") is None
    assert centre_alone(crop) is None
    with pytest.raises(UsageError, match="the whole picture, scaled to 40 pixels"):
        prepare(tiny_spec(crop=crop), np.zeros((90, 90, 3), np.uint8), "five")
    with pytest.raises(UsageError, match="views three cannot"):
        tiny_spec(crop=crop, calibration=Calibration(views="three"))
    with pytest.raises(ValueError, match="a side of 16 has no view of 32"):
        Crop(size=32, scaling=Scaling(side=16))


def test_a_window_of_the_views_size_is_the_view() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    [view] = views(frame, 32)
    assert np.array_equal(view, frame[9:41, 19:51])


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["centre", "five", "grid"]))
def test_windows_are_squares_within_the_picture(
    height: int, width: int, policy: SizePolicy
) -> None:
    windows = windows_of(height, width, 32, policy)
    side = min(32, height, width)
    inside = np.zeros((height, width), np.int64)
    for row, column, h, w in windows:
        assert (h, w) == (side, side)
        assert row >= 0
        assert column >= 0
        inside[row : row + h, column : column + w] += 1
    assert share_in(windows, height, width) == pytest.approx((inside > 0).mean())
    if policy == "grid":
        assert inside.max() == 1
        assert len(windows) == min(MAX_VIEWS, (height // side) * (width // side))


@pytest.mark.parametrize("policy", ["centre", "five", "grid"])
@pytest.mark.parametrize("tall", [True, False])
def test_a_strip_costs_what_its_views_need(policy: SizePolicy, tall: bool) -> None:
    strip = np.zeros((3_000_000, 1, 3) if tall else (1, 3_000_000, 3), np.uint8)
    tracemalloc.start()
    try:
        cut = views(strip, 16, policy)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cut.shape == (len(windows_of(*strip.shape[:2], 16, policy)), 16, 16, 3)
    assert most < 8e6


@st.composite
def frames(draw: st.DrawFn) -> U8:
    """Pictures with parts of no, little and much texture."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    for _ in range(draw(st.integers(0, 4))):
        row, column = rng.integers(height), rng.integers(width)
        part = frame[row : row + rng.integers(1, height + 1), column:]
        part //= np.uint8(rng.integers(1, 256))
    return frame


@given(frames())
def test_cells_of_a_frame_are_scored_as_those_of_views(frame: U8) -> None:
    scores = frame_scores(frame)
    assert scores.shape == (frame.shape[0] // CELL, frame.shape[1] // CELL)
    for (row, column), score in np.ndenumerate(scores):
        cell = frame[row * CELL :, column * CELL :][None, :CELL, :CELL]
        assert score == texture_scores(cell, CELL)[0, 0]


@settings(max_examples=60)
@given(frames(), st.sampled_from([16, 32, 40]))
def test_three_windows_each_show_the_most_of_what_is_left(frame: U8, size: int) -> None:
    windows = view_windows(frame, size, "three")
    height, width = frame.shape[:2]
    if min(height, width) < size:
        assert windows == windows_of(height, width, size)
        return
    left = {cell: math.isqrt(score) for cell, score in np.ndenumerate(frame_scores(frame))}
    expected: list[Window] = []
    places = [
        (row, column)
        for row in range(0, height - size + 1, CELL)
        for column in range(0, width - size + 1, CELL)
    ]
    first = 0
    for _ in range(3):
        shows = {
            (row, column): [
                (r, c)
                for r in range(row // CELL, row // CELL + size // CELL)
                for c in range(column // CELL, column // CELL + size // CELL)
            ]
            for row, column in places
        }
        best = max(places, key=lambda place: sum(left[cell] for cell in shows[place]))
        worth = sum(left[cell] for cell in shows[best])
        first = first or worth
        if not worth or 4 * worth < first:
            break
        expected.append(Window(*best, size, size))
        left.update(dict.fromkeys(shows[best], 0))
    assert windows == (expected or windows_of(height, width, size))


def test_a_small_bright_caption_does_not_draw_all_windows() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(100, 130, (256, 512, 3), np.uint8)
    frame[240:, :64] = rng.integers(0, 2, (16, 64, 1), np.uint8) * 255
    [first, second, third] = view_windows(frame, 128, "three")
    assert share_in([first, second, third], 256, 512) == 3 * 128 * 128 / (256 * 512)


@given(st.integers(32, 600), st.integers(32, 900), st.integers(1, 1000))
def test_a_window_that_moves_goes_over_the_whole_picture(
    height: int, width: int, start: int
) -> None:
    assert windows_of(height, width, 32, "moving") == windows_of(height, width, 32)
    count = math.ceil(height / 32) * math.ceil(width / 32)
    turns = [windows_of(height, width, 32, "moving", start + i)[0] for i in range(count)]
    assert len(set(turns)) == count
    assert share_in(turns, height, width) == 1
    for row, column, *sides in turns:
        assert 0 <= row <= height - 32
        assert 0 <= column <= width - 32
        assert sides == [32, 32]


@st.composite
def masked(draw: st.DrawFn) -> tuple[int, int, tuple[Window, ...]]:
    """Sides of a picture, and masks in it."""
    height, width = draw(st.integers(16, 90)), draw(st.integers(16, 90))
    masks = []
    for _ in range(draw(st.integers(1, 4))):
        row, column = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        tall, wide = draw(st.integers(1, height - row)), draw(st.integers(1, width - column))
        masks.append(Window(row, column, tall, wide))
    return height, width, tuple(masks)


@given(masked(), st.sampled_from(get_args(ViewPolicy)), st.integers(0, 30))
def test_no_window_touches_a_mask_and_there_is_one_wherever_one_fits(
    picture: tuple[int, int, tuple[Window, ...]], policy: ViewPolicy, turn: int
) -> None:
    height, width, masks = picture
    frame = np.random.default_rng(turn).integers(0, 256, (height, width, 3), np.uint8)
    hidden = np.zeros((height, width), bool)
    for row, column, tall, wide in masks:
        hidden[row : row + tall, column : column + wide] = True
    sums = np.lib.stride_tricks.sliding_window_view(hidden, (16, 16)).sum((2, 3))
    free = {(int(row), int(column)) for row, column in np.argwhere(sums == 0)}
    windows = view_windows(frame, 16, policy, turn, masks)
    assert {window[:2] for window in windows} <= free
    assert bool(windows) == bool(free)
    assert all(window[2:] == (16, 16) for window in windows)
    assert len(windows) == len(set(windows))
    assert bool(why_no_window(height, width, Crop(size=16), masks)) != bool(free)
    if policy in ("centre", "moving") and free:
        # The nearest of all places, to the pixel.
        [unmasked] = windows_of(height, width, 16, policy, turn)
        away = [math.dist(unmasked[:2], place) for place in free]
        assert math.dist(unmasked[:2], windows[0][:2]) == min(away)


def test_a_picture_that_is_all_masked_is_refused() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    masks = (Window(0, 20, 40, 20),)
    assert not why_no_window(40, 60, Crop(size=16), masks)
    why = "masks leave no window of 32 pixels a side in 60 × 40"
    assert why_no_window(40, 60, Crop(size=32), masks) == why
    with pytest.raises(UsageError, match=why):
        prepare(tiny_spec(), frame, masks=masks)
    scaled = Crop(size=16, scaling=Scaling(side=16))
    assert "no part can be masked" in why_no_window(40, 60, scaled, masks)
    assert not why_no_window(40, 60, scaled, ())


def test_the_options_name_every_policy() -> None:
    assert tuple(VIEWS.choices) == get_args(ViewPolicy)


def test_a_spec_of_before_says_what_to_do() -> None:
    with pytest.raises(InputError, match="reseal_detector"):
        convert_record({"size": 32, "small": "tile"}, Crop, "the crop")
