"""One connection of a source, as its reader sees it."""

from __future__ import annotations

import errno
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mpft_deploy.errors import InputError
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.settings import SourceSettings

if TYPE_CHECKING:
    from mpft_deploy.screen.evidence.ring import Recorder

GRACE = 10.0
"""Seconds beyond its own time limit after which a call into a library is taken to hang."""


Cause = Literal["behind", "damaged", "no keyframe", "overload", "rate"]
"""Why a reader drops a frame."""


GONE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT}
"""How the system says that nobody is at an address; one who is silent may be there."""


class SourceLostError(InputError):
    """A source cannot be opened, or stopped giving frames; it will be tried again.

    gone: whether there is nobody at its address, so that trying again troubles no one.
    """

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


@dataclass(frozen=True)
class Captured:
    """A frame that waits to be judged.

    received: by the monotonic clock. time: by the clock that tells the date.
    """

    shot: Shot
    received: float
    time: float


Decode = Callable[[], "Shot | str"]
"""Decodes one frame, from any thread: its picture, or the cause for which there is none."""


@dataclass(frozen=True)
class Coded:
    """A frame that stands alone and waits, still coded, for its turn to be near.

    received, time: as those of `Captured`.
    """

    decode: Decode
    received: float
    time: float
    attempt: Attempt


class Attempt(ABC):
    """One connection, as its reader sees it: where it tells what comes, and whether to go on.

    Readers call `within` before whatever may block, `packet` for every frame that comes in, and
    then exactly one of `offer`, `hold` and `drop` for it.

    Args:
        ring: what keeps coded pictures, where evidence is wanted.

    Attributes:
        ring: the same.
        began, heard, seen: when it was begun, and when data and pictures came last, by the
            monotonic clock.
        deadline: until when its reader must be heard of, or it hangs.
        turns: how many of its source's frames were taken to be judged meanwhile.
        occupied: whether the frame that was offered last still waits.
    """

    def __init__(self, settings: SourceSettings, clock: Clock, ring: Recorder | None) -> None:
        self.settings, self._clock, self.ring = settings, clock, ring
        self.began = self.heard = self.seen = clock.monotonic()
        self.deadline = self.began + settings.connect + GRACE
        self.cancelled = threading.Event()
        self.pictures = self.turns = 0
        self.opened = self.occupied = False

    @property
    def stopping(self) -> bool:
        """Whether the reader should return."""
        return self.cancelled.is_set()

    @property
    def now(self) -> float:
        """By the monotonic clock."""
        return self._clock.monotonic()

    def within(self, seconds: float) -> None:
        """What comes next may take that long."""
        self.deadline = self.now + seconds + GRACE

    def wait(self, seconds: float) -> bool:
        """Sleep, unless stopped; whether to go on."""
        self.within(seconds)
        return not self.cancelled.wait(seconds)

    def describe(self, codec: str, note: str = "") -> None:
        """What was opened; note: what an operator should know of it, empty mostly."""
        self.opened = True

    def packet(self) -> float:
        """A frame came in, still coded; the monotonic time.

        Raises:
            SourceLostError: data comes, but no picture of it for too long.
        """
        self.heard = self.now
        self.within(self.settings.timeout)
        return self.heard

    def offer(self, shot: Shot, received: float) -> None:
        """A picture; it replaces one that nobody took yet."""
        self.see()
        self.pictures += 1

    @abstractmethod
    def hold(self, decode: Decode, received: float) -> None:
        """A frame that stands alone; it is decoded only if its turn comes.

        The first picture of a connection is to be offered instead: it shows that there is one.
        """

    def see(self) -> None:
        """There was a picture, or would have been if there had been time for it."""
        self.seen = self.now

    def drop(self, cause: Cause, count: int = 1, *, picture: bool = False) -> None:
        """Frames that will not be judged; picture: whether they could have been."""
        if picture:
            self.see()


Reader = Callable[[SourceSettings, Attempt], None]
"""Reads a source until it ends; raises SourceLostError if it should be tried again."""
