"""What runs in the processes that read sources; `processes` has their other ends.

A server process loads the libraries once, and forks a child for each connection: that takes
milliseconds, and a child has little memory of its own. Of these a child alone meets what a stranger
sends. It decodes, keeps pictures until they are not needed any more, and gives out the pixels that
it is asked for. It ends with the process that screens, by the end of its sockets.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import NoReturn

import msgspec
import numpy as np

from mpft_deploy.screen.evidence import ring
from mpft_deploy.screen.streams import read_av, wire
from mpft_deploy.screen.streams.attempt import Attempt, Captured, Coded, Decode, Told
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.memory import give_frames_back
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.sandbox import confine
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.wire import Wire
from mpft_deploy.views import Window

WIRES = 3
"""Sockets of a child: for what it tells, for pixels, and for decoding, which may take long."""

HELD = 8
"""Frames that wait to be decoded; the screener wants none but the newest, or the one before it."""

LOOK = 1.0
"""Seconds between two looks at whether the reader hangs."""

LARGEST = 2**20
"""Bytes of what a child is asked or told."""


class Order(msgspec.Struct, frozen=True):
    """What a child reads; record: whether coded pictures are wanted."""

    settings: SourceSettings
    record: bool


def main() -> None:
    """Serve whoever has the other end of the socket with the number in the last argument.

    A request is four bytes. 0, with sockets, asks for a child that reads what the first one says;
    the answer is its process number. A process number has that child ended; the answer is the
    status that it ended with, as of waitpid(2), or 0 if it is none of these children.
    """
    # Ctrl-C and a service manager's signals go to all processes; the one that screens ends these.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    give_frames_back()
    import av  # noqa: F401  what takes long is loaded once

    from mpft_deploy.screen.streams import origin  # noqa: F401

    gc.freeze()  # else the first collection of a child would copy all of it
    control, children = socket.socket(fileno=int(sys.argv[-1])), set[int]()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 4, WIRES)
        if not request:
            return
        child, answer = int.from_bytes(request, "big"), 0
        if child in children:
            children.remove(child)
            os.kill(child, signal.SIGKILL)  # one that has ended waits for waitpid
            answer = os.waitpid(child, 0)[1]
        elif descriptors:
            answer = os.fork()
            if not answer:
                control.close()
                _read(*(Wire(socket.socket(fileno=one)) for one in descriptors))
            children.add(answer)
            for one in descriptors:
                os.close(one)
        control.sendall(answer.to_bytes(4, "big"))


def _read(events: Wire, cuts: Wire, decodes: Wire) -> NoReturn:
    """Read a source; then the process ends."""
    with contextlib.suppress(EOFError, OSError):  # the other end is gone
        order = msgspec.msgpack.decode(events.receive(LARGEST), type=Order)
        confine(order.settings)
        reader = _Reader(order, events)
        for one in (cuts, decodes):
            threading.Thread(target=reader.serve, args=(one,), daemon=True).start()
        reader.end(reader.attempt.run(read_av.read))
        signal.pause()  # until its pictures are fetched that are still wanted
    os._exit(0)


class _Recorder:
    """Sends what a ring is to keep."""

    def __init__(self, tell: Callable[[wire.Event], None]) -> None:
        self._tell = tell
        self._coding: ring.Coding | None = None

    def add(self, coding: ring.Coding, picture: ring.Coded) -> None:
        self._tell(wire.Recorded(None if coding is self._coding else coding, picture))
        self._coding = coding

    def fail(self, why: str) -> None:
        self._tell(wire.Unrecorded(why[: wire.LONGEST_TEXT]))


class _Reader:
    """Reads a source that is in another process, and answers what that asks."""

    def __init__(self, order: Order, events: Wire) -> None:
        recorder = _Recorder(self._send) if order.record else None
        self.attempt = Attempt(order.settings, Clock(), recorder, self._tell)
        self._events, self._telling = events, threading.Lock()
        self._requests = wire.decoder(wire.Request)
        self._numbers = count()
        self._held: OrderedDict[int, Decode] = OrderedDict()
        self._shots: dict[int, Shot] = {}

    def end(self, end: wire.Ended) -> None:
        """Tell that nothing more comes."""
        self._send(wire.Ended(end.why[: wire.LONGEST_TEXT], end.gone))

    def serve(self, asked: Wire) -> NoReturn:
        """Answer requests, in a thread of its own, until the other end goes or the reader hangs."""
        try:
            while True:
                if asked.ready(LOOK):
                    request = self._requests.decode(asked.receive(LARGEST))
                    asked.send(self._answer(request))
                elif self.attempt.now > self.attempt.deadline:
                    self.end(wire.Ended("the connection hangs; it was given up"))
                    break
        except (EOFError, OSError):
            pass
        finally:
            os._exit(0)

    def _answer(self, request: wire.Request) -> bytes | memoryview:
        if isinstance(request, wire.Free):
            for number in request.numbers:
                self._shots.pop(number, None)
            self.attempt.turns, self.attempt.occupied = request.turns, request.occupied
            return b""
        if isinstance(request, wire.Decode):
            decode = self._held.pop(request.number, None)
            try:
                shot = "overload" if decode is None else decode()
            except Exception:
                shot = "damaged"
            return wire.encode(
                shot if isinstance(shot, str) else self._keep(request.number, shot, 0.0)
            )
        try:
            shot = self._shots[request.number]
            window = request.window
            pixels = shot.whole() if window is None else shot.cut(Window(*window))
            return np.ascontiguousarray(pixels).data.cast("B")
        except Exception:
            return b""

    def _keep(self, number: int, shot: Shot, received: float) -> wire.Picture:
        self._shots[number] = shot
        return wire.Picture(number, shot.height, shot.width, received)

    def _tell(self, attempt: Attempt, told: Told) -> None:
        """Whether there is a picture of what comes is looked at by the other process."""
        if isinstance(told, Captured):
            self._send(self._keep(next(self._numbers), told.shot, told.received))
        elif isinstance(told, Coded):
            number = next(self._numbers)
            self._held[number] = told.decode
            if len(self._held) > HELD:
                self._held.popitem(last=False)
            self._send(wire.Held(number, told.received))
        elif isinstance(told, wire.Opened):
            self._send(wire.Opened(told.codec, told.note[: wire.LONGEST_TEXT]))
        elif not isinstance(told, wire.Dropped) or told.count > 0 or told.picture:
            self._send(told)

    def _send(self, event: wire.Event) -> None:
        with self._telling:
            self._events.send(wire.encode(event))
