"""From pictures to views: which windows of a picture are looked at, and how they become views.

A view is a window of the picture at its own pixels. Some policies know where windows lie from the
picture's size alone; `three` chooses them by the kernel's scores over the whole picture. Where the
picture is smaller than a view, the window is a square of its shorter side, brought up by Pillow's
bicubic: integer arithmetic, which gives the same bytes on every machine. A window is cut before it
is brought up, so no more is made than a view needs, whatever the picture's longer side is.

Detectors from elsewhere may have been trained on whole pictures made small: where a spec's crop
says so, the one view is the centre of the picture after that, see `scaled_view`.

No window touches a mask, which hides a clock or a logo: one that would moves to the nearest place
where it does not. Where there is no such place there are no windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Crop, KeepRule, Scaling, ViewPolicy

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
SizePolicy = Literal["centre", "moving", "five", "grid"]
"""Policies that need no more than the size of a picture."""

MAX_VIEWS = 1024
"""Of one picture by the policy `grid`, 150 kB each; of more, these are evenly spread."""

CELL = 16
"""Side of the cells, in pixels, by which `three` chooses; its windows start on multiples of it."""

ELONGATED = 16
"""Of a picture that many times as long as it is wide, no more is scaled around its centre."""

WORTH_A_VIEW = 4
"""A further window must show one in so many of the texture that the first shows."""


class Window(NamedTuple):
    """A part of a picture, in pixels: row and column of its top left one, height and width."""

    row: int
    column: int
    height: int
    width: int


Masks: TypeAlias = tuple[Window, ...]
"""Parts of a picture that no window may touch."""


def view_side(height: int, width: int, size: int) -> int:
    """Side of a view's window in a picture of that height and width."""
    return min(size, height, width)


def view_windows(
    frame: U8, size: int, policy: ViewPolicy = "centre", turn: int = 0, masks: Masks = ()
) -> list[Window]:
    """The window of each view of `size` in a frame u8 [H, W, 3]; see `windows_of`.

    `three` takes the window that shows the most texture, then the one that shows the most of what
    is left, and a third, as long as they are worth a view: greedily, the windows that cover most
    (Nemhauser, Wolsey and Fisher 1978: at least 63 % of the best choice). What a cell is worth is
    the root of its score, so that lettering over a picture does not outweigh the picture. In a
    picture below a view, or without texture, it is the centre.
    """
    height, width = frame.shape[:2]
    side = view_side(height, width, size)
    if policy == "three" and side == size and (corners := _covering(frame, size, 3, masks)):
        return [Window(row, column, side, side) for row, column in corners]
    if policy == "three":
        policy = "centre"
    return windows_of(height, width, size, policy, turn, masks)


def windows_of(
    height: int,
    width: int,
    size: int,
    policy: SizePolicy = "centre",
    turn: int = 0,
    masks: Masks = (),
) -> list[Window]:
    """The window of each view of `size` in a picture of that height and width.

    They lie where `view_corners` says, or as near to that as masks allow; none if they allow none.
    """
    side = view_side(height, width, size)
    corners = view_corners(height, width, side, policy, turn)
    windows = [Window(row, column, side, side) for row, column in corners]
    if not masks:
        return windows
    moved = dict.fromkeys(_beside(window, height, width, masks) for window in windows)
    return [window for window in moved if window is not None]


@lru_cache(4096)
def _beside(window: Window, height: int, width: int, masks: Masks) -> Window | None:
    """The place for a window that is nearest to its own and touches no mask; None without one.

    Its row and column are each the window's own or at an edge of a mask: from any other place it
    could come nearer along one of them.
    """
    if not touches(window, masks):
        return window
    row, column, tall, wide = window
    rows = {row, *(at for mask in masks for at in (mask.row - tall, mask.row + mask.height))}
    columns = {
        column,
        *(at for mask in masks for at in (mask.column - wide, mask.column + mask.width)),
    }
    places = (
        Window(top, left, tall, wide)
        for top in rows
        for left in columns
        if 0 <= top <= height - tall and 0 <= left <= width - wide
    )
    free = (place for place in places if not touches(place, masks))
    return min(
        free, key=lambda at: ((at.row - row) ** 2 + (at.column - column) ** 2, at), default=None
    )


def touches(window: Window, masks: Masks) -> bool:
    """Whether a window shows a pixel of a mask."""
    row, column, tall, wide = window
    return any(
        top < row + tall and row < top + h and left < column + wide and column < left + w
        for top, left, h, w in masks
    )


def one_window(
    height: int, width: int, crop: Crop, policy: ViewPolicy, turn: int = 0, masks: Masks = ()
) -> Window | None:
    """The one window of such a picture; None if there are more or none, or the whole is needed."""
    if policy not in ("centre", "moving") or crop.scaling is not None:
        return None
    return next(iter(windows_of(height, width, crop.size, policy, turn, masks)), None)


def why_no_window(height: int, width: int, crop: Crop, masks: Masks) -> str:
    """Why masks leave no window of such a picture; "" if they leave one."""
    if masks and crop.scaling is not None:
        return "this detector sees a picture as a whole, of which no part can be masked"
    if windows_of(height, width, crop.size, masks=masks):
        return ""
    side = view_side(height, width, crop.size)
    return f"masks leave no window of {side} pixels a side in {width} × {height}"


def centre_alone(crop: Crop, policy: ViewPolicy = "centre") -> int | None:
    """Side of the centre view where nothing else of a picture is needed, else None."""
    return crop.size if policy == "centre" and crop.scaling is None else None


def crop_views(
    frame: U8, crop: Crop, policy: ViewPolicy = "centre", turn: int = 0, masks: Masks = ()
) -> tuple[U8, list[Window]]:
    """The views u8 [V, S, S, 3] of a frame u8 [H, W, 3], and the window of each in it.

    Masks are to leave one, see `why_no_window`.
    """
    if crop.scaling is not None:
        view, window = scaled_view(frame, crop.size, crop.scaling)
        return view[None], [window]
    windows = view_windows(frame, crop.size, policy, turn, masks)
    return cut(frame, windows, crop.size), windows


def scaled_view(frame: U8, size: int, scaling: Scaling) -> tuple[U8, Window]:
    """The centre u8 [size, size, 3] of a frame u8 [H, W, 3] after it was scaled.

    The size after scaling and the place of the centre are torchvision's (`Resize`, `CenterCrop`),
    by which such detectors were trained: halves of a pixel go to the even side. Of a picture more
    than ELONGATED times as long as it is wide, that much around the centre is scaled.

    Returns:
        The view, and the window of the frame that it shows, to the next whole pixels.
    """
    from PIL import Image

    most = ELONGATED * min(frame.shape[:2])
    above, before = (max(0, one - most) // 2 for one in frame.shape[:2])
    frame = frame[above : above + most, before : before + most]
    height, width = frame.shape[:2]
    side, short = scaling.side, min(height, width)
    tall, wide = (side if scaling.square else side * one // short for one in (height, width))
    method = Image.Resampling[scaling.filter.upper()]
    scaled = np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((wide, tall), method))
    top, left = (round((one - size) / 2) for one in (tall, wide))
    first_row, first_column = top * height // tall, left * width // wide
    window = Window(
        above + first_row,
        before + first_column,
        -(-(top + size) * height // tall) - first_row,
        -(-(left + size) * width // wide) - first_column,
    )
    return scaled[top : top + size, left : left + size], window


def view_corners(
    height: int, width: int, side: int, policy: SizePolicy = "centre", turn: int = 0
) -> list[tuple[int, int]]:
    """Row and column of the top left pixel of each window, in a picture of at least `side`.

    `centre` is one; `five` the four corners and the centre; `grid` as many as fit without
    overlapping, centred, and at most MAX_VIEWS. `moving` is one that depends on which picture of a
    stream it is: the first turn is the centre, and those that follow go over the whole picture, far
    from one to the next.
    """
    bottom, right = height - side, width - side
    centre = (bottom // 2, right // 2)
    if policy == "centre":
        return [centre]
    if policy == "moving":
        return [_place_of(bottom, right, side, turn) if turn else centre]
    if policy == "five":
        return [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
    if policy == "grid":
        rows = range((height % side) // 2, bottom + 1, side)
        columns = range((width % side) // 2, right + 1, side)
        count = len(rows) * len(columns)
        kept = min(count, MAX_VIEWS)
        places = (index * count // kept for index in range(kept))
        return [(rows[p // len(columns)], columns[p % len(columns)]) for p in places]
    raise UsageError(f"views {policy!r}: choose {', '.join(get_args(ViewPolicy))}")


def _place_of(bottom: int, right: int, side: int, turn: int) -> tuple[int, int]:
    """The corner of a turn from 1 on: as many as there are places lie over the whole picture."""
    rows, columns = -(-bottom // side) + 1, -(-right // side) + 1
    count = rows * columns
    # By steps of the golden section of all places, or the nearest that comes to each of them.
    step = next(s for s in range(round(0.618 * count), count + 2) if math.gcd(s, count) == 1)
    row, column = divmod(turn * step % count, columns)
    return bottom * row // max(1, rows - 1), right * column // max(1, columns - 1)


def frame_scores(frame: U8) -> I64:
    """The kernel's scores of the cells of a frame u8 [H, W, 3]: i64 [H / CELL, W / CELL], floors.

    A row of cells is to the kernel as many pictures of one cell, read where they lie.
    """
    rows, columns = frame.shape[0] // CELL, frame.shape[1] // CELL
    scores = np.zeros((rows, columns), np.int64)
    if columns:
        for row in range(rows):
            strip = frame[row * CELL : (row + 1) * CELL, : columns * CELL]
            cells = strip.reshape(CELL, columns, CELL, 3).transpose(1, 0, 2, 3)
            scores[row] = texture_patchify(cells, CELL, KeepRule("all")).scores[:, 0]
    return scores


def _covering(frame: U8, size: int, count: int, masks: Masks = ()) -> list[tuple[int, int]]:
    """Corners of up to `count` windows that cover most texture; none where there is none."""
    height, width = frame.shape[:2]
    inside = size // CELL  # cells of a window along a side
    rows, columns = (height - size) // CELL + 1, (width - size) // CELL + 1
    # Roots of integers below 2⁵² are rounded alike everywhere, so their floors are exact.
    worth = np.sqrt(frame_scores(frame)).astype(np.int64)
    free = np.ones((rows, columns), bool)
    for mask in masks:
        above, left = (max(0, (at - size) // CELL + 1) for at in (mask.row, mask.column))
        below, right = -(-(mask.row + mask.height) // CELL), -(-(mask.column + mask.width) // CELL)
        free[above:below, left:right] = False
    corners: list[tuple[int, int]] = []
    first = 0
    for _ in range(count if inside else 0):
        total = np.zeros((len(worth) + 1, worth.shape[1] + 1), np.int64)
        total[1:, 1:] = worth.cumsum(0).cumsum(1)
        after, before = slice(inside, None), slice(None, -inside)
        sums = total[after, after] - total[before, after] - total[after, before]
        sums = (sums + total[before, before])[:rows, :columns] * free
        row, column = divmod(int(sums.argmax()), sums.shape[1])
        shown = int(sums[row, column])
        first = first or shown
        if not shown or shown * WORTH_A_VIEW < first:
            break
        corners.append((row * CELL, column * CELL))
        worth[row : row + inside, column : column + inside] = 0
    return corners


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
    return cut(frame, view_windows(frame, size, policy), size)


def share_in(windows: Sequence[Window], height: int, width: int) -> float:
    """The share, 0 to 1, of a picture's pixels that lie in at least one of some windows."""
    at = np.array([(r, r + h, c, c + w) for r, c, h, w in windows])
    rows, columns = (np.array(sorted({*ends.flat})) for ends in (at[:, :2], at[:, 2:]))
    inside = np.zeros((len(rows) - 1, len(columns) - 1), bool)
    ends = np.column_stack([np.searchsorted(rows, at[:, :2]), np.searchsorted(columns, at[:, 2:])])
    for top, bottom, left, right in ends:
        inside[top:bottom, left:right] = True
    return float(np.diff(rows) @ inside @ np.diff(columns)) / (height * width)
