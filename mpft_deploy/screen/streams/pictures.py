"""Pictures of judged frames, for page and snapshots: made once, and only if somebody wants them.

A decoded frame is touched by the engine's thread alone; others get pictures that nobody changes.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mpft_deploy.prepared import LookedAt, Prepared
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.records import Picture, StreamEvent
from mpft_deploy.views import share_in

logger = logging.getLogger(__name__)

MOST = 16
"""Pictures of frames that decided which wait to be taken."""


@dataclass(frozen=True)
class Kept:
    """A judged frame that nobody asked for yet, what was judged of it, and when that was."""

    shot: Shot
    parts: Sequence[Prepared]
    time: float

    def picture(self, source: str) -> Picture | None:
        """What is shown of it; None, which is logged, if a library fails at it."""
        try:
            pixels = self.shot.whole().view()
        except Exception:
            logger.exception("%s: a judged frame gave no picture", source)
            return None
        pixels.flags.writeable = False  # many threads read it
        windows = tuple(window for part in self.parts for window in part.looked_at.windows)
        share = share_in(windows, *pixels.shape[:2])  # regions may overlap
        cells = [cell for part in self.parts for cell in part.cells()]
        return Picture(pixels, self.time, cells, LookedAt(share=share, windows=windows))


def of_part(picture: Picture, part: Prepared) -> Picture:
    """The same picture as that of one part, a region for instance."""
    return msgspec.structs.replace(picture, cells=part.cells(), looked_at=part.looked_at)


class Evidence:
    """Pictures of the frames that decided, until whoever keeps them takes them."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self.lock = threading.Lock()
        """Held while an event is made and its picture put: whoever gets the one finds the other."""

    def put(self, event: StreamEvent, picture: Picture) -> None:
        """Keep a picture, under the lock; beyond MOST the oldest goes."""
        self._pictures[event.id] = picture
        while len(self._pictures) > MOST:
            self._pictures.popitem(last=False)

    def take(self, event: StreamEvent) -> Picture | None:
        """The picture of an event, once."""
        with self.lock:
            return self._pictures.pop(event.id, None)
