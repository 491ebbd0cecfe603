"""Files that are kept of verdicts, in a folder; the store knows each, and which are to go."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path
from typing import get_args

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import PICTURES, display, write_atomic
from mpft_deploy.screen.tell.discovery import slug
from mpft_deploy.screen.tell.limits import KeptLimits
from mpft_deploy.screen.tell.retention import OF_KIND
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.spec import StreamVerdict

_VERDICTS: dict[str, StreamVerdict] = {
    verdict.replace(" ", "-"): verdict for verdict in get_args(StreamVerdict)
}


class KeptFile(msgspec.Struct, frozen=True):
    """A file; time: since when it is kept, in seconds since the Unix epoch."""

    name: str
    time: float
    verdict: StreamVerdict
    bytes: int


class Kept:
    """The files of one kind in a folder; no other file of it is ever touched.

    Args:
        table: of the configuration, for messages.
        suffix: of the files: ".jpg".

    Raises:
        EnvironmentLacksError: the folder cannot be used.
    """

    def __init__(self, table: str, suffix: str, limits: KeptLimits, store: Store) -> None:
        self.folder = Path(limits.folder)
        self._suffix, self._limits, self._store = suffix, limits, store
        verdicts = "|".join(_VERDICTS)
        self._name = re.compile(rf"\d{{8}}T\d{{6}}Z-({verdicts})-[A-Za-z0-9_-]+{re.escape(suffix)}")
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            store.adopt_files(suffix, self._find())
            self.prune()
        except OSError as error:
            raise EnvironmentLacksError(
                f"[{table}] folder: {display(self.folder)} cannot be used: {error.strerror}"
            ) from None

    def name(self, at: float, verdict: StreamVerdict, source: str, number: str) -> str:
        """What a file is called; number: of the event, which tells it from all others."""
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        said = verdict.replace(" ", "-")
        return f"{when}-{said}-{slug(source)[:60]}-{slug(number)[:40]}{self._suffix}"

    def write(self, name: str, verdict: StreamVerdict, data: bytes) -> None:
        """Keep a file, and delete what is too old or too much. An OSError if that fails."""
        try:
            write_atomic(self.folder / name, data, mode=PICTURES)
            row = (name, self._store.now(), verdict, len(data))
            self._store.rows("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", *row)
            self.prune()
        except EnvironmentLacksError as error:
            raise OSError(errno.EIO, str(error)) from None

    def find(self, name: str) -> Path | None:
        """A file that is kept, and no other."""
        path = self.folder / name
        known = self._name.fullmatch(name) and path.is_file() and not path.is_symlink()
        return path if known else None

    def prune(self) -> None:
        """Delete what is too old or too much."""
        for name in self._store.excess_files(self._suffix, self._limits):
            self.delete(name)

    def delete(self, name: str) -> None:
        """Delete a file that is kept."""
        (self.folder / name).unlink(missing_ok=True)
        self._store.forget_file(name)

    def unnamed(self) -> list[KeptFile]:
        """Files that no event names, newest first."""
        named = "SELECT {0} FROM events WHERE {0} NOTNULL".format
        sql = (
            f"SELECT name, at, verdict, bytes FROM files {OF_KIND} AND name NOT IN "
            f"({named('snapshot')} UNION {named('package')}) ORDER BY at DESC, rowid DESC"
        )
        return [KeptFile(*row) for row in self._store.rows(sql, self._suffix)]

    def size(self) -> int:
        """Bytes of all."""
        return self._store.files_bytes(self._suffix)

    def _find(self) -> list[tuple[str, StreamVerdict, int, float]]:
        """Files that are there, oldest first: name, verdict, bytes and date."""
        found = []
        for entry in os.scandir(self.folder):
            if (name := self._name.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                status = entry.stat()
                found.append((entry.name, _VERDICTS[name[1]], status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: (file[3], file[0]))
