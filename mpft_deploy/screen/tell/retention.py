"""What the store deletes: by age, size and class, safe from clocks that are set.

Nobody may lose evidence because somebody set a clock, or a board without a battery woke up in 1970.
So the date is believed once it has gone steadily for a day, and until then nothing is too old. When
it is set, what was kept since the start keeps its age, and what is older gets the younger of the
two that it can have; dates that cannot be are taken for today.

What a reviewer confirmed is never deleted.
"""

from __future__ import annotations

import sqlite3
from typing import get_args

from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.tell.database import transaction
from mpft_deploy.screen.tell.limits import EventClass, Limits

DAY = 86400.0

STEP = 60.0
"""Seconds by which the date may drift from the monotonic clock before somebody set it."""

FIRST_DATE = 1.6e9
"""Seconds since the Unix epoch, in 2020: nothing is older than this program."""

AT_ONCE = 500
"""Rows of a class that are deleted in one go, at most."""

FILES_AT_ONCE = 16
"""Files that are deleted for their age in one go, at most."""

AUDITED = 100_000
"""Rows of who did what, at most."""

_KEYS = {"events": "id", "deliveries": "event", "files": "rowid", "audit": "id"}
"""What counts up in each table."""

OF_KIND = "WHERE substr(name, -length(?1)) = ?1"
"""Of files: those with a suffix."""

_UNCONFIRMED_FILES = " AND ".join(
    f"name NOT IN (SELECT {column} FROM events WHERE state = 'confirmed' AND {column} NOTNULL)"
    for column in ("snapshot", "package")
)


class Retention:
    """Judges and deletes rows; called by whoever has the store's lock."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._steady = clock.monotonic()
        self._offset = self._least = clock.time() - self._steady
        self._mended = False  # whether dates that cannot be were looked for
        self._before = {table: self._last(table) for table in _KEYS}

    def now(self) -> float:
        """What a row is dated that is added now; if the date was set, it is mended later."""
        return self._clock.monotonic() + self._offset

    def adopted(self) -> None:
        """The files that are there by now were dated by someone else's clock."""
        self._before["files"] = self._last("files")

    def events(self, limits: Limits) -> int:
        """Delete events, with deliveries that nobody took; how many of these were lost.

        Who did what is kept as long as the events that are kept for longest.

        If the file is too large, frame verdicts that wait for a receiver go before all else: they
        are many, and say little.
        """
        lost = 0
        if self._believed():
            for kind, bound in self._bounds(limits).items():
                old = f"verdict IS ? AND at < ? AND state IS NOT 'confirmed' LIMIT {AT_ONCE}"
                self._delete("events", "id", old, kind, bound)
            bound = min(self._bounds(limits).values())
            lost += self._delete("deliveries", "event", "at < ?", bound)
            self._delete("audit", "id", "at < ?", bound)
        self._delete("audit", "id", f"id <= (SELECT max(id) FROM audit) - {AUDITED}")
        while self.size() > limits.max_bytes:
            orphans = f"event NOT IN (SELECT id FROM events) ORDER BY event LIMIT {AT_ONCE}"
            found = self._delete("deliveries", "event", orphans)
            lost += found
            oldest = f"state IS NOT 'confirmed' ORDER BY id LIMIT {AT_ONCE}"
            if not (found or self._delete("events", "id", oldest)):
                break  # what is left is confirmed
        return lost

    def files(self, suffix: str, limits: Limits) -> list[str]:
        """Names of files of a kind to delete; never the newest."""
        names = []
        (newest, surplus) = self._db.execute(
            f"SELECT max(rowid), coalesce(sum(bytes), 0) FROM files {OF_KIND}", (suffix,)
        ).fetchone()
        surplus -= limits.max_bytes
        oldest = f"SELECT name, bytes FROM files {OF_KIND} AND {_UNCONFIRMED_FILES} AND rowid < ?2"
        for name, size in self._db.execute(f"{oldest} ORDER BY at, rowid", (suffix, newest)):
            if surplus <= 0:
                break
            names.append(name)
            surplus -= size
        if self._believed():
            old = f"{oldest} AND verdict = ?3 AND at < ?4 ORDER BY at LIMIT {FILES_AT_ONCE}"
            for kind, bound in self._bounds(limits).items():
                values = (suffix, newest, kind, bound)
                names += [row[0] for row in self._db.execute(old, values)]
        return list(dict.fromkeys(names))

    def _believed(self) -> bool:
        """Whether the date can be believed; mends those of rows if it was set or not believed."""
        monotonic, date = self._clock.monotonic(), self._clock.time()
        offset = date - monotonic
        step = offset - self._offset
        if abs(step) > STEP:
            least = min(self._least, offset)
            with transaction(self._db):
                for table, key in _KEYS.items():
                    sql = f"UPDATE {table} SET at = at + CASE WHEN {key} > ? THEN ? ELSE ? END"
                    older = step - least + self._least
                    self._db.execute(sql, (self._before[table], step, older))
            self._steady, self._offset, self._mended = monotonic, offset, False
            self._least = least
        if monotonic - self._steady < DAY or date < FIRST_DATE:
            return False
        if not self._mended:
            with transaction(self._db):
                for table in _KEYS:
                    sql = f"UPDATE {table} SET at = ?1 WHERE at > ?1 OR at < ?2"
                    self._db.execute(sql, (date, FIRST_DATE))
            self._mended, self._least = True, self._offset
        return True

    def _delete(self, table: str, key: str, rows: str, *values: object) -> int:
        sql = f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {rows})"
        return self._db.execute(sql, values).rowcount

    def _last(self, table: str) -> int:
        (last,) = self._db.execute(f"SELECT max({_KEYS[table]}) FROM {table}").fetchone()
        return last or 0

    def size(self) -> int:
        """Bytes of the file that hold something."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _bounds(self, limits: Limits) -> dict[EventClass | None, float]:
        """The oldest date that each class may have; None stands for events of sources."""
        return {
            None if kind == "source" else kind: self._clock.time()
            - DAY * limits.days.get(kind, limits.max_age_days)
            for kind in get_args(EventClass)
        }
