"""Pictures of judged frames, for page and snapshots: made if somebody wants them, and not kept.

They are as large as frames, and who asks for those of many cameras must not cost a frame of each.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mpft_deploy.prepared import LookedAt, Prepared
from mpft_deploy.screen.streams.attempt import SourceLostError
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.records import Picture
from mpft_deploy.views import share_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A judged frame, what was judged of it, and when that was."""

    shot: Shot
    parts: Sequence[Prepared]
    time: float

    def picture(self, source: str) -> Picture | None:
        """What is shown of it.

        None if the process is gone that had it, or a library fails at it, which is logged.
        """
        try:
            pixels = self.shot.whole()
        except SourceLostError:
            return None
        except Exception:
            logger.exception("%s: a judged frame gave no picture", source)
            return None
        windows = tuple(window for part in self.parts for window in part.looked_at.windows)
        share = share_in(windows, *pixels.shape[:2])  # regions may overlap
        cells = [cell for part in self.parts for cell in part.cells()]
        return Picture(pixels, self.time, cells, LookedAt(share=share, windows=windows))


def of_part(picture: Picture, part: Prepared) -> Picture:
    """The same picture as that of one part, a region for instance."""
    return msgspec.structs.replace(picture, cells=part.cells(), looked_at=part.looked_at)
