"""JPEG files of the frames that decided, kept within a size and an age."""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import display, write_atomic
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.config import Snapshots
from mpft_deploy.screen.tell.discovery import slug
from mpft_deploy.screen.tell.stats import SinkStats, Worker

CAPACITY = 16
"""Pictures that wait to be written; each is a whole frame in memory."""

QUALITY = 90

NAME = re.compile(r"\d{8}T\d{6}Z-(real|generated|unsure)-[A-Za-z0-9_-]+\.jpg")
"""What a snapshot is called; no other file of the folder is ever touched."""


class SnapshotSink:
    """Writes pictures from a thread of its own.

    Args:
        picture: the last judged frame of a source.
    """

    name = "snapshots"

    def __init__(self, config: Snapshots, picture: Callable[[str], Picture | None]) -> None:
        self.folder = Path(config.folder)
        self._config, self._picture = config, picture
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._kept = deque(self._find())
        except OSError as error:
            raise EnvironmentLacksError(
                f"[snapshots] folder: {display(self.folder)} cannot be used: {error.strerror}"
            ) from None
        self._bytes = sum(size for _, size, _ in self._kept)
        self._prune()
        self._worker: Worker[tuple[Path, Picture, bytes]] = Worker(
            self.name, self._write, CAPACITY, idle=self._prune
        )

    def attach(self, event: Event) -> Event:
        """Queue the picture of a stream's verdict; the event with its file's name.

        The file appears a moment later, or never if the disk is full: that is counted.
        """
        if not isinstance(event, StreamEvent) or event.verdict not in self._config.when:
            return event
        try:
            picture = self._picture(event.source)
        except KeyError:
            picture = None
        if picture is None:
            return event
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(event.time))
        name = f"{when}-{event.verdict}-{slug(event.source)[:60]}-{slug(event.id)[:40]}.jpg"
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

    def _find(self) -> list[tuple[float, int, Path]]:
        """Snapshots that are there, oldest first: time, bytes, path."""
        found = []
        for entry in os.scandir(self.folder):
            if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return sorted(found)

    def _write(self, item: tuple[Path, Picture, bytes]) -> None:
        path, picture, event = item
        data = encode_jpeg(picture.pixels, quality=QUALITY, comment=event)
        try:
            write_atomic(path, data)
        except EnvironmentLacksError:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        self._kept.append((time.time(), len(data), path))
        self._bytes += len(data)
        self._prune()

    def _prune(self) -> None:
        oldest = time.time() - 86400 * self._config.max_age_days
        while self._kept and (self._bytes > self._config.max_bytes or self._kept[0][0] < oldest):
            _, size, path = self._kept.popleft()
            path.unlink(missing_ok=True)
            self._bytes -= size


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int, comment: bytes = b"") -> bytes:
    """A JPEG file of a picture, u8 [H, W, 3] RGB; the comment is stored in it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, comment=comment)
    return buffer.getvalue()
