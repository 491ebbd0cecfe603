"""JPEG files of the frames that decided; the store knows each, and which are to go."""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import PICTURES, display, write_atomic
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.config import Snapshots
from mpft_deploy.screen.tell.discovery import slug
from mpft_deploy.screen.tell.stats import SinkStats, Worker
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.spec import StreamVerdict

CAPACITY = 16
"""Pictures that wait to be written; each is a whole frame in memory."""

QUALITY = 90

NAME = re.compile(r"\d{8}T\d{6}Z-(no-sign|generated|unsure)-[A-Za-z0-9_-]+\.jpg")
"""What a snapshot is called; no other file of the folder is ever touched."""


_VERDICTS: dict[str, StreamVerdict] = {
    verdict.replace(" ", "-"): verdict for verdict in get_args(StreamVerdict)
}


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
        store: Store,
    ) -> None:
        self.folder = Path(config.folder)
        self._config, self._evidence, self._store = config, evidence, store
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            store.adopt_files(self._find())
            self._prune()
        except OSError as error:
            raise EnvironmentLacksError(
                f"[snapshots] folder: {display(self.folder)} cannot be used: {error.strerror}"
            ) from None
        self._worker: Worker[tuple[StreamEvent, Picture]] = Worker(
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
        name = f"{when}-{verdict}-{slug(event.stream)[:60]}-{slug(event.id)[:40]}.jpg"
        named = msgspec.structs.replace(event, snapshot=name)
        self._worker.put((named, picture))
        return named

    def send(self, event: Event) -> None:
        """Queue the picture of a stream's verdict."""
        self.attach(event)

    def close(self, timeout: float) -> None:
        """Write what is queued."""
        self._worker.close(timeout)

    def stats(self) -> SinkStats:
        """Counts of files, and the bytes of those kept."""
        return self._worker.stats(self._store.files_bytes())

    def _find(self) -> list[tuple[str, StreamVerdict, int, float]]:
        """Snapshots that are there, oldest first: name, verdict, bytes and date."""
        found = []
        for entry in os.scandir(self.folder):
            if (name := NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                status = entry.stat()
                found.append((entry.name, _VERDICTS[name[1]], status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: (file[3], file[0]))

    def _write(self, item: tuple[StreamEvent, Picture]) -> None:
        event, picture = item
        data = encode_jpeg(picture.pixels, quality=QUALITY, comment=msgspec.json.encode(event))
        try:
            write_atomic(self.folder / event.snapshot, data, mode=PICTURES)
            self._store.keep_file(event.snapshot, event.verdict, len(data))
            self._prune()
        except EnvironmentLacksError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _prune(self) -> None:
        for name in self._store.excess_files(self._config):
            (self.folder / name).unlink(missing_ok=True)
            self._store.forget_file(name)


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int, comment: bytes = b"") -> bytes:
    """A JPEG file of a picture, u8 [H, W, 3] RGB; the comment is stored in it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, comment=comment)
    return buffer.getvalue()
