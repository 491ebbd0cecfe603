"""What the store deletes: by age, size and class.

Ages are told by a clock of the store's own, which counts while it is open. Nobody may lose evidence
because somebody set a clock, or a board without a battery woke up in 1970: so the date is asked for
nothing but how long the store was closed, and believed for a day of that at most.

What a reviewer confirmed is never deleted.
"""

from __future__ import annotations

import sqlite3
from typing import get_args

import msgspec

from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.tell.table import EventClass, Limits

DAY = 86400.0

AT_ONCE = 500
"""Rows of a class that are deleted in one go, at most."""

AUDITED = 100_000
"""Rows of who did what, at most."""


class _Reading(msgspec.Struct):
    """The store's clock when it was looked at last, and the date of then."""

    now: float
    date: float


class Retention:
    """Judges and deletes rows; called by whoever has the store's lock."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db, self._clock = db, clock
        date = clock.time()
        found = db.execute("SELECT value FROM settings WHERE source = '' AND key = 'clock'")
        rows = [msgspec.json.decode(value, type=_Reading) for (value,) in found]
        kept = rows[0] if rows else _Reading(0.0, date)
        self._ahead = kept.now + min(max(0.0, date - kept.date), DAY) - clock.monotonic()

    def now(self) -> float:
        """Seconds by the store's clock."""
        return self._clock.monotonic() + self._ahead

    def keep_clock(self) -> None:
        """Go on from here after a restart."""
        value = msgspec.json.encode(_Reading(self.now(), self._clock.time()))
        self._db.execute("INSERT OR REPLACE INTO settings VALUES ('', 'clock', ?)", (value,))

    def events(self, limits: Limits) -> int:
        """Delete events, with deliveries of them that nobody took yet; how many these were."""
        for kind in get_args(EventClass):
            oldest = self.now() - DAY * limits.days_of(kind)
            self._delete("verdict IS ? AND at < ?", None if kind == "source" else kind, oldest)
        while self.size() > limits.max_bytes and self._delete("true ORDER BY id"):
            pass  # until what is left is confirmed
        self._db.execute(f"DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - {AUDITED}")
        orphans = "DELETE FROM deliveries WHERE event NOT IN (SELECT id FROM events)"
        lost = self._db.execute(f"{orphans} AND due NOTNULL").rowcount
        self._db.execute(orphans)
        return lost

    def size(self) -> int:
        """Bytes of the file that hold something."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _delete(self, wanted: str, *values: object) -> int:
        rows = f"SELECT id FROM events WHERE state IS NOT 'confirmed' AND {wanted} LIMIT {AT_ONCE}"
        return self._db.execute(f"DELETE FROM events WHERE id IN ({rows})", values).rowcount
