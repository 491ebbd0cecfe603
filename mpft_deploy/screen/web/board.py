"""The live view, prepared once for everybody: many visitors cost as much as one."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import asdict, replace
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.picture import encoded
from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    Monitor,
    Picture,
    SourceEvent,
    SourceStatus,
)
from mpft_deploy.screen.tell.config import Live
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.stats import Counted
from mpft_deploy.screen.web.asked import Asked
from mpft_deploy.screen.web.operations import MissingError, operation
from mpft_deploy.views import Window

if TYPE_CHECKING:
    from PIL import Image

HISTORY = 300
"""Points of evidence a source keeps, one a second at most."""

FRESH = 0.5
"""Seconds for which an overview is good for everybody."""

TICK = 1.0
"""Seconds between two overviews of a live connection."""

PICTURE_SECONDS = 1.0
"""A source's picture is encoded no more often than this."""

FRAMES = 2
"""Whole frames that visitors have made at a time, at most."""

LONGER_SIDE = 640
"""Pixels of a picture's longer side."""

SMALL = 320
"""Pixels of a preview's longer side."""

QUALITY = 82

MARGIN = 16
"""Pixels around the cells in a close view."""


class Shown(msgspec.Struct, frozen=True):
    """A picture as the page gets it.

    Attributes:
        time: of its verdict, seconds since the Unix epoch.
        width, height: in which `cells` and `windows` are given; the JPEG may be smaller.
        jpeg: file, base64.
        cells: row, column and side of each cell that the detector saw.
        windows: row, column, height and width of what was judged.
        share: of the whole frame's pixels, 0 to 1, that lie in those.
    """

    time: float
    width: int
    height: int
    jpeg: str
    cells: list[tuple[int, int, int]]
    windows: list[Window]
    share: float


class SourceNow(SourceStatus, frozen=True, kw_only=True):
    """A source.

    Attributes:
        picture_time: of the newest verdict of a frame, seconds since the Unix epoch.
        since: from when on the stream has its verdict; None if it had no other.
        live: page of another server that shows the stream as it is; empty where there is none.
        group: that it is in, or "".
    """

    picture_time: float | None
    since: float | None
    live: str
    group: str = ""


class NodeNow(msgspec.Struct, frozen=True):
    """Another node.

    Attributes:
        url: of its page.
        problem: why it tells nothing; else empty.
        sources: its own, as it tells of them.
    """

    node: str
    url: str
    problem: str = ""
    sources: list[SourceNow] = []


class SinkNow(msgspec.Struct, frozen=True):
    """Who is told, or where it is kept; see `SinkStats`."""

    name: str
    waiting: int = 0
    refused: int = 0
    problem: str = ""
    since: float | None = None


class Overview(msgspec.Struct, frozen=True):
    """The screener as it is now.

    Attributes:
        time: seconds since the Unix epoch.
        changes: counts up with each event and review.
        evidence: whether it can be kept.
        nodes: others whose sources are shown here, too.
        sinks: by which it tells and keeps events, a moment ago.
    """

    time: float
    alive: bool
    ready: bool
    lost_events: int
    changes: int
    evidence: bool
    sources: list[SourceNow]
    nodes: list[NodeNow] = []
    sinks: list[SinkNow] = []


class _Encoded(NamedTuple):
    """A picture, when it was encoded (monotonic), and the verdict that was newest then."""

    made: float
    judged: float | None
    shown: Shown


class Board:
    """What is now. `note` is called by the pipeline; all else by visitors.

    Args:
        sinks: that are looked at, too.
        nodes: others whose sources are shown.
        live: where streams are shown as they are.
        groups: of sources that are in one.
        places: live connections at a time.
    """

    def __init__(
        self,
        monitor: Monitor,
        sinks: Sinks,
        nodes: Callable[[], list[NodeNow]],
        live: Live | None,
        groups: Callable[[], Mapping[str, str]],
        places: int,
    ) -> None:
        self._monitor, self._sinks, self._live, self._groups = monitor, sinks, live, groups
        self._nodes, self._places = nodes, places
        self._told = Asked[list[SinkNow]](
            [], lambda _: run_in_threadpool(self._look_at_sinks), stays=True
        )
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._frames = threading.BoundedSemaphore(FRAMES)
        self._history: dict[str, deque[list[float]]] = {}
        self._judged: dict[str, float] = {}  # time of each source's newest verdict
        self._turned: dict[str, float] = {}  # time of each stream's newest verdict
        self._overview: tuple[float, Overview] | None = None
        self._pictures: dict[str, dict[bool, _Encoded]] = {}

    def note(self, event: Event) -> None:
        """Keep what an event tells of its source; a moment's work."""
        with self._lock:
            if isinstance(event, SourceEvent):
                if event.state == "removed":
                    self._forget(lambda name: name == event.stream)
                return
            points = self._history.setdefault(event.stream, deque(maxlen=HISTORY))
            probability = points[-1][2] if points else 0.5
            if isinstance(event, FrameEvent):
                self._judged[event.source] = event.time
                probability = event.probability
            else:
                self._turned[event.stream] = event.time
            at = event.time
            if points and abs(at - points[-1][0]) < 1.0:  # in place of one of the same second
                at = points.pop()[0]
            points.append([at, round(event.evidence, 3), round(probability, 4)])

    @operation("GET", "/sources")
    async def sources(self, own: bool = False) -> Overview:
        """Every source as it is now; `own`: without those of other nodes."""
        overview = replace(self.overview(), sinks=self._told.look())
        return overview if own else replace(overview, nodes=self._nodes())

    @operation("GET", "/history")
    async def history(self) -> dict[str, list[list[float]]]:
        """Time, evidence and probability of the last minutes, by source."""
        with self._lock:
            return {name: list(points) for name, points in self._history.items()}

    @operation("GET", "/stream", "text/event-stream")
    async def stream(self, still: Callable[[], bool]) -> Response:
        """Server-sent events: `overview`, as of /sources, each second."""
        if self._places <= 0:
            raise HTTPException(503, "too many pages are open")
        return StreamingResponse(self._follow(still), media_type="text/event-stream")

    async def _follow(self, still: Callable[[], bool]) -> AsyncIterator[bytes]:
        if self._places <= 0:  # others asked meanwhile; a place is taken no sooner than here
            return
        self._places -= 1
        try:
            while still():  # he may be logged out meanwhile
                body = msgspec.json.encode(await self.sources())
                yield b"event: overview\ndata: %b\n\n" % body
                await asyncio.sleep(TICK)
        finally:
            self._places += 1

    def overview(self) -> Overview:
        """This node's sources as they are now."""
        now = time.monotonic()
        if self._overview is None or now - self._overview[0] >= FRESH:
            self._overview = (now, self._look())
        return self._overview[1]

    def _look(self) -> Overview:
        # Asking for every picture would convert every frame: the newest verdict tells enough.
        statuses = self._monitor.statuses()
        groups = self._groups()
        known = {name for status in statuses for name in status.streams}
        with self._lock:
            self._forget(lambda name: name not in known)
            sources = [
                SourceNow(
                    **asdict(status),
                    picture_time=self._judged.get(status.source),
                    since=self._turned.get(status.stream),
                    live="" if self._live is None else self._live.page(status.source),
                    group=groups.get(status.source, ""),
                )
                for status in statuses
            ]
        return Overview(
            time=time.time(),
            alive=self._monitor.alive(),
            ready=self._monitor.ready(),
            lost_events=self._monitor.lost_events,
            changes=self._sinks.store.changes,
            evidence=self._sinks.evidence is not None,
            sources=sources,
        )

    def _look_at_sinks(self) -> list[SinkNow]:
        found = []
        for sink in self._sinks:
            if isinstance(sink, Counted):
                try:
                    now = sink.stats()
                except EnvironmentLacksError as error:  # a store that cannot even be read
                    found.append(SinkNow(sink.name, problem=str(error)))
                    continue
                told = (now.waiting, now.refused, now.problem, now.since)
                found.append(SinkNow(sink.name, *told))
        return found

    @operation("GET", "/picture")
    def picture(self, source: str, near: bool = False) -> Shown | None:
        """The frame of a source that was judged last, and what the detector looked at; or null.

        With `near` only what surrounds the cells that it saw, pixel for pixel if that fits.
        """
        if (shown := self._encoded(source, near=near)) is not None:
            return shown
        with self._frames:
            if (shown := self._encoded(source, near=near)) is not None:  # by another meanwhile
                return shown
            judged = self._judged.get(source)
            try:
                picture = self._monitor.picture(source)  # for seconds, if its reader hangs
            except KeyError:
                raise MissingError("there is no such source") from None
            if picture is None:
                return None
            with self._encoding:  # one at a time: visitors get one core at the most
                if (shown := self._encoded(source, near=near)) is not None:
                    return shown
                shown = _encode(picture, near=near)
                encoded = _Encoded(time.monotonic(), judged, shown)
                self._pictures.setdefault(source, {})[near] = encoded
                return shown

    def _encoded(self, source: str, *, near: bool) -> Shown | None:
        """What was encoded already, if it is new enough."""
        kept, judged = self._pictures.get(source, {}).get(near), self._judged.get(source)
        if kept is not None and (
            (judged is not None and judged == kept.judged)
            or time.monotonic() - kept.made < PICTURE_SECONDS
        ):
            return kept.shown
        return None

    def _forget(self, gone: Callable[[str], bool]) -> None:
        """Keep nothing of sources that are gone; under the lock."""
        for kept in (self._history, self._judged, self._turned, self._pictures):
            for source in filter(gone, list(kept)):
                del kept[source]


@lru_cache(256)
def thumbnail(path: Path) -> bytes:
    """A preview of a JPEG file, of at most SMALL pixels a side."""
    from PIL import Image

    with Image.open(path) as image:
        image.draft("RGB", (SMALL, SMALL))  # decodes no more than is shown
        return encode_jpeg(image, SMALL)


def encode_jpeg(image: Image.Image, side: int) -> bytes:
    """A JPEG file of a picture, which is shrunk to so many pixels a side at most."""
    image.thumbnail((side, side))
    return encoded(image.convert("RGB"), quality=QUALITY)


def _encode(picture: Picture, *, near: bool) -> Shown:
    from PIL import Image

    pixels, cells, windows = picture.pixels, picture.cells, picture.looked_at.windows
    if near and cells:
        top = max(0, min(row for row, _, _ in cells) - MARGIN)
        left = max(0, min(column for _, column, _ in cells) - MARGIN)
        bottom = max(row + side for row, _, side in cells) + MARGIN
        right = max(column + side for _, column, side in cells) + MARGIN
        pixels = pixels[top:bottom, left:right]
        cells = [(row - top, column - left, side) for row, column, side in cells]
        windows = tuple(Window(row - top, column - left, *size) for row, column, *size in windows)
    height, width = pixels.shape[:2]
    jpeg = base64.b64encode(encode_jpeg(Image.fromarray(pixels), LONGER_SIDE)).decode("ascii")
    share = picture.looked_at.share
    return Shown(picture.time, width, height, jpeg, cells, list(windows), share)
