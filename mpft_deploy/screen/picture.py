"""What a report shows of an item: a thumbnail, and the view with the cells the detector saw."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mpft_deploy.images import U8
from mpft_deploy.prepared import Prepared
from mpft_deploy.views import Window
from mpft_deploy.weights import F32

if TYPE_CHECKING:
    import PIL.Image

THUMBNAIL = 320
"""Longer side of a thumbnail, in pixels."""


@dataclass(frozen=True)
class Picture:
    """A frame and one of its views, as JPEG files.

    Attributes:
        thumbnail: the frame, scaled down.
        view: of those that count, the view that spoke most for "generated", pixel for pixel.
        number, of: which view that is, from 1, and of how many.
        logit: of that view.
        size: height and width of the frame.
        windows: of each view in it.
        side: of a view, in pixels; also the coordinates of `seen`.
        seen: the cells that the detector saw, as (row, column) of their top left pixels.
        cell: side of a cell, in pixels.
    """

    thumbnail: bytes
    view: bytes
    number: int
    of: int
    logit: float
    size: tuple[int, int]
    windows: list[Window]
    side: int
    seen: list[tuple[int, int]]
    cell: int

    @property
    def unseen(self) -> str:
        """Path over the view, to be filled by the even-odd rule: all but the cells seen."""
        cell, side = self.cell, self.side
        holes = "".join(f"M{c} {r}h{cell}v{cell}h-{cell}z" for r, c in self.seen)
        return f"M0 0h{side}v{side}h-{side}z{holes}"


def thumbnail(frame: U8) -> bytes:
    """A JPEG of a frame, u8 [H, W, 3], of at most THUMBNAIL pixels a side."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return encoded(image, quality=80)


def draw(small: bytes, prepared: Prepared, view_logits: F32) -> Picture:
    """Picture of a judged frame, of which `small` is the thumbnail."""
    from PIL import Image

    chosen = int(np.argmax(np.where(prepared.telling, view_logits, -np.inf)))
    side = prepared.views.shape[1]
    cells = prepared.patches.scores.shape[1]
    columns = round(cells**0.5)
    cell = side // columns
    positions = prepared.patches.positions[chosen]
    return Picture(
        thumbnail=small,
        view=encoded(Image.fromarray(prepared.views[chosen]), quality=85),
        number=chosen + 1,
        of=len(prepared.views),
        logit=float(view_logits[chosen]),
        size=prepared.size,
        windows=prepared.windows,
        side=side,
        seen=[(int(p) // columns * cell, int(p) % columns * cell) for p in positions],
        cell=cell,
    )


def encoded(image: PIL.Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """A file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
