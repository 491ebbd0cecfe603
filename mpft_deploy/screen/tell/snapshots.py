"""JPEG files of the frames that decided, kept within a size and an age.

Nobody may lose evidence because a clock was set. So a file's age is counted by the monotonic clock;
the date is asked only how old those were that were there at the start, and believed in that once
it has gone steadily for a day. One that cannot be, as on boards without a battery, tells nothing.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import PICTURES, display, write_atomic
from mpft_deploy.screen.streams.clock import Clock, SystemClock
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.config import Snapshots
from mpft_deploy.screen.tell.discovery import slug
from mpft_deploy.screen.tell.stats import SinkStats, Worker

CAPACITY = 16
"""Pictures that wait to be written; each is a whole frame in memory."""

QUALITY = 90

DAY = 86400.0

STEP = 60.0
"""Seconds by which the date may drift from the monotonic clock before somebody set it."""

FIRST_DATE = 1.6e9
"""Seconds since the Unix epoch, in 2020: no snapshot is older than this program."""

AT_ONCE = 16
"""Files that are deleted for their age in one go, at most."""

NAME = re.compile(r"\d{8}T\d{6}Z-(no-sign|generated|unsure)-[A-Za-z0-9_-]+\.jpg")
"""What a snapshot is called; no other file of the folder is ever touched."""


@dataclass
class _File:
    """A snapshot: born by the monotonic clock, and its date if it was there before us."""

    born: float
    size: int
    path: Path
    date: float | None = None


class SnapshotSink:
    """Writes pictures from a thread of its own.

    Args:
        evidence: the picture of a stream's verdict; None where there is none.
    """

    name = "snapshots"

    def __init__(
        self,
        config: Snapshots,
        evidence: Callable[[StreamEvent], Picture | None],
        clock: Clock | None = None,
    ) -> None:
        self.folder = Path(config.folder)
        self._config, self._evidence = config, evidence
        self._clock = clock or SystemClock()
        self._steady = self._clock.monotonic()
        """Since when nobody set the date, as far as is known."""
        self._offset = self._clock.time() - self._steady
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._kept = deque(self._find())
            self._bytes = sum(file.size for file in self._kept)
            self._prune()
        except OSError as error:
            raise EnvironmentLacksError(
                f"[snapshots] folder: {display(self.folder)} cannot be used: {error.strerror}"
            ) from None
        self._worker: Worker[tuple[Path, Picture, bytes]] = Worker(
            self.name, self._write, CAPACITY, idle=self._prune
        )

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._worker.failure

    def attach(self, event: Event) -> Event:
        """Queue the picture of a stream's verdict; the event with its file's name.

        The file appears a moment later, or never if the disk is full: that is counted.
        """
        if not isinstance(event, StreamEvent) or event.verdict not in self._config.when:
            return event
        picture = self._evidence(event)
        if picture is None:
            return event
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(event.time))
        verdict = event.verdict.replace(" ", "-")
        name = f"{when}-{verdict}-{slug(event.source)[:60]}-{slug(event.id)[:40]}.jpg"
        named = msgspec.structs.replace(event, snapshot=name)
        self._worker.put((self.folder / name, picture, msgspec.json.encode(named)))
        return named

    def send(self, event: Event) -> None:
        """Queue the picture of a stream's verdict."""
        self.attach(event)

    def close(self, timeout: float) -> None:
        """Write what is queued."""
        self._worker.close(timeout)

    def stats(self) -> SinkStats:
        """Counts of files, and the bytes of those kept."""
        return self._worker.stats(self._bytes)

    def _find(self) -> list[_File]:
        """Snapshots that are there, oldest first."""
        found = []
        for entry in os.scandir(self.folder):
            if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat()
                date = status.st_mtime
                found.append(_File(self._born(date), status.st_size, Path(entry.path), date))
        return sorted(found, key=lambda file: (file.born, file.path))

    def _born(self, date: float) -> float:
        """When a file of that date was made, by the monotonic clock, if the date is right now."""
        age = self._clock.time() - date if date >= FIRST_DATE else 0.0
        return self._clock.monotonic() - max(0.0, age)

    def _write(self, item: tuple[Path, Picture, bytes]) -> None:
        path, picture, event = item
        data = encode_jpeg(picture.pixels, quality=QUALITY, comment=event)
        try:
            write_atomic(path, data, mode=PICTURES)
        except EnvironmentLacksError as error:
            raise OSError(errno.EIO, str(error)) from None
        self._kept.append(_File(self._clock.monotonic(), len(data), path))
        self._bytes += len(data)
        self._prune()

    def _prune(self) -> None:
        """Delete what is too much or too old; the newest file stays."""
        while len(self._kept) > 1 and self._bytes > self._config.max_bytes:
            self._delete(self._kept[0])
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        if abs(offset - self._offset) > STEP:
            # Somebody set the date: files that seemed old by it may be young by this one.
            self._steady, self._offset = now, offset
            for file in self._kept:
                if file.date is not None:
                    file.born = max(file.born, self._born(file.date))
        old = [file for file in list(self._kept)[:-1] if now >= self._due(file)]
        for file in old[:AT_ONCE]:
            self._delete(file)

    def _due(self, file: _File) -> float:
        """When a file is too old, by the monotonic clock."""
        due = file.born + DAY * self._config.max_age_days
        return due if due > self._steady else self._steady + DAY

    def _delete(self, file: _File) -> None:
        file.path.unlink(missing_ok=True)
        self._kept.remove(file)
        self._bytes -= file.size


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int, comment: bytes = b"") -> bytes:
    """A JPEG file of a picture, u8 [H, W, 3] RGB; the comment is stored in it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, comment=comment)
    return buffer.getvalue()
