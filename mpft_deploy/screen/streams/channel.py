"""A source and what its frames have told so far: a decision of its own for each of its regions."""

from __future__ import annotations

from dataclasses import dataclass

from mpft_deploy.fitness import too_small
from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.evidence.ring import Looks
from mpft_deploy.screen.screener import Screener
from mpft_deploy.screen.streams.areas import Areas, Box, masks_in, pixels_of
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.decoding import Decoding
from mpft_deploy.screen.streams.novelty import I32
from mpft_deploy.screen.streams.pictures import Kept
from mpft_deploy.screen.streams.pixels import Cutter, Shot
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.spec import Crop, StreamVerdict
from mpft_deploy.views import Masks, Window, why_no_window

STRENGTH: dict[StreamVerdict, int] = {"no sign": 0, "unsure": 1, "generated": 2}
"""Of a source's verdicts, the strongest of its regions' is its own."""

ONE = Window(0, 0, 1, 1)
"""Before the first picture."""


@dataclass
class Stream:
    """What is decided by itself: a region of a source, or all of its picture.

    region: its name; empty for all.
    box: its place, in fractions of the picture.
    window, masks: the same in pixels of pictures of the size that come now, and what masks hide.
    blocked: why none of it can be judged; empty if it can.
    looks: how many of its frames were judged, where the window moves from one to the next.
    judged: scores of what was judged last, and when that was.
    """

    region: str
    box: Box
    decision: StreamDecision
    window: Window = ONE
    masks: Masks = ()
    blocked: str = ""
    looks: int = 0
    judged: tuple[I32, float] | None = None
    probability: float | None = None

    def cut(self, shot: Shot, turn: int, screener: Screener, cutter: Cutter) -> Prepared:
        """Its views of a picture; only one window is converted where that is all it takes."""
        row, column, height, width = self.window
        window = screener.window(height, width, turn, self.masks)
        if window is None:
            pixels = shot.whole()[row : row + height, column : column + width]
            prepared = screener.prepare(pixels, None, turn, self.masks)
        else:
            place = window._replace(row=row + window.row, column=column + window.column)
            pixels = shot.cut(place, cutter)
            prepared = screener.prepare(pixels, (height, width), turn, self.masks)
        return prepared.within(self.window, (shot.height, shot.width))


@dataclass
class Channel:
    """A source, its streams, and what was seen of it.

    served: the turn in which it had its last one.
    shown: the frame that was judged last, if it is to be shown.
    faulty: whether a frame could not be cut, which is told once.
    sides: of its pictures.
    kept: what was judged in the last seconds, where evidence is wanted.
    decoding: its next frame, where that waited coded.
    """

    source: Source
    areas: Areas
    streams: tuple[Stream, ...] = ()
    served: int = 0
    shown: Kept | None = None
    faulty: bool = False
    sides: tuple[int, int] | None = None
    age: float | None = None
    kept: Looks | None = None
    decoding: Decoding | None = None

    @property
    def lead(self) -> Stream:
        """The stream whose verdict is the source's: the strongest, with the most evidence."""
        return max(
            self.streams, key=lambda one: (STRENGTH[one.decision.verdict], one.decision.evidence)
        )

    @property
    def trouble(self) -> str:
        """What of it cannot be judged, and why."""
        return "; ".join(
            f"{one.region}: {one.blocked}" if one.region else one.blocked
            for one in self.streams
            if one.blocked
        )

    def fit(self, crop: Crop, height: int, width: int) -> None:
        """Find the places of all areas in pictures of another size."""
        self.sides = (height, width)
        for stream in self.streams:
            stream.window = box = pixels_of(stream.box, height, width)
            stream.masks = masks_in(self.areas.masks, box, height, width)
            small = too_small(crop, box.height, box.width) if stream.region else ""
            stream.blocked = small or why_no_window(box.height, box.width, crop, stream.masks)
            stream.judged = None
