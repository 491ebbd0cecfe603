"""Reviewed frames as a data set, in the layout that `mpft eval`, `calibrate` and `train` read."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mpft_deploy.screen.tell.store import StoredEvent

PAGE = 200

LABELS: dict[object, str] = {
    ("generated", "confirmed"): "generated",
    ("generated", "dismissed"): "real",
    ("no sign", "confirmed"): "real",
    ("no sign", "dismissed"): "generated",
}
"""What a stream showed, by its verdict and review; of others that is not known."""


def zipped(
    events: Callable[..., list[StoredEvent]], find: Callable[[str], Path | None]
) -> Iterator[bytes]:
    """A ZIP file in parts: manifest.csv and images/, of events that have a label and a frame.

    Args:
        events: gives so many, newest first, before that of a number; see `Store.events`.
        find: the file of a snapshot.
    """
    parts = _Parts()
    lines = io.StringIO()
    manifest = csv.writer(lines)
    manifest.writerow(("path", "label", "set", "source", "event", "reviewed_by", "note"))
    # Of files from before 1980, as of boards without a battery, ZIP knows no better date.
    with zipfile.ZipFile(parts, "w", strict_timestamps=False) as archive:
        for stored in _all(events):
            verdict = getattr(stored.event, "verdict", None)  # events of sources have none
            label, path = LABELS.get((verdict, stored.state)), find(stored.snapshot or "")
            if label is None or path is None:
                continue
            name = f"images/{path.name}"
            try:
                archive.write(path, name)
            except OSError:
                continue  # it has just grown too old
            source = stored.event.source
            manifest.writerow((name, label, "reviewed", source, stored.id, stored.by, stored.note))
            yield parts.take()
        archive.writestr("manifest.csv", lines.getvalue())
    yield parts.take()


def _all(events: Callable[..., list[StoredEvent]]) -> Iterator[StoredEvent]:
    before = None
    while found := events(before=before, limit=PAGE):
        yield from found
        before = found[-1].id


class _Parts(io.RawIOBase):
    """A file that cannot be rewound; what was written to it is taken from it."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> bytes:
        new, self._written = bytes(self._written), bytearray()
        return new
