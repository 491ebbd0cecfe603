"""Of which pictures and views no verdict is given: too small, or without texture to judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Crop, KeepRule
from mpft_deploy.views import U8

I32 = npt.NDArray[np.int32]

MEAN, CELL = 4, 4
"""Pixels that are averaged along each side, and such means along each side of a cell."""

TEXTURED = 0.25
"""Part of a view's cells that must have texture."""

NOISE = 0.3
"""Of a difference of pixels, what may remain of it between means where there is only noise: 0.25
of noise that is independent from pixel to pixel."""

FLAT = "too little texture to judge: flat, covered, dark, blank or only noise"


LEAST_SIDE = 4 / 7
"""Of a view's side: 128 of 224 pixels, as measured on the detector that is shipped."""

LEAST_TEXTURE = 300
"""Above what noise of up to 4 levels gives, whatever a codec makes of it."""


def bounded_crop(size: int) -> Crop:
    """Views of that size for a new detector, with the bounds as measured; see docs/method.md."""
    return Crop(size=size, least_side=round(size * LEAST_SIDE), least_texture=LEAST_TEXTURE)


def too_small(crop: Crop, height: int, width: int) -> str:
    """Why a picture of that size is not judged; "" if it is."""
    if min(height, width) >= crop.least_side:
        return ""
    return (
        f"{width} × {height} pixels are too few to judge: the shorter side needs {crop.least_side}"
    )


def has_texture(crop: Crop, views: U8, scores: I32, patch: int) -> npt.NDArray[np.bool_]:
    """Which views have enough texture to be judged: bool [V].

    A sensor's noise and a codec's are texture to the kernel, as fine as a picture's; means of 4 × 4
    pixels leave a quarter of noise and most of a picture. So the kernel scores these means, in
    cells of 4 × 4, and a quarter of the cells must reach `crop.least_texture`, and more than noise
    as strong as the view's own texture would leave.

    Args:
        views: u8 [V, S, S, 3].
        scores: i32 [V, N], of the views themselves in cells of `patch` pixels.
    """
    if not crop.least_texture:
        return np.ones(len(views), bool)
    return enough_texture(crop, scores, coarse_scores(views), patch)


def enough_texture(crop: Crop, scores: I32, coarse: I32, patch: int) -> npt.NDArray[np.bool_]:
    """`has_texture` of views by their scores i32 [V, N] and `coarse_scores` i32 [V, M]."""
    if not crop.least_texture:
        return np.ones(len(scores), bool)
    noise = NOISE * _textured(scores) / _differences(patch)
    bounds = np.maximum(crop.least_texture, noise * _differences(CELL))
    textured: npt.NDArray[np.bool_] = coarse >= bounds[:, None]
    enough: npt.NDArray[np.bool_] = textured.sum(axis=1) >= TEXTURED * coarse.shape[1]
    return enough


def _textured(scores: I32) -> npt.NDArray[np.float64]:
    """What a quarter of each view's cells reach: `np.quantile(scores, 1 - TEXTURED, axis=1)`, which
    would import `numpy.ma`, a tenth of what a process that judges one picture imports."""
    place = (1 - TEXTURED) * (scores.shape[1] - 1)
    below = int(place)
    low, high = np.sort(scores, axis=1)[:, [below, min(below + 1, scores.shape[1] - 1)]].T
    between: npt.NDArray[np.float64] = high - (high - low) * (1 - (place - below))
    return between


def _differences(side: int) -> int:
    """How many differences the kernel's score of a cell of that side sums up, in one channel."""
    return 2 * side * (side - 1) + 2 * (side - 1) ** 2


def coarse_scores(views: U8) -> I32:
    """The kernel's scores of views u8 [V, S, S, 3] at a quarter of their scale: i32 [V, (S/16)²].

    What is beyond the last whole cell is left out; views below a cell have no scores.
    """
    side = views.shape[1] // (MEAN * CELL) * MEAN * CELL
    if not side:
        return np.zeros((len(views), 0), np.int32)
    sums = views[:, :side, :side].astype(np.uint16)
    # Along one axis after the other: NumPy adds slices many times faster than it adds up blocks.
    sums = sums[:, ::4] + sums[:, 1::4] + sums[:, 2::4] + sums[:, 3::4]
    sums = sums[:, :, ::4] + sums[:, :, 1::4] + sums[:, :, 2::4] + sums[:, :, 3::4]
    return texture_patchify(((sums + 8) // 16).astype(np.uint8), CELL, KeepRule("all")).scores
