"""From pictures to views: which windows of a picture are looked at, and how they become views.

A view is a window of the picture at its own pixels. Where the picture is smaller than a view, the
window is a square of its shorter side, brought up by Pillow's bicubic: integer arithmetic, which
gives the same bytes on every machine. A window is cut before it is brought up, so no more is made
than a view needs, whatever the picture's longer side is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError

U8 = npt.NDArray[np.uint8]
ViewPolicy = Literal["centre", "five", "grid"]

MAX_VIEWS = 1024
"""Of one picture by the policy `grid`, 150 kB each; of more, these are evenly spread."""


class Window(NamedTuple):
    """A part of a picture, in pixels: row and column of its top left one, height and width."""

    row: int
    column: int
    height: int
    width: int


def view_side(height: int, width: int, size: int) -> int:
    """Side of a view's window in a picture of that height and width."""
    return min(size, height, width)


def view_windows(height: int, width: int, size: int, policy: ViewPolicy = "centre") -> list[Window]:
    """The window of each view of `size` in a picture of that height and width."""
    side = view_side(height, width, size)
    return [
        Window(row, column, side, side) for row, column in view_corners(height, width, side, policy)
    ]


def view_corners(
    height: int, width: int, side: int, policy: ViewPolicy = "centre"
) -> list[tuple[int, int]]:
    """Row and column of the top left pixel of each window, in a picture of at least `side`.

    `centre` is one; `five` the four corners and the centre; `grid` as many as fit without
    overlapping, centred, and at most MAX_VIEWS.
    """
    bottom, right = height - side, width - side
    centre = (bottom // 2, right // 2)
    if policy == "centre":
        return [centre]
    if policy == "five":
        return [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    if policy == "grid":
        rows = range((height % side) // 2, bottom + 1, side)
        columns = range((width % side) // 2, right + 1, side)
        count = len(rows) * len(columns)
        kept = min(count, MAX_VIEWS)
        places = (index * count // kept for index in range(kept))
        return [(rows[p // len(columns)], columns[p % len(columns)]) for p in places]
    raise UsageError(f"views {policy!r}: choose centre, five or grid")


def cut(frame: U8, windows: Sequence[Window], size: int) -> U8:
    """The views u8 [V, size, size, 3] at some windows of a frame u8 [H, W, 3]."""
    return np.stack(
        [bring_up(frame[r : r + h, c : c + w], size) for r, c, h, w in windows], dtype=np.uint8
    )


def bring_up(window: U8, size: int) -> U8:
    """A window u8 [h, w, 3] as a view u8 [size, size, 3]; the same pixels if it has that size."""
    if window.shape[:2] == (size, size):
        return window
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(window))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def views(frame: U8, size: int, policy: ViewPolicy = "centre") -> U8:
    """Square views of a frame: u8 [H, W, 3] → u8 [V, size, size, 3]; see `view_windows`."""
    height, width = frame.shape[:2]
    return cut(frame, view_windows(height, width, size, policy), size)


def share_in(windows: Sequence[Window], height: int, width: int) -> float:
    """The share, 0 to 1, of a picture's pixels that lie in at least one of some windows."""
    at = np.array([(r, r + h, c, c + w) for r, c, h, w in windows])
    rows, columns = np.unique(at[:, :2]), np.unique(at[:, 2:])
    inside = np.zeros((len(rows) - 1, len(columns) - 1), bool)
    ends = np.column_stack([np.searchsorted(rows, at[:, :2]), np.searchsorted(columns, at[:, 2:])])
    for top, bottom, left, right in ends:
        inside[top:bottom, left:right] = True
    return float(np.diff(rows) @ inside @ np.diff(columns)) / (height * width)
