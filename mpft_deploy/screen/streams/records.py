"""What passes between screening streams and telling of it: events, states, and two protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.areas import Box, stream_name
from mpft_deploy.spec import StreamVerdict, Verdict

State = Literal["connecting", "live", "stalled", "frozen", "down", "ended", "paused"]
Reason = Literal["evidence", "scene change", "reconnect", "nothing to judge", "restart", "drift"]


class _Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True, omit_defaults=True):
    """What every event tells.

    Attributes:
        id: unique; ids of one process sort in the order of its events.
        source: the source's name; never an address with credentials.
        time: of the event, seconds since the Unix epoch, UTC.
        region: of the source's picture, by which alone it is; empty where it is of the whole.
    """

    id: str
    source: str
    time: float
    region: str = ""

    @property
    def stream(self) -> str:
        """What is decided by itself: the source, or "source/region"."""
        return stream_name(self.source, self.region)


class FrameEvent(_Event, frozen=True, tag="frame", kw_only=True):
    """The verdict of one frame.

    Attributes:
        captured: when the frame was received, seconds since the Unix epoch, UTC.
        age_ms: from then to this verdict, by a monotonic clock.
        verdict, probability, logit: of the frame alone.
        stream_verdict, evidence: of the stream so far; evidence is a log-likelihood ratio, above 0
            for generated.
        unjudged: why the frame says nothing, such as that it is featureless; empty if it does.
    """

    captured: float
    age_ms: float
    verdict: Verdict
    probability: float
    logit: float
    stream_verdict: StreamVerdict
    evidence: float
    unjudged: str = ""


class StreamEvent(_Event, frozen=True, tag="stream", kw_only=True):
    """A stream's verdict changed.

    Attributes:
        verdict, previous: now and before.
        evidence: log-likelihood ratio, above 0 for generated.
        frames: how many frames the verdict rests on.
        independent: as many independent frames these are worth.
        seconds: stream time that they span.
        reason: why it changed. "drift": the camera does not show any more what it was taught by,
            and is decided afresh; here alone it may have been unsure before.
        snapshot: file of the frame that decided, where snapshots are kept.
        package: file of the evidence, where that is kept; it is there some seconds later.
        looked_at: of the frame that decided, the windows that were judged and their share of it.
        size: height and width of that frame.
        source_verdict: of the whole source, where the event is of a region: the strongest of its
            regions' verdicts, "generated" before "unsure" before "no sign".
    """

    verdict: StreamVerdict
    previous: StreamVerdict
    evidence: float
    frames: int
    seconds: float
    reason: Reason
    independent: float = 0.0
    snapshot: str = ""
    package: str = ""
    looked_at: LookedAt | None = None
    size: tuple[int, int] | None = None
    source_verdict: StreamVerdict | None = None


class SourceEvent(_Event, frozen=True, tag="source", kw_only=True):
    """A source changed its state; reason is free of credentials, retry_in in seconds.

    "removed": it is screened no more, or under another address; nothing of it comes later but from
    a new source of that name. Of a region: it is looked at no more by itself.
    """

    state: Literal[State, "removed"]
    previous: State
    reason: str = ""
    retry_in: float | None = None


Event: TypeAlias = FrameEvent | StreamEvent | SourceEvent


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided of a stream right now.

    Attributes:
        verdict, evidence: of the stream.
        independent: as many independent frames it rests on.
        undecided: why the verdict is unsure, in words; empty if it is not.
        looking: whether it is unsure only for want of evidence, which may still come.
        looked_for: seconds of stream that the evidence rests on.
        generated_from, no_sign_from: evidence from which on the verdict may be that; None if
            nobody measured what the detector is worth.
        reach: evidence that an average generated stream gets to, however long one looks; below
            `generated_from` on a camera that was not taught, where the detector is too unsteady.
        drifted: whether its camera does not show any more what it was taught by.
        probability: of the last screened frame.
    """

    verdict: StreamVerdict
    evidence: float
    probability: float | None
    independent: float = 0.0
    undecided: str = ""
    looking: bool = False
    looked_for: float = 0.0
    generated_from: float | None = None
    no_sign_from: float | None = None
    reach: float | None = None
    drifted: bool = False


class RegionStatus(StreamStatus, frozen=True, kw_only=True):
    """A region; box: left, top, width and height, in fractions of the picture."""

    region: str
    box: Box


class SourceStatus(StreamStatus, frozen=True, kw_only=True):
    """How a source is right now.

    With regions, what is decided is that of the one with the strongest verdict: "generated" before
    "unsure" before "no sign", and of the same ones that with the most evidence.

    Attributes:
        source, address: name, and address without credentials.
        fps_in, fps_screened: frames received and judged a second, over the last seconds.
        frame_age_ms: of the last verdict.
        received, screened, gated: frames since the start.
        dropped: frames by cause since the start.
        reason: why it is not live, or what of it is not judged.
        retry_in: seconds until a source that is down is tried again; None while it is tried, or
            where it waits for a hanging thread.
        overload: how far the machine is behind, with all sources, and what helps; else empty.
        region: whose verdict the source has; empty without regions.
        regions: each by itself.
        masks: left, top, width and height of what is not looked at, in fractions of the picture.
    """

    source: str
    address: str
    state: State
    fps_in: float
    fps_screened: float
    frame_age_ms: float | None
    received: int
    screened: int
    gated: int
    dropped: Mapping[str, int]
    reconnects: int
    width: int | None
    height: int | None
    codec: str
    reason: str
    retry_in: float | None
    overload: str = ""
    region: str = ""
    regions: tuple[RegionStatus, ...] = ()
    masks: tuple[Box, ...] = ()

    @property
    def streams(self) -> list[str]:
        """Names of it and of its regions."""
        return [self.source, *(stream_name(self.source, one.region) for one in self.regions)]

    @property
    def stream(self) -> str:
        """Whose verdict it has: the source, or "source/region"."""
        return stream_name(self.source, self.region)


class Picture(msgspec.Struct, frozen=True):
    """The last judged frame of a source.

    Attributes:
        pixels: u8 [H, W, 3] RGB, which nobody changes.
        time: of its verdict, seconds since the Unix epoch.
        cells: row, column of the top left corner and side, in pixels, of each cell that was seen.
        looked_at: the windows that were judged, and their share of the frame.
    """

    pixels: npt.NDArray[np.uint8]
    time: float
    cells: list[tuple[int, int, int]]
    looked_at: LookedAt = LookedAt(share=0.0, windows=())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


class Sink(Protocol):
    """Where events go; this one takes none, and has nothing to deliver.

    Calls come from one thread and never wait for anything outside.
    """

    name: str

    def send(self, event: Event) -> None:
        """Take an event; what cannot be delivered now is kept or counted, never raised."""
        return

    def close(self, timeout: float) -> None:
        """Deliver what is left, for at most so many seconds; the rest is kept or counted."""
        return


class Monitor(Protocol):
    """What a dashboard and metrics may ask of a running screener, from any thread."""

    @property
    def lost_events(self) -> int:
        """Events that no sink took in time, since the start."""

    def statuses(self) -> list[SourceStatus]:
        """One a source, in the order of the configuration."""

    def picture(self, source: str) -> Picture | None:
        """The last judged frame; None before the first. A KeyError for an unknown name."""

    def alive(self) -> bool:
        """Whether every thread still works that screening and telling need."""

    def ready(self) -> bool:
        """Whether the engine is loaded and a source is live, if one is to be."""
