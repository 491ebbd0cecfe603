"""JPEG files of the frames that decided."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.kept import Kept
from mpft_deploy.screen.tell.limits import Snapshots
from mpft_deploy.screen.tell.stats import Worker
from mpft_deploy.screen.tell.store import Store

CAPACITY = 16
"""Pictures that wait to be written; each is a whole frame in memory."""

QUALITY = 90


class SnapshotSink(Worker[tuple[StreamEvent, Picture]]):
    """Writes pictures from a thread of its own.

    Args:
        evidence: the picture of a stream's verdict; None where there is none.
    """

    def __init__(
        self,
        config: Snapshots,
        evidence: Callable[[StreamEvent], Picture | None],
        store: Store,
    ) -> None:
        self._when, self._evidence = config.when, evidence
        self.kept = Kept("snapshots", ".jpg", config, store)
        super().__init__("snapshots", self._write, CAPACITY, idle=self.kept.prune)

    def attach(self, event: Event) -> Event:
        """Queue the picture of a stream's verdict; the event with its file's name.

        The file appears a moment later, or never if the disk is full: that is counted.
        """
        if not isinstance(event, StreamEvent) or event.verdict not in self._when:
            return event
        picture = self._evidence(event)
        if picture is None:
            return event
        name = self.kept.name(event.time, event.verdict, event.stream, event.id)
        named = msgspec.structs.replace(event, snapshot=name)
        self.put((named, picture))
        return named

    def send(self, event: Event) -> None:
        """Queue the picture of a stream's verdict."""
        self.attach(event)

    @property
    def disk_bytes(self) -> int:
        """Of the files kept."""
        return self.kept.size()

    def _write(self, item: tuple[StreamEvent, Picture]) -> None:
        event, picture = item
        data = encode_jpeg(picture.pixels, quality=QUALITY, comment=msgspec.json.encode(event))
        self.kept.write(event.snapshot, event.verdict, data)


def encode_jpeg(pixels: npt.NDArray[np.uint8], *, quality: int, comment: bytes = b"") -> bytes:
    """A JPEG file of a picture, u8 [H, W, 3] RGB; the comment is stored in it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, comment=comment)
    return buffer.getvalue()
