"""Events that wait on disk: segments that are only appended to, within a bound.

A segment holds a line an event: CRC-32 as 8 hexadecimal digits, a space, JSON. A line that a killed
process left torn, or a disk garbled, fails its check and is skipped. `cursor` says how far events
were delivered; without it they are delivered again, which ids let a receiver see.

The page cache holds what was appended until the system writes it: a killed process loses nothing, a
power cut may lose the last half minute. While the receiver is down, each attempt forces it to disk.

While the disk is full, events wait in memory, a bounded number of them, behind those on disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import zlib
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.files import display

logger = logging.getLogger(__name__)

MEMORY = 1000
"""Events that wait in memory while the disk takes none."""

MAX_LINE = 1024 * 1024
"""No event is nearly as long."""


@dataclass
class _Segment:
    """A file of the spool: its bytes, and how many lines of it are not delivered."""

    number: int
    path: Path
    size: int
    left: int


class Spool:
    """A queue of events on disk, for one writer and one reader in one process.

    Args:
        folder: made if absent; no other process may use it at the same time.
        limit: bytes that the segments take, at most.

    Raises:
        UsageError: another process has it.
        EnvironmentLacksError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int, memory: int = MEMORY) -> None:
        self._folder, self._limit, self._capacity = folder, limit, memory
        self.dropped: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._memory: deque[bytes] = deque()
        self._writer: int | None = None
        self._reader: BinaryIO | None = None
        self._in_flight: tuple[int, int] | None = None  # segment (0: memory) and where it ends
        self._cursor: int | None = None
        self._closed = False
        self._fresh = False  # something happened that the reader has not looked at
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._segments = deque(self._find())
        except OSError as error:
            raise EnvironmentLacksError(
                f"the spool {display(folder)} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(
                f"the spool {display(folder)} is used by another process; "
                "name a folder for each in [webhook] spool"
            ) from None
        self._last = max((segment.number for segment in self._segments), default=0)
        with self._changed:
            self._resume()
            self._keep_limit()

    def append(self, event: bytes) -> None:
        """Keep an event, JSON without line breaks. Once this returns, it survives the process."""
        line = b"%08x %b\n" % (zlib.crc32(event), event)
        with self._changed:
            if self._closed:
                self.dropped["closed"] += 1
                return
            self._memory.append(line)
            self._fresh = True
            self._write_out()
            self._keep_limit()
            self._changed.notify()

    def peek(self) -> bytes | None:
        """The oldest event that is not delivered; None if there is none."""
        with self._changed:
            self._fresh = False
            while self._segments:
                segment = self._segments[0]
                if (event := self._next_in(segment)) is not None:
                    return event
                if self._writer is not None and len(self._segments) == 1:
                    break  # it still grows
                if segment in self._segments:
                    self._remove(segment)
            if self._memory:
                self._in_flight = (0, 0)
                return self._memory[0][9:-1]
            return None

    def advance(self) -> None:
        """What `peek` gave last is delivered."""
        with self._changed:
            if self._in_flight is None:
                return
            number, end = self._in_flight
            self._in_flight = None
            if number == 0:
                self._memory.popleft()
                self._write_out()
            elif self._segments and self._segments[0].number == number:
                self._segments[0].left -= 1
                self._save_cursor(number, end)

    def release(self) -> None:
        """What `peek` gave last was not delivered; it stays the oldest, and is forced to disk."""
        with self._changed:
            self._in_flight = None
            self._write_out()
            writer = os.dup(self._writer) if self._writer is not None else None
        if writer is not None:  # outside the lock: a slow disk must not hold up the pipeline
            with contextlib.suppress(OSError):
                os.fsync(writer)
            os.close(writer)

    def wait(self, timeout: float) -> None:
        """Until an event is appended behind the last `peek`, or someone wakes the reader."""
        with self._changed:
            if not self._fresh:
                self._changed.wait(timeout)

    def wake(self) -> None:
        """End a `wait`."""
        with self._changed:
            self._fresh = True
            self._changed.notify_all()

    def waiting(self) -> tuple[int, int]:
        """Events that are not delivered, and the bytes on disk."""
        with self._changed:
            left = sum(max(0, segment.left) for segment in self._segments)
            return left + len(self._memory), sum(segment.size for segment in self._segments)

    def close(self) -> None:
        """Write out what is left and let another process have the spool.

        A reader that is still about finds nothing from then on, and its last event comes again.
        """
        with self._changed:
            self._in_flight = None
            self._closed = True
            self._write_out()
            if self._memory:
                self.dropped["disk full"] += len(self._memory)
                self._memory.clear()
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    os.fsync(self._writer)
            self._end_segment()
            if self._reader is not None:
                self._reader.close()
            if self._cursor is not None:
                os.close(self._cursor)
            self._segments.clear()
            os.close(self._lock)

    # Everything below is called with the lock held.

    def _find(self) -> list[_Segment]:
        found = []
        for path in sorted(self._folder.glob("*.events")):
            if path.stem.isascii() and path.stem.isdecimal() and int(path.stem):
                with path.open("rb") as file:
                    lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(65536), b""))
                found.append(_Segment(int(path.stem), path, path.stat().st_size, lines))
        return sorted(found, key=lambda segment: segment.number)

    def _resume(self) -> None:
        """Go on behind what an earlier process delivered."""
        try:
            text, _, check = (self._folder / "cursor").read_bytes()[:50].rpartition(b" ")
            if int(check, 16) != zlib.crc32(text):
                raise ValueError
            number, offset = map(int, text.split())
        except (OSError, ValueError):
            return
        self._last = max(self._last, number)  # a number that was delivered is never used again
        while self._segments and self._segments[0].number < number:
            self._remove(self._segments[0])
        if self._segments and self._segments[0].number == number:
            segment = self._segments[0]
            with contextlib.suppress(OSError):
                self._reader = segment.path.open("rb")
                segment.left -= self._reader.read(min(offset, segment.size)).count(b"\n")

    def _write_out(self) -> None:
        """Move events from memory to disk, all that it takes."""
        while self._memory and self._in_flight != (0, 0):
            if not self._write(self._memory[0]):
                break
            self._memory.popleft()
        while len(self._memory) > self._capacity:
            if self._segments and self._segments[0].number != self._last:
                self._drop(self._segments[0], "disk full")
                self._write_out()
            else:
                del self._memory[1 if self._in_flight == (0, 0) else 0]
                self.dropped["disk full"] += 1

    def _write(self, line: bytes) -> bool:
        try:
            if self._writer is None:
                path = self._folder / f"{self._last + 1:012d}.events"
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._writer = os.open(path, flags, 0o600)
                self._last += 1
                self._segments.append(_Segment(self._last, path, 0, 0))
            segment = self._segments[-1]
            try:
                written = os.write(self._writer, line)
            except OSError:
                written = 0
            if written < len(line):
                os.ftruncate(self._writer, segment.size)
                return False
        except OSError:
            self._end_segment()
            return False
        segment.size += len(line)
        segment.left += 1
        if segment.size >= self._limit // 16:
            self._end_segment()
        return True

    def _end_segment(self) -> None:
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def _next_in(self, segment: _Segment) -> bytes | None:
        try:
            if self._reader is None:
                self._reader = segment.path.open("rb")
            # A reader that met the end of a file finds what was appended later, from its position.
            start = self._reader.tell()
            while line := self._reader.readline(MAX_LINE):
                if (event := _checked(line)) is not None:
                    self._in_flight = (segment.number, start + len(line))
                    self._reader.seek(start)
                    return event
                self.dropped["damaged"] += 1
                segment.left -= line.endswith(b"\n")
                start += len(line)
        except OSError as error:
            logger.warning("%s cannot be read: %s", display(segment.path), error.strerror)
            self._drop(segment, "damaged")
        return None

    def _save_cursor(self, number: int, end: int) -> None:
        if self._reader is not None:
            self._reader.seek(end)
        text = b"%020d %020d" % (number, end)
        with contextlib.suppress(OSError):
            if self._cursor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._cursor = os.open(self._folder / "cursor", flags, 0o600)
            # In place and of one length: a full disk has room for it.
            os.pwrite(self._cursor, b"%b %08x" % (text, zlib.crc32(text)), 0)

    def _keep_limit(self) -> None:
        while len(self._segments) > 1 and sum(s.size for s in self._segments) > self._limit:
            self._drop(self._segments[0], "spool limit")

    def _drop(self, segment: _Segment, cause: str) -> None:
        lost = max(0, segment.left)
        if lost:
            logger.warning("%d events were dropped from the spool: %s", lost, cause)
            self.dropped[cause] += lost
        self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        """Forget the oldest segment."""
        if self._segments and self._segments[-1] is segment:
            self._end_segment()
        self._segments.remove(segment)
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        with contextlib.suppress(OSError):
            segment.path.unlink()


def _checked(line: bytes) -> bytes | None:
    """The event of a line; None if it is damaged."""
    if len(line) < 11 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    event = line[9:-1]
    return event if line[:8] == b"%08x" % zlib.crc32(event) else None
