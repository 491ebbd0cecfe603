"""Files that are kept of verdicts, in a folder, such as JPEG files of the frames that decided.

The store knows each, and which are to go.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import PICTURES, TEMPORARY, display, write_atomic
from mpft_deploy.screen.picture import encoded
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.config import Snapshots
from mpft_deploy.screen.tell.database import DAY
from mpft_deploy.screen.tell.discovery import slug
from mpft_deploy.screen.tell.stats import Item, Worker
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.tell.table import KeptLimits
from mpft_deploy.spec import StreamVerdict

CAPACITY = 16
"""Pictures that wait to be written; each is a whole frame in memory."""

QUALITY = 90

HOUR = 3600

_UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}\w+\.tmp")

_OF_KIND = "WHERE substr(name, -length(?1)) = ?1"


class KeptFile(msgspec.Struct, frozen=True):
    """A file; its name begins with its date."""

    name: str
    verdict: StreamVerdict
    bytes: int


class Kept(Worker[Item], ABC):
    """A sink that keeps files of one kind in a folder; no other file of it is ever touched, but for
    those that a killed process left unfinished.

    Args:
        table: of the configuration.
        suffix: of the files: ".jpg".
        capacity: files that wait to be written, at most.

    Raises:
        EnvironmentLacksError: the folder cannot be used.
    """

    def __init__(
        self,
        table: str,
        suffix: str,
        limits: KeptLimits,
        store: Store,
        capacity: int,
    ) -> None:
        self.folder = Path(limits.folder)
        self._suffix, self._limits, self._store = suffix, limits, store
        verdicts = "|".join(get_args(StreamVerdict)).replace(" ", "-")
        name = rf"\d{{8}}T\d{{6}}Z-({verdicts})-[A-Za-z0-9_-]+{re.escape(suffix)}"
        self._known = re.compile(name)
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            with contextlib.suppress(EnvironmentLacksError):  # of the store: its disk is full
                self._look_after()
        except OSError as error:
            raise EnvironmentLacksError(
                f"[{table}] folder: {display(self.folder)} cannot be used: {error.strerror}"
            ) from None
        super().__init__(table, self._make, capacity, idle=self._look_after)

    @abstractmethod
    def plan(self, event: StreamEvent, name: str) -> StreamEvent:
        """Queue the file of a verdict; the event with its name, or as it is if there is none."""

    @abstractmethod
    def _make(self, item: Item) -> None:
        """Make a file, and `write` it; see `Worker`."""

    def attach(self, event: Event) -> Event:
        """Queue the file of a stream's verdict, if it is to have one; the event with its name.

        The file appears a moment later, or never if the disk is full: that is counted.
        """
        if not isinstance(event, StreamEvent) or event.verdict not in self._limits.when:
            return event
        name = self.name_of(event.time, event.verdict, event.stream, event.id)
        return self.plan(event, name)

    def send(self, event: Event) -> None:
        """Queue the file of a stream's verdict."""
        self.attach(event)

    @property
    def disk_bytes(self) -> int:
        return self._store.number(f"SELECT sum(bytes) FROM files {_OF_KIND}", self._suffix)

    def name_of(self, at: float, verdict: StreamVerdict, source: str, number: str) -> str:
        """What a file is called; number: of the event, which tells it from all others."""
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        said = verdict.replace(" ", "-")
        return f"{when}-{said}-{slug(source)[:60]}-{slug(number)[:40]}{self._suffix}"

    def write(self, name: str, verdict: StreamVerdict, data: bytes) -> None:
        """Keep a file, and delete what is too old or too much.

        Raises:
            OSError or EnvironmentLacksError: that fails, as on a full disk.
        """
        write_atomic(self.folder / name, data, mode=PICTURES)
        self._note(name, verdict, len(data))
        self.prune()

    def find(self, name: str) -> Path | None:
        """A file that is kept, and no other."""
        path = self.folder / name
        known = self._known.fullmatch(name) and path.is_file() and not path.is_symlink()
        return path if known else None

    def prune(self) -> None:
        """Delete what is too old or too much, but neither the newest nor what was confirmed."""
        now, size = self._store.now(), 0
        confirmed = "SELECT 1 FROM events WHERE state = 'confirmed' AND {} = name".format
        rows = self._store.rows(
            f"SELECT name, at, verdict, bytes, EXISTS ({confirmed('snapshot')}) OR "
            f"EXISTS ({confirmed('package')}) AS stays, rowid = max(rowid) OVER () "
            f"FROM files {_OF_KIND} ORDER BY stays DESC, rowid DESC",
            self._suffix,
        )
        for name, at, verdict, length, stays, newest in rows:
            size += length
            old = now - at > DAY * self._limits.days_of(verdict)
            if (old or size > self._limits.max_bytes) and not (stays or newest):
                self.delete(name)

    def delete(self, name: str) -> None:
        """Delete a file that is kept; its event names it no more."""
        (self.folder / name).unlink(missing_ok=True)
        self._store.rows("DELETE FROM files WHERE name = ?", name)

    def unnamed(self) -> list[KeptFile]:
        """Files that no event names, newest first."""
        named = "SELECT {0} FROM events WHERE {0} NOTNULL".format
        sql = (
            f"SELECT name, verdict, bytes FROM files {_OF_KIND} AND name NOT IN "
            f"({named('snapshot')} UNION {named('package')}) ORDER BY rowid DESC"
        )
        return [KeptFile(*row) for row in self._store.rows(sql, self._suffix)]

    def _look_after(self) -> None:
        self._adopt()
        self.prune()

    def _adopt(self) -> None:
        """Take the folder as it is: what is new there begins to age now."""
        rows = self._store.rows(f"SELECT name FROM files {_OF_KIND}", self._suffix)
        known = {row[0] for row in rows}
        files = [one for one in os.scandir(self.folder) if one.is_file(follow_symlinks=False)]
        for one in files:
            # Of a process that was killed while it wrote.
            if _UNFINISHED.fullmatch(one.name) and time.time() - one.stat().st_mtime > HOUR:
                Path(one.path).unlink(missing_ok=True)
        there = {one.name: one.stat() for one in files if self._known.fullmatch(one.name)}
        if known & there.keys():  # or its file system may not be mounted
            for name in known - there.keys():
                self.delete(name)
        for name in sorted(there.keys() - known, key=lambda name: there[name].st_mtime):
            found = self._known.fullmatch(name)
            assert found is not None
            self._note(name, found[1].replace("-", " "), there[name].st_size)

    def _note(self, name: str, verdict: str, size: int) -> None:
        row = (name, self._store.now(), verdict, size)
        self._store.rows("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", *row)


class SnapshotSink(Kept[tuple[StreamEvent, Picture]]):
    """Writes pictures from a thread of its own.

    Args:
        evidence: the picture of a stream's verdict; None where there is none.
    """

    def __init__(
        self, config: Snapshots, evidence: Callable[[StreamEvent], Picture | None], store: Store
    ) -> None:
        self._evidence = evidence
        super().__init__("snapshots", ".jpg", config, store, CAPACITY)

    def plan(self, event: StreamEvent, name: str) -> StreamEvent:
        picture = self._evidence(event)
        if picture is None:
            return event
        named = msgspec.structs.replace(event, snapshot=name)
        self.put((named, picture))
        return named

    def _make(self, item: tuple[StreamEvent, Picture]) -> None:
        from PIL import Image

        event, picture = item
        image, comment = Image.fromarray(picture.pixels), msgspec.json.encode(event)
        self.write(event.snapshot, event.verdict, encoded(image, quality=QUALITY, comment=comment))
