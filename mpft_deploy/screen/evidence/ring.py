"""The last seconds of a source: coded, as they came, and what was judged of them.

All of it is plain data: what a reader in another process gets comes here by messages.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, Protocol

from mpft_deploy.prepared import Prepared
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.records import FrameEvent
from mpft_deploy.views import U8, Window
from mpft_deploy.weights import F32


@dataclass(frozen=True)
class Coding:
    """How the pictures of a connection are coded; the same for those that go into one file.

    codec: FFmpeg's name. header: its parameters. size: width and height.
    base: seconds of one unit of the time stamps.
    sample: a file in NUT with one picture, which tells a demuxer all that must be known.
    """

    codec: str
    header: bytes
    size: tuple[int, int]
    base: Fraction
    sample: bytes = field(compare=False)


class Coded(NamedTuple):
    """A coded picture; stamps count `Coding.base`, received is by the monotonic clock."""

    data: bytes
    pts: int | None
    dts: int | None
    key: bool
    received: float


@dataclass
class Group:
    """Pictures of one coding from a keyframe to the next."""

    coding: Coding
    pictures: list[Coded] = field(default_factory=list)

    @property
    def begin(self) -> float:
        """When its keyframe was received."""
        return self.pictures[0].received


class Recorder(Protocol):
    """What a reader gives coded pictures to; see `Ring`."""

    def add(self, coding: Coding, picture: Coded) -> None:
        """The next picture."""

    def fail(self, why: str) -> None:
        """Nothing of this connection can be kept."""


class Ring:
    """What a source sent in the last seconds, in groups that begin with a keyframe; any thread.

    Args:
        seconds: for how long a picture is kept at least, with those back to its keyframe.
        most: bytes; beyond them the oldest group goes, were it the only one.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most, self._size = seconds, most, 0
        self._lock = threading.Lock()
        self._groups: deque[Group] = deque()
        self.trouble = ""
        """Why nothing could be kept of a connection, if so."""

    def add(self, coding: Coding, picture: Coded) -> None:
        """The next picture; until there is a keyframe of its coding none is kept."""
        with self._lock:
            if picture.key:
                self._groups.append(Group(coding))
            if not self._groups or self._groups[-1].coding != coding:
                return
            self._groups[-1].pictures.append(picture)
            self._size += len(picture.data)
            old = picture.received - self._seconds
            while self._size > self._most or (
                len(self._groups) > 1 and self._groups[1].begin <= old
            ):
                gone = self._groups.popleft().pictures
                self._size -= sum(len(picture.data) for picture in gone)

    def fail(self, why: str) -> None:
        """Nothing of this connection can be kept."""
        self.trouble = why

    def cut(self, begin: float, end: float) -> tuple[Coding, list[Coded]] | None:
        """The pictures of a span, by the monotonic clock, from the keyframe before; in order.

        They are of one coding: where a connection was made anew within the span, the longer part.
        None if there are none.
        """
        parts: list[tuple[Coding, list[Coded]]] = []
        with self._lock:
            before = sum(group.begin <= begin for group in self._groups)
            groups = itertools.islice(self._groups, max(0, before - 1), None)
            for coding, some in itertools.groupby(groups, lambda group: group.coding):
                of_coding = (picture for group in some for picture in group.pictures)
                if wanted := [picture for picture in of_coding if picture.received <= end]:
                    parts.append((coding, wanted))
        return max(parts, key=lambda part: part[1][-1].received - part[1][0].received, default=None)


@dataclass(frozen=True)
class Look:
    """A judged frame, with the pixels that were judged.

    received: by the monotonic clock. views: u8 [V, S, S, 3]. windows, size: of the frame, as in
    `Prepared`. logits: f32 [V].
    """

    frame: FrameEvent
    received: float
    views: U8
    windows: Sequence[Window]
    size: tuple[int, int]
    logits: F32


class Looks:
    """What was judged of a source in the last seconds; any thread.

    Args:
        seconds, most: as those of `Ring`.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most, self._size = seconds, most, 0
        self._lock = threading.Lock()
        self._looks: deque[Look] = deque()

    def add(self, frame: FrameEvent, received: float, prepared: Prepared, logits: F32) -> None:
        size, views = prepared.size, prepared.views
        with self._lock:
            self._looks.append(Look(frame, received, views, prepared.windows, size, logits))
            self._size += views.nbytes
            old = received - self._seconds
            while self._looks and (self._size > self._most or self._looks[0].received < old):
                self._size -= self._looks.popleft().views.nbytes

    def cut(self, begin: float, end: float) -> list[Look]:
        """Those that were received in a span, by the monotonic clock, in order."""
        with self._lock:
            return [look for look in self._looks if begin <= look.received <= end]


@dataclass(frozen=True)
class Recording:
    """What is kept of a span of a source.

    Attributes:
        address: without secrets.
        baselines: of its streams that were taught, by name.
        coded: of one coding, in order; None where there are none: `no_clip` says why.
    """

    address: str
    baselines: dict[str, Baseline]
    looks: list[Look]
    coded: tuple[Coding, list[Coded]] | None
    no_clip: str
