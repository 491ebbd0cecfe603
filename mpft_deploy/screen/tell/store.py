"""Everything that outlives a moment, in one SQLite file: events, reviews, deliveries that wait.

A killed process loses nothing that was added; a power cut may lose the last half minute. While the
file cannot be written, as on a full disk, what is added waits in memory, a bounded number of
events, and is delivered from there; the log says so, and it is written when that works again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.config import Storage
from mpft_deploy.screen.tell.database import DAY, USED, WAITING, Database
from mpft_deploy.screen.tell.stats import Counted, SinkStats, Trouble
from mpft_deploy.screen.tell.table import EventClass, Limits
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

ReviewState = Literal["open", "confirmed", "dismissed", "unclear"]

BODY = msgspec.json.Decoder(StreamEvent | SourceEvent)

_COLUMNS = "id, body, state, note, reviewer, reviewed_at, snapshot, package"
"""Of the table `events`, for `_read_row`."""

MEMORY_BYTES = 16 * 1024**2
"""Of a store that has no file."""

CAPACITY = 1000
"""Events that wait in memory."""

AGAIN = 1.0
"""Seconds between two attempts to write what waits in memory."""

UPKEEP = 60.0
"""Seconds between two looks for what is too old or too much."""

AT_ONCE = 500
"""Rows of a class that are deleted in one go, at most."""

AUDITED = 100_000
"""Rows of who did what, at most."""


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
        return BODY.decode(self.body)


class StoredEvent(msgspec.Struct, frozen=True):
    """An event, and what became of it.

    Attributes:
        id: counts up in the order of events; not the `id` that the event itself carries.
        state: of its review; None where there is nothing to review, as of a stream turned unsure.
        by, reviewed_at: who said so, and when, in seconds since the Unix epoch; None if nobody did.
        snapshot, package: files of the frame that decided and of the evidence, as long as they are
            kept.
    """

    id: int
    event: StreamEvent | SourceEvent
    state: ReviewState | None
    note: str
    by: str
    reviewed_at: float | None
    snapshot: str | None
    package: str | None


class Precision(msgspec.Struct, frozen=True):
    """What reviewers said of verdicts "generated"."""

    confirmed: int = 0
    dismissed: int = 0
    unclear: int = 0
    open: int = 0


class Store(Database, Counted):
    """A file of events; see `Database`.

    Args:
        limits: of what is kept.

    Attributes:
        changes: how many events and reviews were written since the start.
    """

    def __init__(
        self, path: Path | None, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        Database.__init__(self, path, clock)
        Counted.__init__(self, "store", logger)
        self._limits = limits or Storage()
        if path is None:
            small = min(self._limits.max_bytes, MEMORY_BYTES)
            self._limits = msgspec.structs.replace(self._limits, max_bytes=small)
        self._unfit, self._next_try = Trouble(logger), float("-inf")
        self.changes = 0
        self._last = self.number("SELECT max(seq) FROM sqlite_sequence WHERE name = 'events'")
        self._task = Task("store", self._look_after)
        self._task.start()

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
            row = (self._last, self.now(), event.time, event.source, verdict, body)
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
        sql = f"SELECT {_COLUMNS} FROM events {by} {where} ORDER BY id DESC LIMIT ?"
        return [_read_row(row) for row in self.rows(sql, *given.values(), limit)]

    def sources(self) -> list[str]:
        """Of all events, by name, whether they are screened still or not."""
        return [name for (name,) in self.rows("SELECT DISTINCT source FROM events ORDER BY source")]

    def event(self, number: int) -> StoredEvent | None:
        """One event; None if there is none of that number, or no more."""
        rows = self.rows(f"SELECT {_COLUMNS} FROM events WHERE id = ?", number)
        return _read_row(rows[0]) if rows else None

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
        with self._lock:
            stored = self.event(number)
            if stored is None or stored.state is None:
                raise KeyError(number)
            values = "state = ?, note = ?, reviewer = ?, reviewed_at = ?"
            self.rows(f"UPDATE events SET {values} WHERE id = ?", state, note, by, now, number)
            self.changes += 1
        return msgspec.structs.replace(stored, state=state, note=note, by=by, reviewed_at=now)

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

    def stats(self) -> SinkStats:
        with self._lock:
            waiting = self.number("SELECT count(*) FROM new_events")
            used = self.number(USED)
            return msgspec.structs.replace(super().stats(), waiting=waiting, disk_bytes=used)

    def close(self, timeout: float = 0.0) -> None:
        """Write what is left, and let another process have the file; waits for nobody."""
        with self._lock:
            if self._closed.is_set():
                return
            self._write_out(last=True)
            if lost := self.number("SELECT count(*) FROM new_events"):
                logger.error("store %s: %d events are lost", self._where, lost)
            with contextlib.suppress(EnvironmentLacksError):  # it is a minute behind then
                self.keep_clock()
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
        """Delete what is too old or too much, but nothing that was confirmed; done every minute."""
        orphans = "FROM deliveries WHERE event NOT IN (SELECT id FROM events)"
        with self._lock:
            try:
                for kind in get_args(EventClass):
                    verdict = None if kind == "source" else kind
                    oldest = self.now() - DAY * self._limits.days_of(kind)
                    self._delete("verdict IS ? AND at < ?", verdict, oldest)
                while self.number(USED) > self._limits.max_bytes:
                    if not self._delete("true ORDER BY id"):
                        break  # what is left is confirmed
                self.rows(f"DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - {AUDITED}")
                lost = self.number(f"SELECT count(*) {orphans} AND due NOTNULL")
                self.rows(f"DELETE {orphans}")
                if lost:
                    logger.warning("store %s: %d deliveries were dropped", self._where, lost)
                    self.dropped["limit"] += lost
                self.keep_clock()
            except EnvironmentLacksError as error:
                self._trouble.begin(f"{error}; nothing can be deleted")

    def _delete(self, wanted: str, *values: object) -> int:
        """Delete such events, the first of them; how many."""
        rows = f"SELECT id FROM events WHERE state IS NOT 'confirmed' AND {wanted} LIMIT {AT_ONCE}"
        self.rows(f"DELETE FROM events WHERE id IN ({rows})", *values)
        return self.number("SELECT changes()")

    def _write_out(self, *, last: bool = False) -> None:
        """Write what is not written; if that fails it stays in memory, and the log says so."""
        if self._closed.is_set() or (time.monotonic() < self._next_try and not last):
            return
        try:
            count = self.write_out()
        except sqlite3.Error as error:
            self._failures += 1
            self._next_try = time.monotonic() + AGAIN
            self._trouble.begin(f"store {self._where}: {error}; events wait in memory")
        else:
            self._delivered += count
            self.changes += count
            self._trouble.end(f"store {self._where}: can be written again")


def _read_row(row: tuple[Any, ...]) -> StoredEvent:
    number, body, *rest = row
    return StoredEvent(number, BODY.decode(body), *rest)
