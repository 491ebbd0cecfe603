"""Everything that outlives a moment, in one SQLite file: events, reviews, deliveries that wait.

A killed process loses nothing that was added; a power cut may lose the last half minute. While the
file cannot be written, as on a full disk, what is added waits in memory, a bounded number of
events, and is delivered from there; the log says so, and it is written when that works again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.stats import Trouble
from mpft_deploy.spec import StreamVerdict

logger = logging.getLogger(__name__)

ReviewState = Literal["open", "confirmed", "dismissed", "unclear"]

MEMORY = 1000
"""Events that wait in memory while the file cannot be written."""

AGAIN = 1.0
"""Seconds between two attempts to write what waits in memory."""

APPLICATION = 0x6D706674
"""Tells our files from others': SQLite's `application_id`."""

VERSION = 1

_SCHEMA = f"""
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    source TEXT NOT NULL,
    verdict TEXT,
    body BLOB NOT NULL,
    snapshot TEXT,
    state TEXT,
    note TEXT NOT NULL DEFAULT '',
    reviewer TEXT NOT NULL DEFAULT '',
    reviewed_at REAL
);
CREATE INDEX events_by_source ON events (source, id);
CREATE INDEX events_by_verdict ON events (verdict, id);
CREATE INDEX events_by_state ON events (state, id);
CREATE INDEX events_by_time ON events (time, id);
CREATE TABLE deliveries (
    receiver TEXT NOT NULL,
    event INTEGER NOT NULL,
    body BLOB NOT NULL,
    error TEXT,
    PRIMARY KEY (receiver, event)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

_COLUMNS = "id, body, state, note, reviewer, reviewed_at, snapshot"


class StoredEvent(msgspec.Struct, frozen=True):
    """An event, and what became of it.

    Attributes:
        id: counts up in the order of events; not the `id` that the event itself carries.
        state: of its review; None for an event of a source, where there is nothing to review.
        by, reviewed_at: who said so, and when, in seconds since the Unix epoch; None if nobody did.
        snapshot: file of the frame that decided, as long as it is kept.
    """

    id: int
    event: StreamEvent | SourceEvent
    state: ReviewState | None
    note: str
    by: str
    reviewed_at: float | None
    snapshot: str | None


class Precision(msgspec.Struct, frozen=True):
    """What reviewers said of verdicts "generated"."""

    confirmed: int = 0
    dismissed: int = 0
    unclear: int = 0
    open: int = 0


_body = msgspec.json.Decoder(StreamEvent | SourceEvent)


@dataclass
class _Added:
    """An event that is not written yet: its row, and its receivers with what they refused it for.

    Frame verdicts have no row: they are delivered, not kept.
    """

    body: bytes
    row: tuple[object, ...] | None
    receivers: dict[str, str | None]


class Store:
    """A file of events, for one process; any thread may ask.

    Args:
        path: made if absent, readable by its owner alone; None for memory.

    Raises:
        UsageError: another process has it.
        InputError: it is not such a file, or of a later version.
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._where = "memory" if path is None else display(path)
        self._changed = threading.Condition(threading.RLock())
        self._unwritten: dict[int, _Added] = {}
        self._trouble, self._closed = Trouble(logger), threading.Event()
        self.dropped: Counter[str] = Counter()
        self._lock = None if path is None else _lock(path)
        try:
            self._db = _open(path)
        except BaseException:
            self._unlock()
            raise
        kept = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence"
        waiting = "SELECT coalesce(max(event), 0) FROM deliveries"
        self._last: int = max(self._read(kept)[0][0], self._read(waiting)[0][0])
        self._task = Task("store", self._look_after)
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def add(self, event: Event, receivers: Sequence[str] = ()) -> int:
        """Keep an event, and deliver it to some receivers; never raises for a disk.

        Once this returns, it survives the process, unless the disk is full. A frame's verdict is
        kept until it is delivered, all others until they are old.

        Returns:
            The number by which `event` and `events` know it.
        """
        row: tuple[object, ...] | None = None
        body = msgspec.json.encode(event)
        if isinstance(event, StreamEvent):
            shot = event.snapshot or None
            row = (event.time, event.source, event.verdict, body, shot, "open")
        elif not isinstance(event, FrameEvent):
            row = (event.time, event.source, None, body, None, None)
        with self._changed:
            self._last += 1
            self._unwritten[self._last] = _Added(body, row, dict.fromkeys(receivers))
            if len(self._unwritten) > MEMORY:
                del self._unwritten[next(iter(self._unwritten))]
                self.dropped["disk full"] += 1
            self._write_out()
            self._changed.notify_all()
            return self._last

    @property
    def last(self) -> int:
        """Number of the newest event, 0 before the first."""
        with self._changed:
            return self._last

    def wait(self, after: int, timeout: float) -> bool:
        """Until there is an event behind a number, at most so long; False once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or self._last > after, timeout)
            return not self._closed.is_set()

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
        sql = f"SELECT {_COLUMNS} FROM events {where} ORDER BY id DESC LIMIT ?"
        return [_stored(row) for row in self._read(sql, *given.values(), limit)]

    def event(self, number: int) -> StoredEvent | None:
        """One event; None if there is none of that number, or no more."""
        rows = self._read(f"SELECT {_COLUMNS} FROM events WHERE id = ?", number)
        return _stored(rows[0]) if rows else None

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
        with self._changed, self._explained():
            if self._db.execute(sql, (state, note, by, now, number)).rowcount == 0:
                raise KeyError(number)
            stored = self.event(number)
        assert stored is not None
        return stored

    def precision(self, source: str | None = None, since: float | None = None) -> Precision:
        """Counts of reviews of verdicts "generated", of one source or all, since a time or ever."""
        sql = (
            "SELECT state, count(*) FROM events WHERE verdict = 'generated' "
            "AND (?1 IS NULL OR source = ?1) AND (?2 IS NULL OR time >= ?2) GROUP BY state"
        )
        return Precision(**dict(self._read(sql, source, since)))

    def close(self) -> None:
        """Write what is left, and let another process have the file."""
        with self._changed:
            if self._closed.is_set():
                return
            self._closed.set()
            self._write_out()
            if self._unwritten:
                logger.error("%d events are lost: %s", len(self._unwritten), self._where)
            self._db.close()
            self._unlock()
            self._changed.notify_all()

    def _look_after(self) -> None:
        while not self._closed.wait(AGAIN):
            with self._changed:
                if self._unwritten and not self._closed.is_set():
                    self._write_out()

    def _write_out(self) -> None:
        """Write what is not written; if that fails it stays, and the log says so."""
        try:
            with self._transaction():
                for number, added in self._unwritten.items():
                    self._insert(number, added)
        except sqlite3.Error as error:
            self._trouble.begin(f"store {self._where}: {error}; events wait in memory")
        else:
            self._unwritten.clear()
            self._trouble.end(f"store {self._where}: can be written again")

    def _insert(self, number: int, added: _Added) -> None:
        if added.row is not None:
            columns = "id, time, source, verdict, body, snapshot, state"
            values = (number, *added.row)
            self._db.execute(f"INSERT INTO events ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        self._db.executemany(
            "INSERT INTO deliveries VALUES (?, ?, ?, ?)",
            [(name, number, added.body, error) for name, error in added.receivers.items()],
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _read(self, sql: str, *values: object) -> list[Any]:
        with self._changed, self._explained():
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise EnvironmentLacksError(f"store {self._where}: {error}") from None

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)


def _lock(path: Path) -> int:
    """Have the file for this process; SQLite's own locks would let two deliver everything twice."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise EnvironmentLacksError(
            f"the store {display(path)} cannot be written: {error.strerror}; "
            "name another place in [store] path"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UsageError(
            f"the store {display(path)} is used by another process; "
            "name a file for each in [store] path"
        ) from None
    return lock


def _open(path: Path | None) -> sqlite3.Connection:
    """The database, with its tables."""
    where = "memory" if path is None else display(path)
    db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA busy_timeout = 2000")  # somebody may look at it with a tool
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise InputError(f"{where} is another program's database; name another in [store] path")
        if version > VERSION:
            raise InputError(f"{where} is of version {version}, from a newer mpft-deploy: use that")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # no waiting for the disk, but at checkpoints
        if not tables:
            db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    except InputError:
        db.close()
        raise
    except sqlite3.Error as error:
        db.close()
        if isinstance(error, sqlite3.OperationalError):
            raise EnvironmentLacksError(f"the store {where} cannot be used: {error}") from None
        raise InputError(
            f"{where} is no store, or is damaged ({error}): move it away, and a new one is made"
        ) from None
    return db


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    number, body, *rest = row
    return StoredEvent(number, _body.decode(body), *rest)
