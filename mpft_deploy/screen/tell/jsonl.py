"""Events as JSON lines, on standard output or in a file that is rotated by size."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from pathlib import Path

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.tell.config import Jsonl
from mpft_deploy.screen.tell.stats import Worker, kind

CAPACITY = 10_000
"""Events that wait for a slow disk, or for a reader of standard output that stopped reading."""


class JsonLines(Worker[bytes]):
    """Writes each event as one line of JSON, whole; the schema is `docs/events.schema.json`.

    A file that was moved or removed meanwhile, as by logrotate, is made anew for the next line.

    Attributes:
        lost: why a line was not written to standard output, where its reader is there.

    Raises:
        UsageError: another process writes this file.
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(self, config: Jsonl) -> None:
        self._config = config
        self.lost: OSError | None = None
        self._path = None if config.path == "-" else Path(config.path)
        self._torn = False
        if self._path is None:
            sys.stdout.flush()  # what was printed before stays before
            self._file = os.dup(sys.stdout.fileno())
            self._size = 0
            try:
                os.write(self._file, b"")
            except OSError:
                raise EnvironmentLacksError("[jsonl] path -: standard output is closed") from None
        else:
            try:
                self._file = self._open(self._path)
            except BlockingIOError:
                raise UsageError(
                    f"[jsonl] path: {display(self._path)} is written by another process; "
                    "name a file for each"
                ) from None
            except OSError as error:
                raise EnvironmentLacksError(
                    f"[jsonl] path: {display(self._path)} cannot be written: {error.strerror}"
                ) from None
        super().__init__("jsonl", self._write, CAPACITY)

    def send(self, event: Event) -> None:
        """Queue an event."""
        if kind(event) in self._config.events:
            self.put(msgspec.json.encode(event) + b"\n")

    def close(self, timeout: float) -> None:
        """Write what is queued."""
        super().close(timeout)
        if self.ended:  # a thread that is stuck in a write keeps its file
            os.close(self._file)

    @property
    def disk_bytes(self) -> int:
        """Of the file."""
        return 0 if self._path is None else self._size

    def _open(self, path: Path) -> int:
        """The file, locked: two processes would cut off each other's lines on a full disk."""
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = status.st_size
            # A process that was killed may have left half a line.
            self._torn = self._size > 0 and os.pread(file, 1, self._size - 1) != b"\n"
        except OSError:
            os.close(file)
            raise
        self._identity = (status.st_dev, status.st_ino)
        return file

    def _reopen(self, path: Path) -> None:
        """Go on with another file if this one no longer has its name."""
        try:
            status = path.stat()
            moved = (status.st_dev, status.st_ino) != self._identity
        except FileNotFoundError:
            moved = True
        if moved:
            old, self._file = self._file, self._open(path)
            os.close(old)
        else:
            self._size = status.st_size  # someone may have emptied it

    def _write(self, line: bytes) -> None:
        if self._path is None:
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError as error:
                if not isinstance(error, BrokenPipeError):
                    self.lost = error
                raise
            return
        self._reopen(self._path)
        if self._size and self._size + len(line) > self._config.max_bytes:
            self._rotate(self._path)
        text = b"\n" + line if self._torn else line
        try:
            written = os.write(self._file, text)
        except OSError:
            written = 0
            raise
        finally:
            if written < len(text):  # the disk is full: half a line would spoil the next one
                os.ftruncate(self._file, self._size)
        if written < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._torn = False

    def _rotate(self, path: Path) -> None:
        """PATH becomes PATH.1, that PATH.2, and so on; the last is gone."""
        for number in range(self._config.keep - 1, 0, -1):
            older = Path(f"{path}.{number}")
            if older.exists():
                older.replace(f"{path}.{number + 1}")
        if self._config.keep:
            path.replace(f"{path}.1")
        else:
            path.unlink()
        self._reopen(path)
