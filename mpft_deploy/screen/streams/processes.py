"""Readers in processes of their own: what a stranger sends can end one of them, and nothing else.

    Source ── its thread ── ReaderProcesses.read ══ sockets ══ reader_child: FFmpeg

The thread passes on what the process tells; of pixels those are fetched that are needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque

import msgspec
import numpy as np

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import printable
from mpft_deploy.images import U8
from mpft_deploy.screen.evidence.ring import Coding
from mpft_deploy.screen.streams import wire
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.open_av import check_size, why_no_hardware
from mpft_deploy.screen.streams.pixels import RgbShot, Shot
from mpft_deploy.screen.streams.reader_child import WIRES, Order
from mpft_deploy.screen.streams.settings import Readers, SourceSettings
from mpft_deploy.screen.streams.wire import Wire
from mpft_deploy.views import Window

START = 30.0
"""Seconds that a process may take to begin or to end; most of it is for loading libraries."""

PATIENCE = 3.0
"""Seconds within which a reader answers, or it hangs."""

SLICE = 0.25
"""Seconds between two looks at whether to stop."""

LARGEST = 2**26
"""Bytes of a message; a coded picture is the largest."""

COMMAND = (
    "import sys; sys.path[:] = sys.argv[1:-1]; "
    "from mpft_deploy.screen.streams.reader_child import main; main()"
)
"""Not by multiprocessing, which would run the program's own main module again."""

PASSED = ("CUDA_", "LANG", "LC_", "LD_", "LIBVA_", "NVIDIA_", "PATH", "SSL_", "TZ", "XDG_")
"""How variables of the environment begin that readers get: among the others are passwords."""


def open_processes(readers: Readers) -> ReaderProcesses | None:
    """What is needed for readers in processes; None where they may be threads alone.

    Raises:
        EnvironmentLacksError: processes are wanted, and this is not Linux.
    """
    linux = sys.platform == "linux"
    if readers == "processes" and not linux:
        raise EnvironmentLacksError('readers = "processes" needs Linux: write "threads"')
    return ReaderProcesses() if linux and readers != "threads" else None


class ReaderProcesses:
    """Reads sources in processes of their own; from any thread."""

    def __init__(self) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def read(self, attempt: Attempt) -> None:
        """Read a source with FFmpeg; see `read_av.read`."""
        settings = attempt.settings
        if settings.hwaccel and why_no_hardware(settings.hwaccel):  # said once, by this process
            settings = msgspec.structs.replace(settings, hwaccel="")
        child, wires = self._fork()
        reader, end = _Reader(attempt, *wires), None
        try:
            end = reader.follow(settings)
        except (EOFError, OSError):
            pass
        finally:
            if not attempt.stopping:
                reader.fetch()
            status = self._request(child)
            reader.close()
        end = end or wire.Ended(f"the process that reads it {_ended(status)}")
        if end.why:
            raise SourceLostError(printable(end.why), gone=end.gone)

    def close(self) -> None:
        """End them all, and start no more."""
        self._closed = True
        if (server := self._server) is not None:
            server.kill()  # whoever waits for its answer has the lock
        with self._lock:
            self._stop()

    def _fork(self) -> tuple[int, list[Wire]]:
        """A new process: its number, and what leads to it."""
        ours, theirs = zip(*(socket.socketpair() for _ in range(WIRES)), strict=True)
        descriptors = [one.fileno() for one in theirs]
        # Another time, should the server have been killed.
        child = self._request(0, *descriptors) or self._request(0, *descriptors)
        for one in theirs if child else (*ours, *theirs):
            one.close()
        if not child:
            raise SourceLostError("no process can be started to read it")
        return child, [Wire(one) for one in ours]

    def _request(self, child: int, *descriptors: int) -> int:
        """See `reader_child.main`; 0 if there is no answer."""
        with self._lock:
            try:
                if self._control is None:
                    if child or self._closed:  # one whose server is gone ends with its sockets
                        return 0
                    self._start()
                assert self._control is not None
                socket.send_fds(self._control, [child.to_bytes(4, "big")], descriptors)
                if answer := self._control.recv(4):
                    return int.from_bytes(answer, "big")
            except OSError:
                pass
            self._stop()
            return 0

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START)
        with theirs:
            number = theirs.fileno()
            self._server = subprocess.Popen(
                [sys.executable, "-I", "-c", COMMAND, *sys.path, str(number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                env={
                    "OPENBLAS_NUM_THREADS": "1",  # a process that forks must have one thread
                    **{name: os.environ[name] for name in os.environ if name.startswith(PASSED)},
                },
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def _ended(status: int) -> str:
    """How, by a status of waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class _Reader:
    """The other end of a process that reads a source."""

    def __init__(self, attempt: Attempt, events: Wire, cuts: Wire, decodes: Wire) -> None:
        self._attempt = attempt
        self._events, self._cuts, self._decodes = events, cuts, decodes
        self._locks = {cuts: threading.Lock(), decodes: threading.Lock()}
        self._decoded = wire.decoder(wire.Picture | wire.Cause)
        self._lost = False
        self._coding: Coding | None = None
        self._shots = weakref.WeakValueDictionary[int, RemoteShot]()
        self.unused: deque[int] = deque()
        """Pictures that nobody holds any more."""

    def follow(self, settings: SourceSettings) -> wire.Ended:
        """Pass on what it tells, until it ends; why it did.

        Raises:
            EOFError, OSError: the process has ended, or hangs.
            SourceLostError: as `Attempt.packet`.
        """
        attempt, decode = self._attempt, wire.decoder(wire.Event).decode
        self._events.send(wire.encode(Order(settings, attempt.ring is not None)))
        told = (0, False)
        while not attempt.stopping:
            attempt.within(SLICE + PATIENCE)
            came = self._events.ready(SLICE)
            turn = (attempt.turns, attempt.occupied)
            if self.unused or turn != told or not came:
                # Where it is silent, this shows that it does not hang.
                numbers = [self.unused.popleft() for _ in range(len(self.unused))]
                try:
                    self._ask(self._cuts, wire.Free(numbers, *turn), 0)
                    told = turn
                except SourceLostError:
                    if not self._events.ready(0):  # else it has said why, or its end is there
                        raise
            if not came:
                continue
            event = decode(self._events.receive(LARGEST))
            if isinstance(event, wire.Ended):
                return event
            self._pass_on(event)
        return wire.Ended("")

    def _pass_on(self, event: wire.Event) -> None:
        """Do for the source what its reader would have done."""
        attempt = self._attempt
        if isinstance(event, wire.Received):
            attempt.packet()
        elif isinstance(event, wire.Picture):
            attempt.offer(self._shot(event), min(event.received, attempt.now))
        elif isinstance(event, wire.Held):
            decode = functools.partial(self._decode, event.number)
            attempt.hold(decode, min(event.received, attempt.now))
        elif isinstance(event, wire.Dropped):
            attempt.drop(event.cause, event.count, picture=event.picture)
        elif isinstance(event, wire.Opened):
            attempt.describe(printable(event.codec), printable(event.note))
        elif attempt.ring is not None:
            if isinstance(event, wire.Unrecorded):
                attempt.ring.fail(printable(event.why))
            elif isinstance(event, wire.Recorded):
                self._coding = event.coding or self._coding
                if self._coding is not None:
                    attempt.ring.add(self._coding, event.picture)

    def pixels(self, number: int, window: Window | None, height: int, width: int) -> U8:
        """Of a picture, u8 [height, width, 3]; a SourceLostError if they cannot be had."""
        size = 3 * height * width
        data = self._ask(self._cuts, wire.Cut(number, window), size)
        if len(data) != size:
            raise SourceLostError("the process that reads it could not convert a picture")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def fetch(self) -> None:
        """Have the pictures that somebody holds, before the process ends that has them."""
        with contextlib.suppress(SourceLostError):
            for found in self._shots.valuerefs():
                if (shot := found()) is not None:
                    shot.fetch()

    def close(self) -> None:
        """End what still waits for it, and its sockets with it."""
        for one in (self._events, *self._locks):
            one.shut()
        self._events.close()
        for one, lock in self._locks.items():
            with lock:
                one.close()

    def _decode(self, number: int) -> Shot | str:
        data = self._ask(self._decodes, wire.Decode(number), wire.LONGEST_TEXT)
        result = self._decoded.decode(data)
        return self._shot(result) if isinstance(result, wire.Picture) else str(result)

    def _shot(self, picture: wire.Picture) -> RemoteShot:
        check_size(picture.width, picture.height, self._attempt.settings)
        shot = self._shots[picture.number] = RemoteShot(self, picture)
        return shot

    def _ask(self, asked: Wire, request: wire.Request, most: int) -> bytearray:
        with self._locks[asked]:
            if not self._lost:
                try:
                    asked.send(wire.encode(request))
                    return asked.receive(most, PATIENCE)
                except (EOFError, OSError):
                    self._lost = True  # what it answers later would be taken for another's
        raise SourceLostError("the process that reads it does not answer")


class RemoteShot(Shot):
    """A picture that lies in the process that decoded it."""

    def __init__(self, reader: _Reader, picture: wire.Picture) -> None:
        self._reader, self._number = reader, picture.number
        self.height, self.width = picture.height, picture.width
        self._fetched: RgbShot | None = None

    def __del__(self) -> None:
        self._reader.unused.append(self._number)

    def cut(self, window: Window) -> U8:
        if self._fetched is not None:
            return self._fetched.cut(window)
        return self._reader.pixels(self._number, window, window.height, window.width)

    def whole(self) -> U8:
        if self._fetched is not None:
            return self._fetched.whole()
        return self._reader.pixels(self._number, None, self.height, self.width)

    def fetch(self) -> None:
        """Have it here, for the process ends."""
        self._fetched = RgbShot(self.whole())
