"""Events as JSON lines, on standard output or in a file that is rotated by size."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.tell.config import Jsonl
from mpft_deploy.screen.tell.stats import Worker

CAPACITY = 10_000
"""Events that wait for a slow disk, or for a reader of standard output that stopped reading."""

LOCK_SECONDS = 5.0
"""How long another process may keep the file locked; a line takes it a moment."""


class JsonLines(Worker[bytes]):
    """Writes each event as one line of JSON, whole; the schema is `docs/events.schema.json`.

    Attributes:
        lost: why a line was not written to standard output, where its reader is there.

    Raises:
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(self, config: Jsonl) -> None:
        self._config, self._path = config, Path(config.path)
        self.lost: OSError | None = None
        self._size, self._out = 0, -1
        try:
            if config.path == "-":
                sys.stdout.flush()  # what was printed before stays before
                self._out = os.dup(sys.stdout.fileno())
                os.write(self._out, b"")
            else:
                self._append(b"")
        except OSError as error:
            where = "standard output" if config.path == "-" else display(self._path)
            raise EnvironmentLacksError(
                f"[jsonl] path: {where} cannot be written: {error.strerror}"
            ) from None
        super().__init__("jsonl", self._append if self._out < 0 else self._print, CAPACITY)

    def send(self, event: Event) -> None:
        if type(event).__struct_config__.tag in self._config.events:
            self.put(msgspec.json.encode(event) + b"\n")

    def close(self, timeout: float) -> None:
        super().close(timeout)
        # A thread that is stuck in a write keeps its file.
        if self._out >= 0 and not self._task.is_alive():
            os.close(self._out)

    @property
    def disk_bytes(self) -> int:
        return self._size

    def _print(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._out, line) :]
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.lost = error
            raise

    def _append(self, line: bytes) -> None:
        """Write a line to the file, opened anew: whoever rotates logs may have moved it.

        It is locked meanwhile, since two processes would cut off each other's lines on a full disk.
        """
        file = self._open()
        try:
            self._size = os.fstat(file).st_size
            if line and self._size and self._size + len(line) > self._config.max_bytes:
                self._rotate()
                self._append(line)
                return
            # A process that was killed may have left half a line.
            if line and self._size and os.pread(file, 1, self._size - 1) != b"\n":
                line = b"\n" + line
            written = 0
            try:
                written = os.write(file, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._size += written
            finally:
                if written < len(line):  # half a line would spoil the next one
                    os.ftruncate(file, self._size)
        finally:
            os.close(file)

    def _open(self) -> int:
        """A descriptor of the file, locked; an OSError if another process keeps it for long."""
        end = time.monotonic() + LOCK_SECONDS
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), self._path.stat()):
                    return file
            except FileNotFoundError:  # it was moved away meanwhile, like one that is another now
                pass
            except BlockingIOError:
                if time.monotonic() >= end:
                    os.close(file)
                    raise OSError(errno.EBUSY, "another process keeps it locked") from None
                time.sleep(0.001)
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _rotate(self) -> None:
        """PATH becomes PATH.1, that PATH.2, and so on; the last is gone. With its lock."""
        files = [self._path, *(Path(f"{self._path}.{n + 1}") for n in range(self._config.keep))]
        for newer, older in reversed(list(pairwise(files))):
            if newer.exists():
                newer.replace(older)
        if not self._config.keep:
            self._path.unlink(missing_ok=True)
