"""One connection of a source, as its reader sees it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mpft_deploy.errors import InputError, MpftError
from mpft_deploy.screen.evidence.ring import Recorder
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.wire import Cause, Dropped, Ended, Opened, Received

GRACE = 10.0
"""Seconds beyond its own time limit after which a call into a library is taken to hang."""

GONE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT}
"""How the system says that nobody is at an address; one who is silent may be there."""

OUT_OF_MEMORY = "what it sends takes more memory than its reader may have"


class SourceLostError(InputError):
    """A source cannot be opened, or stopped giving frames; it will be tried again.

    gone: whether there is nobody at its address, so that trying again troubles no one.
    """

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


@dataclass(frozen=True)
class Captured:
    """A frame that waits to be judged; received: by the monotonic clock."""

    shot: Shot
    received: float


Decode = Callable[[], "Shot | str"]
"""Decodes one frame, from any thread: its picture, or the cause for which there is none."""


@dataclass(frozen=True)
class Coded:
    """A frame that stands alone and waits, still coded, for its turn to be near."""

    decode: Decode
    received: float
    attempt: Attempt


Told: TypeAlias = Opened | Received | Captured | Coded | Dropped
"""What an attempt tells of."""


class Attempt:
    """One connection, as its reader sees it: where it tells what comes, and whether to go on.

    Readers call `within` before whatever may block, `packet` for every frame that comes in, and
    then exactly one of `offer`, `hold` and `drop` for it.

    Args:
        ring: what keeps coded pictures, where evidence is wanted.
        tell: what comes; it may raise a SourceLostError to end this.

    Attributes:
        ring: the same.
        began, heard, seen: when it was begun, and when data and pictures came last, by the
            monotonic clock.
        deadline: until when its reader must be heard of, or it hangs.
        on_the_way: frames that came in, and were not offered, held or dropped yet.
        turns: how many of its source's frames were taken to be judged meanwhile.
        occupied: whether the frame that was offered last still waits.
    """

    def __init__(
        self,
        settings: SourceSettings,
        clock: Clock,
        ring: Recorder | None,
        tell: Callable[[Attempt, Told], None],
    ) -> None:
        self.settings, self._clock, self.ring, self._tell = settings, clock, ring, tell
        self.began = self.heard = self.seen = clock.monotonic()
        self.deadline = self.began + settings.connect + GRACE
        self.cancelled = threading.Event()
        self.pictures = self.on_the_way = self.turns = 0
        self.opened = self.occupied = False

    def run(self, read: Reader) -> Ended:
        """Have a reader read until it ends, and say why it did."""
        try:
            read(self)
        except SourceLostError as error:
            return Ended(str(error), error.gone)
        except MpftError as error:
            return Ended(str(error))
        except MemoryError:
            return Ended(OUT_OF_MEMORY)
        except Exception as error:
            # Whatever a library makes of a damaged stream, the next attempt must be made.
            return Ended(f"{type(error).__name__}: {error}")
        return Ended("")

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
        self._tell(self, Opened(codec, note))

    def packet(self) -> float:
        """A frame came in, still coded; the monotonic time.

        Raises:
            SourceLostError: data comes, but no picture of it for too long.
        """
        self.heard = self.now
        self.within(self.settings.timeout)
        self.on_the_way += 1
        self._tell(self, Received())
        return self.heard

    def offer(self, shot: Shot, received: float) -> None:
        """A picture; it replaces one that nobody took yet."""
        self.see()
        self.pictures += 1
        self.on_the_way -= 1
        self._tell(self, Captured(shot, received))

    def hold(self, decode: Decode, received: float) -> None:
        """A frame that stands alone; it is decoded only if its turn comes.

        The first picture of a connection is to be offered instead: it shows that there is one.
        """
        self.on_the_way -= 1
        self._tell(self, Coded(decode, received, self))

    def see(self) -> None:
        """There was a picture, or would have been if there had been time for it."""
        self.seen = self.now

    def drop(self, cause: Cause, count: int = 1, *, picture: bool = False) -> None:
        """Frames that will not be judged; picture: whether they could have been."""
        if picture:
            self.see()
        self.on_the_way -= count
        self._tell(self, Dropped(cause, count, picture))


Reader = Callable[[Attempt], None]
"""Reads its source until that ends; raises SourceLostError if it should be tried again."""
