"""Windows of pictures and how they become views: geometry, and bicubic to the last bit."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.errors import InputError
from mpft_deploy.spec import Crop, convert_record
from mpft_deploy.views import (
    MAX_VIEWS,
    U8,
    ViewPolicy,
    bring_up,
    share_in,
    view_windows,
    views,
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


def test_a_window_of_the_views_size_is_the_view() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    [view] = views(frame, 32)
    assert np.array_equal(view, frame[9:41, 19:51])


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["centre", "five", "grid"]))
def test_windows_are_squares_within_the_picture(
    height: int, width: int, policy: ViewPolicy
) -> None:
    windows = view_windows(height, width, 32, policy)
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
def test_a_strip_costs_what_its_views_need(policy: ViewPolicy, tall: bool) -> None:
    strip = np.zeros((3_000_000, 1, 3) if tall else (1, 3_000_000, 3), np.uint8)
    tracemalloc.start()
    try:
        cut = views(strip, 16, policy)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cut.shape == (len(view_windows(*strip.shape[:2], 16, policy)), 16, 16, 3)
    assert most < 8e6


def test_a_spec_of_before_says_what_to_do() -> None:
    with pytest.raises(InputError, match="reseal_detector"):
        convert_record({"size": 32, "small": "tile"}, Crop, "the crop")
