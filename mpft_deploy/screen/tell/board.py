"""What the dashboard shows, prepared once for everybody: many visitors cost as much as one."""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    Monitor,
    Picture,
    SourceEvent,
    StreamEvent,
)
from mpft_deploy.screen.tell.snapshots import encode_jpeg

EVENTS = 500
"""Events that a newcomer can still see."""

HISTORY = 300
"""Points of evidence a source keeps, one a second at most."""

FRESH = 0.5
"""Seconds for which an overview is good for everybody."""

PICTURE_SECONDS = 1.0
"""A source's picture is encoded no more often than this."""

LONGER_SIDE = 640
"""Pixels of a picture's longer side."""

MARGIN = 16
"""Pixels around the cells in a close view."""

Cells = list[tuple[int, int, int]]


class Shown(msgspec.Struct, frozen=True):
    """A picture as the page gets it.

    Attributes:
        time: of its verdict, seconds since the Unix epoch.
        width, height: in which `cells` are given; the JPEG may be smaller.
        jpeg: file, base64.
        cells: row, column and side of each cell that the detector saw.
    """

    time: float
    width: int
    height: int
    jpeg: str
    cells: Cells


class _History:
    """Evidence of the last minutes, a point a second at most; as large at the start as ever."""

    def __init__(self) -> None:
        self._points = np.zeros((HISTORY, 3))  # time, evidence, probability
        self._count = 0

    def add(self, at: float, evidence: float, probability: float | None) -> None:
        """The newest point, in place of one of the same second; without a probability, its last."""
        time, _, before = self._points[(self._count - 1) % HISTORY] if self._count else (at, 0, 0.5)
        probability = before if probability is None else probability
        if self._count and abs(at - time) < 1.0:
            self._count, at = self._count - 1, time
        self._points[self._count % HISTORY] = at, round(evidence, 3), round(probability, 4)
        self._count += 1

    def points(self) -> list[list[float]]:
        """Oldest first."""
        first = max(0, self._count - HISTORY)
        order = np.arange(first, self._count) % HISTORY
        points: list[list[float]] = self._points[order].tolist()
        return points


class _Slot:
    """A source's encoded pictures."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.encoded: dict[bool, _Encoded] = {}


class _Encoded(NamedTuple):
    """A picture, when it was encoded (monotonic), and the verdict that was newest then."""

    made: float
    judged: float | None
    shown: Shown


class Board:
    """State of the page. `note` is called by the pipeline; all else by visitors."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._changed = threading.Condition()
        self._events: deque[tuple[int, bytes]] = deque(maxlen=EVENTS)
        self._last = 0
        self._closed = False
        self._history: dict[str, _History] = {}
        self._judged: dict[str, float] = {}  # time of each source's newest verdict
        self._overview: tuple[float, bytes] = (float("-inf"), b"")
        self._overview_lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._encoding = threading.Lock()

    def note(self, event: Event) -> None:
        """Keep an event; a moment's work."""
        if isinstance(event, FrameEvent):
            self._judged[event.source] = event.time
            self._note_evidence(event.source, event.time, event.evidence, event.probability)
            return
        if isinstance(event, StreamEvent):
            self._note_evidence(event.source, event.time, event.evidence, None)
        text = msgspec.json.encode(event)
        with self._changed:
            if isinstance(event, SourceEvent) and event.state == "removed":
                self._forget(lambda source: source == event.source)
            self._last += 1
            self._events.append((self._last, text))
            self._changed.notify_all()

    def _note_evidence(
        self, source: str, at: float, evidence: float, probability: float | None
    ) -> None:
        with self._changed:
            points = self._history.setdefault(source, _History())
            points.add(at, evidence, probability)

    def overview(self) -> bytes:
        """Sources as they are now, JSON."""
        with self._overview_lock:
            made, text = self._overview
            now = time.monotonic()
            if now - made >= FRESH:
                text = msgspec.json.encode(self._look())
                self._overview = (now, text)
            return text

    def _look(self) -> dict[str, Any]:
        # Asking for every picture would convert every frame: the newest verdict tells enough.
        sources = [
            {**msgspec.to_builtins(status), "picture_time": self._judged.get(status.source)}
            for status in self._monitor.statuses()
        ]
        known = {source["source"] for source in sources}
        with self._changed:
            self._forget(lambda source: source not in known)
        return {
            "time": time.time(),
            "alive": self._monitor.alive(),
            "ready": self._monitor.ready(),
            "lost_events": self._monitor.lost_events,
            "sources": sources,
        }

    def history(self) -> bytes:
        """Time, evidence and probability of the last minutes, a source each, JSON."""
        with self._changed:
            return msgspec.json.encode({name: p.points() for name, p in self._history.items()})

    def events(self, after: int = 0) -> list[tuple[int, bytes]]:
        """Number and JSON of the kept events behind a number, oldest first."""
        with self._changed:
            return [(number, text) for number, text in self._events if number > after]

    @property
    def last(self) -> int:
        """Number of the newest event, 0 before the first."""
        with self._changed:
            return self._last

    def wait(self, after: int, timeout: float) -> bool:
        """Until there is an event behind a number; False once the board is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._last > after, timeout)
            return not self._closed

    def close(self) -> None:
        """End every `wait`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def picture(self, source: str, *, near: bool) -> Shown | None:
        """The last judged frame of a source; a KeyError for an unknown name.

        Args:
            near: only what surrounds the cells that the detector saw, pixel for pixel if it fits.
        """
        with self._changed:
            slot, judged = self._slots.get(source), self._judged.get(source)
        if slot is None:
            self._monitor.picture(source)  # a KeyError for an unknown name
            with self._changed:
                slot = self._slots.setdefault(source, _Slot())
        with slot.lock:
            kept = slot.encoded.get(near)
            if kept is not None and (
                (judged is not None and judged == kept.judged)
                or time.monotonic() - kept.made < PICTURE_SECONDS
            ):
                return kept.shown
            picture = self._monitor.picture(source)
            if picture is None:
                return None
            with self._encoding:  # one at a time: visitors get one core at the most
                shown = _encode(picture, near=near)
            slot.encoded[near] = _Encoded(time.monotonic(), judged, shown)
            return shown

    def _forget(self, gone: Callable[[str], bool]) -> None:
        """Keep nothing of sources that are gone; under the lock."""
        for kept in (self._history, self._judged, self._slots):
            for source in [source for source in kept if gone(source)]:
                del kept[source]


def _encode(picture: Picture, *, near: bool) -> Shown:
    pixels, cells = picture.pixels, picture.cells
    if near and cells:
        pixels, cells = _around(pixels, cells)
    height, width = pixels.shape[:2]
    jpeg = encode_jpeg(_shrunk(pixels), quality=82)
    return Shown(picture.time, width, height, base64.b64encode(jpeg).decode("ascii"), cells)


def _around(pixels: npt.NDArray[np.uint8], cells: Cells) -> tuple[npt.NDArray[np.uint8], Cells]:
    """The part of a frame that holds the cells, and the cells within it."""
    top = max(0, min(row for row, _, _ in cells) - MARGIN)
    left = max(0, min(column for _, column, _ in cells) - MARGIN)
    bottom = max(row + side for row, _, side in cells) + MARGIN
    right = max(column + side for _, column, side in cells) + MARGIN
    inside = [(row - top, column - left, side) for row, column, side in cells]
    return pixels[top:bottom, left:right], inside


def _shrunk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if max(pixels.shape[:2]) <= LONGER_SIDE:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((LONGER_SIDE, LONGER_SIDE), reducing_gap=2.0)
    return np.asarray(image)
