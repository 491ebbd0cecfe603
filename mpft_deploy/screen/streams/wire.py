"""What a reader tells its source, and what passes to and from one in a process.

Plain data, of which nothing is believed.
Whoever took over a reader's process could send anything; it must not become more than data here.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from mpft_deploy.screen.evidence import ring

Cause = Literal["behind", "damaged", "no keyframe", "overload", "rate"]
"""Why a reader drops a frame."""

LONGEST_TEXT = 400

Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Number = Annotated[int, msgspec.Meta(ge=0)]
Side = Annotated[int, msgspec.Meta(gt=0, le=2**16)]
Moment = Annotated[float, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Opened(_Message, frozen=True):
    """See `Attempt.describe`."""

    codec: Text
    note: Text


class Received(_Message, frozen=True):
    """See `Attempt.packet`."""


class Picture(_Message, frozen=True):
    """A picture that was decoded and lies there; see `Attempt.offer`."""

    number: Number
    height: Side
    width: Side
    received: Moment


class Held(_Message, frozen=True):
    """A frame that can be decoded; see `Attempt.hold`."""

    number: Number
    received: Moment


class Dropped(_Message, frozen=True):
    """See `Attempt.drop`."""

    cause: Cause
    count: Number
    picture: bool


class Recorded(_Message, frozen=True):
    """See `Ring.add`; coding: where it is another than before."""

    coding: ring.Coding | None
    picture: ring.Coded


class Unrecorded(_Message, frozen=True):
    """See `Ring.fail`."""

    why: Text


class Ended(_Message, frozen=True):
    """It reads no more; why: empty at the end of what has one. gone: see `SourceLostError`."""

    why: Text
    gone: bool = False


Event: TypeAlias = Opened | Received | Picture | Held | Dropped | Recorded | Unrecorded | Ended
"""What a reader tells."""


class Decode(_Message, frozen=True):
    """Answered by a `Picture`, or by the cause for which there is none."""

    number: Number


class Cut(_Message, frozen=True):
    """Answered by pixels of a picture, u8 [H, W, 3]; by none if that failed.

    window: row, column, height, width; None for all of it.
    """

    number: Number
    window: tuple[int, int, int, int] | None


class Free(_Message, frozen=True):
    """Pictures that nobody will ask for; turns, occupied: see `Attempt`."""

    numbers: list[int]
    turns: int
    occupied: bool


Request: TypeAlias = Decode | Cut | Free
"""What a reader is asked."""

encode = msgspec.msgpack.Encoder(enc_hook=Fraction.as_integer_ratio).encode


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Of messages of a kind; it raises one of `MALFORMED` for all others."""
    return msgspec.msgpack.Decoder(kind, dec_hook=lambda _, ratio: Fraction(*ratio))


class Wire:
    """Messages over a connected socket, each after its length. One thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def ready(self, seconds: float) -> bool:
        """Whether there is something to receive, an end too; waits for so long at most."""
        return bool(self._poll.poll(1000 * seconds))

    def send(self, message: bytes | memoryview) -> None:
        """Send a message; an OSError if nobody receives it."""
        head = len(message).to_bytes(4, "big")
        if isinstance(message, bytes):
            self._socket.sendall(head + message)
        else:  # pixels, which are not copied
            self._socket.sendall(head)
            self._socket.sendall(message)

    def receive(self, most: int, seconds: float | None = None) -> bytearray:
        """The next message.

        Raises:
            EOFError: there is none any more.
            OSError: it is larger than `most` bytes, or did not come in so many seconds.
        """
        end = None if seconds is None else time.monotonic() + seconds
        size = int.from_bytes(self._exactly(4, end), "big")
        if size > most:
            raise OSError(f"a message of {size} bytes")
        return self._exactly(size, end)

    def shut(self) -> None:
        """End it, for both sides, whoever waits there."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its descriptor back; when nobody uses it."""
        self._socket.close()

    def _exactly(self, size: int, end: float | None) -> bytearray:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            if end is not None and not self.ready(max(0.0, end - time.monotonic())):
                raise TimeoutError
            count = self._socket.recv_into(left)
            if not count:
                raise EOFError
            left = left[count:]
        return data
