"""A source and what its frames have told so far: a decision of its own for each of its regions.

What is told of frames and streams is told from here: verdicts, as events, with the pictures that
are asked for. A picture is as large as a frame, and who asks for those of many cameras must not
cost a frame of each: it is made if somebody wants it, and not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from mpft_deploy.files import printable
from mpft_deploy.fitness import too_small
from mpft_deploy.prepared import LookedAt, Prepared
from mpft_deploy.screen.evidence.ring import Looks
from mpft_deploy.screen.screener import Judged, Screener
from mpft_deploy.screen.streams.areas import Areas, Box, masks_in, pixels_of
from mpft_deploy.screen.streams.attempt import SourceLostError
from mpft_deploy.screen.streams.decision import Change, StreamDecision
from mpft_deploy.screen.streams.decoding import Decoding
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.records import FrameEvent, Picture, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.runs import I32
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.spec import Crop, StreamVerdict
from mpft_deploy.views import Masks, Window, share_in, why_no_window

logger = logging.getLogger(__name__)

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

    def cut(self, shot: Shot, turn: int, screener: Screener) -> Prepared:
        """Its views of a picture; only one window is converted where that is all it takes."""
        row, column, height, width = self.window
        window = screener.window(height, width, turn, self.masks)
        if window is None:
            pixels = shot.whole()[row : row + height, column : column + width]
            prepared = screener.prepare(pixels, None, turn, self.masks)
        else:
            place = window._replace(row=row + window.row, column=column + window.column)
            pixels = shot.cut(place)
            prepared = screener.prepare(pixels, (height, width), turn, self.masks)
        return prepared.within(self.window, (shot.height, shot.width))


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


@dataclass(eq=False)
class Channel:
    """A source, its streams, and what was seen of it; changed by the engine's thread alone.

    emitter: who is told.
    pictured: stream verdicts whose events come with the picture that decided.
    kept: what was judged in the last seconds, where evidence is wanted.
    served: the turn in which it had its last one.
    shown: the frame that was judged last, if it is to be shown.
    faulty: whether a frame could not be cut, which is told once.
    sides: of its pictures.
    decoding: its next frame, where that waited coded.
    """

    source: Source
    areas: Areas
    emitter: Emitter
    pictured: Collection[StreamVerdict] = ()
    kept: Looks | None = None
    streams: tuple[Stream, ...] = ()
    served: int = 0
    shown: Kept | None = None
    faulty: bool = False
    sides: tuple[int, int] | None = None
    age: float | None = None
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
        """Pictures have another size than before: each stream begins afresh at its new place."""
        for stream in self.streams:
            self.tell(stream, stream.decision.restart("scene change"))
        self.sides = (height, width)
        for stream in self.streams:
            stream.window = box = pixels_of(stream.box, height, width)
            stream.masks = masks_in(self.areas.masks, box, height, width)
            small = too_small(crop, box.height, box.width) if stream.region else ""
            stream.blocked = small or why_no_window(box.height, box.width, crop, stream.masks)
            stream.judged = None
        if self.trouble:
            name = printable(self.source.name)
            logger.warning("%s: not all of it is judged: %s", name, self.trouble)

    def decide(
        self, stream: Stream, received: float, time: float, prepared: Prepared, judged: Judged
    ) -> None:
        """What a judged frame means for a stream.

        Args:
            received: when that came, by the monotonic clock.
            time: the same by the clock that tells the date.
        """
        decision, judgement = stream.decision, judged.judgement
        # By the centre: a window that moves shows another texture of a picture that stands still.
        scores = stream.judged[0] if stream.judged else prepared.patches.scores
        changes = decision.add(judgement.logit, scores, received, judgement.reason)
        stream.probability = judgement.probability
        event = self.emitter.emit(
            FrameEvent,
            source=self.source.name,
            region=stream.region,
            captured=time,
            age_ms=1e3 * (self.age or 0.0),
            verdict=decision.of_frame(judgement.verdict, judgement.probability),
            probability=judgement.probability,
            logit=judgement.logit,
            stream_verdict=decision.verdict,
            evidence=decision.evidence,
            unjudged=judgement.reason,
        )
        if self.kept is not None:
            self.kept.add(event, received, prepared, judged.view_logits)
        self.tell(stream, changes, prepared)

    def restart(self, gone: Collection[str] = ()) -> None:
        """Forget what was seen of it, and tell which of its regions are gone, or all ("")."""
        for stream in self.streams:
            self.tell(stream, stream.decision.restart("restart"))
        for region in sorted(gone, reverse=True):  # the source itself comes last
            self.emitter.emit(
                SourceEvent,
                source=self.source.name,
                region=region,
                state="removed",
                previous=self.source.state,
            )

    def tell(
        self, stream: Stream, changes: Sequence[Change], prepared: Prepared | None = None
    ) -> None:
        """A stream's verdict changed: as events, with the pictures that are asked for.

        Args:
            prepared: what was judged of the frame that decided.
        """
        for change in changes:
            picture, shown = None, self.shown
            if change.verdict in self.pictured and shown is not None:
                parts = shown.parts if prepared is None else [prepared]
                picture = replace(shown, parts=parts).picture(self.source.name)
            self.emitter.emit(
                StreamEvent,
                picture,
                source=self.source.name,
                region=stream.region,
                **msgspec.structs.asdict(change),
                looked_at=picture and picture.looked_at,
                size=picture and picture.size,
                source_verdict=self.lead.decision.verdict if stream.region else None,
            )
