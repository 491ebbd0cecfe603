"""Everything that outlives a moment, in one SQLite file: events, reviews, deliveries that wait.

A killed process loses nothing that was added; a power cut may lose the last half minute. While the
file cannot be written, as on a full disk, what is added waits in memory, a bounded number of
events, and is delivered from there; the log says so, and it is written when that works again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.clock import Clock, SystemClock
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Storage
from mpft_deploy.screen.tell.database import WAITING, open_database, write_out
from mpft_deploy.screen.tell.retention import Retention
from mpft_deploy.screen.tell.stats import SinkStats, Trouble
from mpft_deploy.screen.tell.stored import (
    BODY,
    COLUMNS,
    Precision,
    ReviewState,
    StoredEvent,
    read_row,
)
from mpft_deploy.screen.tell.table import Limits
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

MEMORY_BYTES = 16 * 1024**2
"""Of a store that has no file."""

CAPACITY = 1000
"""Events that wait in memory."""

AGAIN = 1.0
"""Seconds between two attempts to write what waits in memory."""

UPKEEP = 60.0
"""Seconds between two looks for what is too old or too much."""


class Delivery(NamedTuple):
    """An event that waits for a receiver.

    Attributes:
        event: its number.
        body: what is sent, as JSON.
        attempts: so far.
        due: when the next is, by the store's clock.
        error: why it was refused before, where it is sent once more.
    """

    event: int
    body: bytes
    attempts: int
    due: float
    error: str | None

    @property
    def told(self) -> StreamEvent | SourceEvent:
        """The event itself."""
        return BODY.decode(self.body)


class Store:
    """A file of events, for one process; any thread may ask.

    Args:
        path: made if absent, readable by its owner alone; None for memory.
        limits: of what is kept.

    Attributes:
        path: of the file.
        dropped: events that are lost, by cause.
        changes: how many events and reviews were written since the start.

    Raises:
        UsageError: another process has it.
        InputError: it is not such a file, or of another version.
        EnvironmentLacksError: it cannot be written.
    """

    name = "store"

    def __init__(
        self, path: Path | None, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        self.path, self._where = path, "memory" if path is None else display(path)
        self._limits = limits or Storage()
        if path is None:
            small = min(self._limits.max_bytes, MEMORY_BYTES)
            self._limits = msgspec.structs.replace(self._limits, max_bytes=small)
        self._lock = threading.RLock()
        self._trouble, self._unfit = Trouble(logger), Trouble(logger)
        self._closed = threading.Event()
        self._delivered = self._failures = 0
        self._next_try = float("-inf")
        self.dropped: Counter[str] = Counter()
        self.changes = 0
        self._db = open_database(path)
        self._retention = Retention(self._db, clock or SystemClock())
        self._last = self.number("SELECT max(seq) FROM sqlite_sequence WHERE name = 'events'")
        self._task = Task("store", self._look_after)
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def send(self, event: Event) -> None:
        """Keep an event, and deliver it to nobody."""
        self.add(event)

    def add(self, event: Event, receivers: Sequence[str] = ()) -> int:
        """Keep an event, and deliver it to some receivers; never raises for a disk.

        Once this returns, it survives the process, unless the disk is full. Verdicts of frames are
        not kept.

        Returns:
            The number by which `event` and `events` know it.
        """
        if isinstance(event, FrameEvent):
            return self._last
        try:
            body = msgspec.json.encode(event)
            BODY.decode(body)
        except (UnicodeEncodeError, msgspec.ValidationError) as error:
            self._unfit.begin(f"store: an event cannot be written as JSON, and is lost: {error}")
            self.dropped["damaged"] += 1
            return self._last
        verdict = snapshot = package = state = None
        if isinstance(event, StreamEvent):
            snapshot, package = event.snapshot or None, event.package or None
            verdict = event.verdict
            state = None if event.verdict == "unsure" else "open"
        with self._lock:
            if self._closed.is_set():
                self.dropped["closed"] += 1
                return self._last
            self._last += 1
            row = (self._last, self._retention.now(), event.time, event.source, verdict, body)
            sql = "INSERT INTO new_events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', NULL)"
            self._db.execute(sql, (*row, snapshot, package, state))
            sql = "INSERT INTO new_deliveries VALUES (?, ?, NULL, 0, 0)"
            self._db.executemany(sql, [(receiver, self._last) for receiver in receivers])
            self._write_out()
            old = (self._last - CAPACITY,)  # those in memory are the last
            self._db.execute("DELETE FROM new_deliveries WHERE event <= ?", old)
            forgotten = "(SELECT id FROM new_events WHERE id <= ?)"  # in no file, to be told again
            self._db.execute(f"DELETE FROM tried WHERE event IN {forgotten}", old)
            if lost := self._db.execute("DELETE FROM new_events WHERE id <= ?", old).rowcount:
                self.dropped["disk full"] += lost
            return self._last

    def waiting(self, receiver: str, limit: int) -> list[Delivery]:
        """The oldest events that a receiver did neither take nor refuse, in their order."""
        now = "coalesce(tried.attempts, one.attempts), coalesce(tried.due, one.due), one.error"
        sql = f"SELECT event, body, {now} {WAITING} ORDER BY event LIMIT ?2".format
        found: list[Any] = []
        with self._lock:
            for new in ("", "new_"):
                with contextlib.suppress(EnvironmentLacksError):  # what is in memory is delivered
                    found += self.rows(sql(new, f"JOIN {new}events ON id = event"), receiver, limit)
        return [Delivery(*row) for row in found[:limit]]

    def settle(
        self,
        receiver: str,
        event: int,
        error: str | None = None,
        attempts: int = 1,
        due: float | None = None,
    ) -> None:
        """A receiver took an event, or refused it with an error; or it is due again."""
        with self._lock:
            if self._closed.is_set():  # the next start will tell it again
                return
            row = (receiver, event, error, attempts, due)
            self.rows("INSERT OR REPLACE INTO tried VALUES (?, ?, ?, ?, ?)", *row)
            self._write_out()

    def count_waiting(self, receiver: str) -> int:
        """How many events wait for a receiver."""
        sql = f"SELECT count(*) {WAITING}".format
        with self._lock:
            return sum(self.number(sql(new, ""), receiver) for new in ("", "new_"))

    def rows(self, sql: str, *values: object) -> list[Any]:
        """What a statement gives, which may write; an EnvironmentLacksError if it cannot."""
        with self._lock, self._explained():
            return self._db.execute(sql, values).fetchall()

    def number(self, sql: str, *values: object) -> int:
        """One number that a statement gives; 0 for none, and after the end."""
        return 0 if self._closed.is_set() else self.rows(sql, *values)[0][0] or 0

    def now(self) -> float:
        """Seconds by the clock that ages are told by; see `Retention`."""
        with self._lock:
            return self._retention.now()

    def events(
        self,
        *,
        before: int | None = None,
        limit: int = 50,
        source: str | None = None,
        verdict: StreamVerdict | None = None,
        state: ReviewState | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[StoredEvent]:
        """Events of streams and sources, newest first.

        Args:
            before: only those with lower numbers: the last of a page gives the next page.
            since, until: seconds since the Unix epoch; from the one to just before the other.
        """
        wanted = {
            "id < ?": before,
            "source = ?": source,
            "verdict = ?": verdict,
            "state = ?": state,
            "time >= ?": since,
            "time < ?": until,
        }
        given = {test: value for test, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        by = "" if source is None else "INDEXED BY events_by_source"  # of all, the rarest value
        sql = f"SELECT {COLUMNS} FROM events {by} {where} ORDER BY id DESC LIMIT ?"
        return [read_row(row) for row in self.rows(sql, *given.values(), limit)]

    def sources(self) -> list[str]:
        """Of all events, by name, whether they are screened still or not."""
        return [name for (name,) in self.rows("SELECT DISTINCT source FROM events ORDER BY source")]

    def event(self, number: int) -> StoredEvent | None:
        """One event; None if there is none of that number, or no more."""
        rows = self.rows(f"SELECT {COLUMNS} FROM events WHERE id = ?", number)
        return read_row(rows[0]) if rows else None

    def review(
        self, number: int, state: ReviewState, note: str, by: str, now: float
    ) -> StoredEvent:
        """Say what a verdict was; the event as it is then.

        Args:
            now: seconds since the Unix epoch.

        Raises:
            KeyError: there is no such event, or it is of a source and has no verdict.
            EnvironmentLacksError: it cannot be written.
        """
        sql = (
            "UPDATE events SET state = ?, note = ?, reviewer = ?, reviewed_at = ? "
            "WHERE id = ? AND state IS NOT NULL"
        )
        with self._lock, self._explained():
            if self._db.execute(sql, (state, note, by, now, number)).rowcount == 0:
                raise KeyError(number)
            self.changes += 1
            stored = self.event(number)
        assert stored is not None
        return stored

    def precision(
        self, source: str | None = None, since: float | None = None, until: float | None = None
    ) -> Precision:
        """Counts of reviews of verdicts "generated", of one source or all, of a time or ever."""
        sql = (
            "SELECT state, count(*) FROM events WHERE verdict = 'generated' "
            "AND (?1 IS NULL OR source = ?1) AND (?2 IS NULL OR time >= ?2) "
            "AND (?3 IS NULL OR time < ?3) GROUP BY state"
        )
        return Precision(**dict(self.rows(sql, source, since, until)))

    def settings(self, key: str) -> dict[str, bytes]:
        """What was set of sources under a key, by source."""
        return dict(self.rows("SELECT source, value FROM settings WHERE key = ?", key))

    def set_setting(self, source: str, key: str, value: bytes | None) -> None:
        """Set something of a source, which `settings` tells from now on; None takes it back.

        Raises:
            EnvironmentLacksError: it cannot be written.
        """
        if value is None:
            self.rows("DELETE FROM settings WHERE source = ? AND key = ?", source, key)
        else:
            self.rows("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", source, key, value)

    def forget_settings(self, source: str) -> None:
        """Take back all that was set of a source; an EnvironmentLacksError if it cannot be.

        What a broker was told stays known: that is taken back there first, once it can be reached.
        """
        self.rows("DELETE FROM settings WHERE source = ? AND key <> 'mqtt'", source)

    def stats(self) -> SinkStats:
        """Counts of events."""
        with self._lock:
            return SinkStats(
                delivered=self._delivered,
                failures=self._failures,
                dropped=dict(self.dropped),
                waiting=self.number("SELECT count(*) FROM new_events"),
                disk_bytes=0 if self._closed.is_set() else self._retention.size(),
                **self._trouble.now,
            )

    def close(self, timeout: float = 0.0) -> None:
        """Write what is left, and let another process have the file; waits for nobody."""
        with self._lock:
            if self._closed.is_set():
                return
            self._write_out(last=True)
            if lost := self.number("SELECT count(*) FROM new_events"):
                logger.error("store %s: %d events are lost", self._where, lost)
            with contextlib.suppress(sqlite3.Error):  # it is a minute behind then
                self._retention.keep_clock()
            self._closed.set()
            self._db.close()

    def _look_after(self) -> None:
        due = time.monotonic() + UPKEEP
        while not self._closed.wait(AGAIN):
            with self._lock:
                if self._closed.is_set():
                    return
                self._write_out()
                if time.monotonic() >= due:
                    due = time.monotonic() + UPKEEP
                    self.keep_limits()

    def keep_limits(self) -> None:
        """Delete what is too old or too much; done every minute anyway."""
        with self._lock:
            try:
                if lost := self._retention.events(self._limits):
                    logger.warning("store %s: %d deliveries were dropped", self._where, lost)
                    self.dropped["limit"] += lost
                self._retention.keep_clock()
            except sqlite3.Error as error:
                self._trouble.begin(f"store {self._where}: {error}; nothing can be deleted")

    def _write_out(self, *, last: bool = False) -> None:
        """Write what is not written; if that fails it stays in memory, and the log says so."""
        if self._closed.is_set() or (time.monotonic() < self._next_try and not last):
            return
        try:
            count = self.number("SELECT count(*) FROM new_events")
            write_out(self._db)
        except (sqlite3.Error, EnvironmentLacksError) as error:
            self._failures += 1
            self._next_try = time.monotonic() + AGAIN
            self._trouble.begin(f"store {self._where}: {error}; events wait in memory")
        else:
            self._delivered += count
            self.changes += count
            self._trouble.end(f"store {self._where}: can be written again")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise EnvironmentLacksError(f"store {self._where}: {error}") from None
