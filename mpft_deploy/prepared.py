"""A picture made ready for the network: which of its windows are judged, or why none is.

What screens, evaluates, calibrates and proves engines prepares pictures here, so that all of them
judge the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.fitness import FLAT, has_texture, too_small
from mpft_deploy.kernels import Patches, texture_patchify
from mpft_deploy.spec import DetectorSpec, Record, ViewPolicy
from mpft_deploy.views import (
    U8,
    Masks,
    Window,
    crop_views,
    cut,
    one_window,
    share_in,
    why_no_window,
)


class LookedAt(Record, frozen=True):
    """Which part of a picture a verdict rests on.

    Attributes:
        share: of its pixels, 0 to 1, that lie in at least one of the windows.
        windows: row, column, height and width of each, in the picture's own pixels.
    """

    share: float
    windows: tuple[Window, ...]


def looked_at(
    windows: list[Window], telling: npt.NDArray[np.bool_], size: tuple[int, int]
) -> LookedAt:
    """Where the views lie, of a picture of that size, whose logit counts."""
    counted = list(itertools.compress(windows, telling))
    return LookedAt(share=share_in(counted, *size), windows=tuple(counted))


@dataclass(frozen=True)
class Told:
    """What an engine found of a frame that it prepared itself; fields as of `Prepared`."""

    telling: npt.NDArray[np.bool_]
    looked_at: LookedAt
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A frame made ready for the engine.

    views: u8 [V, S, S, 3].
    windows: of each view in the picture, in its own pixels.
    size: height and width of the picture.
    patches: of every view.
    telling: bool [V], the views whose logit counts.
    reason: why no verdict can be given of it; "" if one can.
    """

    views: U8
    windows: list[Window]
    size: tuple[int, int]
    patches: Patches
    telling: npt.NDArray[np.bool_]
    reason: str = ""

    @property
    def looked_at(self) -> LookedAt:
        """Where the views lie whose logit counts."""
        return looked_at(self.windows, self.telling, self.size)

    def within(self, box: Window, size: tuple[int, int]) -> Prepared:
        """The same of a larger picture, of that height and width, which has this one at a box."""
        windows = [
            one._replace(row=one.row + box.row, column=one.column + box.column)
            for one in self.windows
        ]
        return replace(self, windows=windows, size=size)

    def cells(self) -> list[tuple[int, int, int]]:
        """Row, column and side of each cell that is seen, in the picture's own pixels."""
        columns = round(self.patches.scores.shape[1] ** 0.5)
        return [
            (top + row * tall // columns, left + column * wide // columns, max(1, tall // columns))
            for (top, left, tall, wide), seen in zip(
                self.windows, self.patches.positions.tolist(), strict=True
            )
            for row, column in (divmod(position, columns) for position in seen)
        ]


def turn_of(digest: str) -> int:
    """The turn of a picture of no stream, by the SHA-256 of its pixels.

    Where windows move, many such pictures are then judged by as many places as frames are.
    """
    return int(digest[:8], 16)


def prepare(
    spec: DetectorSpec,
    frame: U8,
    policy: ViewPolicy = "centre",
    whole: tuple[int, int] | None = None,
    turn: int = 0,
    masks: Masks = (),
) -> Prepared:
    """Cut the views of a frame and pack their cells; needs no engine, and any thread may do it.

    Args:
        frame: u8 [H, W, 3] RGB.
        policy: which windows are looked at.
        whole: height and width of the picture, where `frame` is its one window alone, as
            `read_picture` and streams decode it; see `one_window`.
        turn: which picture of its stream it is, from 0; windows that move follow from it.
        masks: of the picture, which no window touches.

    Raises:
        UsageError: the frame is not u8 [H, W, 3] with H and W of 1 or more, or no such window of
            such a picture, or views that such a detector does not have, or masks leave no window.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise UsageError(f"a frame must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
    spec.check_views(policy)
    crop = spec.crop
    height, width = whole or frame.shape[:2]
    if masks and (why := why_no_window(height, width, crop, masks)):
        raise UsageError(why)
    reason = too_small(crop, height, width)
    window = one_window(height, width, crop, policy, turn, masks)
    if whole is None:
        # Of what is not judged, one view is enough.
        cut_views, windows = crop_views(frame, crop, "centre" if reason else policy, turn, masks)
    elif window is not None and frame.shape[:2] == window[2:]:
        windows = [window]
        cut_views = cut(frame, [Window(0, 0, *window[2:])], crop.size)
    else:
        raise UsageError(
            f"a frame {list(frame.shape)} is not the one window of {height} × {width} pixels "
            f"that views {policy} judge"
        )
    return prepare_views(spec, cut_views, windows, (height, width))


def prepare_views(
    spec: DetectorSpec, views: U8, windows: Sequence[Window], size: tuple[int, int]
) -> Prepared:
    """Pack the cells of views that were cut before; see `Prepared`."""
    patches = texture_patchify(views, spec.patch, spec.keep_rule, spec.keep_seed)
    telling = has_texture(spec.crop, views, patches.scores, spec.patch)
    found = judgeable(telling, too_small(spec.crop, *size))
    return Prepared(views, list(windows), size, patches, *found)


def judgeable(
    telling: npt.NDArray[np.bool_], reason: str = ""
) -> tuple[npt.NDArray[np.bool_], str]:
    """The views whose logit counts, all if none tells, and why no verdict can be given, or ""."""
    if telling.any():
        return telling, reason
    return np.ones_like(telling), reason or FLAT
