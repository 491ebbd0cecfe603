"""The store's SQLite file: made, locked, opened and asked; with a clock that ages are told by."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import msgspec

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.clock import Clock

DAY = 86400.0

APPLICATION = 0x6D706674
"""Tells our files from others': SQLite's `application_id`."""

_WHOLE = f"""
-- `at` is since when a row is kept, by the store's clock.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    time REAL NOT NULL,
    source TEXT NOT NULL,
    verdict TEXT,
    body BLOB NOT NULL,
    snapshot TEXT,
    package TEXT,
    state TEXT,
    note TEXT NOT NULL DEFAULT '',
    reviewer TEXT NOT NULL DEFAULT '',
    reviewed_at REAL
);
CREATE INDEX events_by_source ON events (source, id);
CREATE INDEX events_by_verdict ON events (verdict, id);
CREATE INDEX events_by_state ON events (state, id);
CREATE INDEX events_by_time ON events (time);
CREATE INDEX events_by_age ON events (verdict, at);
CREATE INDEX events_by_snapshot ON events (snapshot) WHERE snapshot IS NOT NULL;
CREATE INDEX events_by_package ON events (package) WHERE package IS NOT NULL;
-- What waits, or was refused with an error; what was delivered is deleted.
CREATE TABLE deliveries (
    receiver TEXT NOT NULL,
    event INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (receiver, event)
) WITHOUT ROWID;
CREATE TABLE files (
    name TEXT PRIMARY KEY,
    at REAL NOT NULL,
    verdict TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TRIGGER forgotten AFTER DELETE ON files BEGIN
    UPDATE events SET snapshot = NULL WHERE snapshot = OLD.name;
    UPDATE events SET package = NULL WHERE package = OLD.name;
END;
-- Of a source, what did not come from the configuration: set by the page and the API.
CREATE TABLE settings (
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
-- Who changed what, by page and API.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    user TEXT NOT NULL,
    role TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL
);
-- Browsers that are logged in; `id` is a hash of the cookie, `token` of the user's token.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    token TEXT NOT NULL,
    began REAL NOT NULL,
    agent TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
"""

_DEVICES = """
-- Browsers that are notified; `id` is a hash of the address by which each is.
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    since REAL NOT NULL,
    agent TEXT NOT NULL,
    service TEXT NOT NULL,
    subscription BLOB NOT NULL
) WITHOUT ROWID;
"""

_DUE = """
-- How often it was tried, and when it is due, by the store's clock. What is not due was refused;
-- what is due in spite of its error is sent once more.
ALTER TABLE deliveries ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN due REAL DEFAULT 0;
UPDATE deliveries SET due = NULL WHERE error NOTNULL;
"""

FIRST = 2
"""The oldest version that can be read."""

_VERSIONS = (_WHOLE, _DEVICES, _DUE)
"""What makes each version, from the first on, of the one before."""

VERSION = FIRST + len(_VERSIONS) - 1

_MEMORY = """
-- What is not in the file yet: for a moment, or as long as the disk is full.
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE new_events AS SELECT * FROM events WHERE false;
CREATE TEMP TABLE new_deliveries AS SELECT * FROM deliveries WHERE false;
-- What became of deliveries: due again, or with an error refused, or taken.
CREATE TEMP TABLE tried (
    receiver TEXT NOT NULL,
    event INTEGER NOT NULL,
    error TEXT,
    attempts INTEGER NOT NULL,
    due REAL,
    PRIMARY KEY (receiver, event)
);
"""

_WRITE = """
INSERT INTO events SELECT * FROM new_events;
INSERT INTO deliveries SELECT * FROM new_deliveries;
DELETE FROM deliveries WHERE (receiver, event) IN
    (SELECT receiver, event FROM tried WHERE error IS NULL AND due IS NULL);
UPDATE deliveries SET (error, attempts, due) = (
    SELECT error, attempts, due FROM tried
    WHERE tried.receiver = deliveries.receiver AND tried.event = deliveries.event
) WHERE (receiver, event) IN (SELECT receiver, event FROM tried);
DELETE FROM new_events;
DELETE FROM new_deliveries;
DELETE FROM tried;
"""

WAITING = """
FROM {0}deliveries AS one LEFT JOIN tried USING (receiver, event) {1}
WHERE receiver = ?1 AND one.due NOTNULL AND (tried.event IS NULL OR tried.due NOTNULL)
"""
"""What waits for a receiver, in the file, or as "new_" in memory; joined with something."""

REFUSED = """
FROM deliveries JOIN events ON id = event
WHERE receiver = ?1 AND due IS NULL AND event = coalesce(?2, event)
"""
"""What a receiver refused: one event, or all."""

USED = """
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
"""Bytes of the file that hold something."""


class Database:
    """A file with the tables of the store, for this process alone; any thread may ask.

    Two processes would deliver everything twice; and without one's own lock SQLite would need room
    to open it, which a full disk has not.

    Args:
        path: made if absent, readable by its owner alone; None for memory.

    Attributes:
        path: of the file.

    Raises:
        UsageError: another process has it.
        InputError: it is another program's, damaged, or of another version.
        EnvironmentLacksError: it cannot be written.
    """

    def __init__(self, path: Path | None, clock: Clock | None = None) -> None:
        self.path, self._where = path, "memory" if path is None else display(path)
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._db = _open(path, self._where)
        self._clock = clock or Clock()
        date = self._clock.time()
        kept = self.settings("clock").get("")
        last = {"now": 0.0, "date": date} if kept is None else msgspec.json.decode(kept)
        away = min(max(0.0, date - last["date"]), DAY)
        self._ahead: float = last["now"] + away - self._clock.monotonic()

    def now(self) -> float:
        """Seconds by a clock of the store's own, which counts while it is open.

        Nobody may lose evidence because somebody set a clock, or a board without a battery woke up
        in 1970: so the date is asked for nothing but how long the store was closed, and believed
        for a day of that at most.
        """
        return self._clock.monotonic() + self._ahead

    def keep_clock(self) -> None:
        """Have it go on from here after a restart; an EnvironmentLacksError if it cannot be."""
        reading = {"now": self.now(), "date": self._clock.time()}
        self.set_setting("", "clock", msgspec.json.encode(reading))

    def rows(self, sql: str, *values: object) -> list[Any]:
        """What a statement gives, which may write; an EnvironmentLacksError if it cannot."""
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise EnvironmentLacksError(f"store {self._where}: {error}") from None

    def write_out(self) -> int:
        """Have the file hold what is in memory: all of it, or a sqlite3.Error; how many events."""
        events, *others = _WRITE.split(";")
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            count = self._db.execute(events).rowcount
            for statement in others:
                self._db.execute(statement)
        return count

    def number(self, sql: str, *values: object) -> int:
        """One number that a statement gives; 0 for none, and after the end."""
        return 0 if self._closed.is_set() else self.rows(sql, *values)[0][0] or 0

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


def _open(path: Path | None, where: str) -> sqlite3.Connection:
    """The file, made if it is absent; raises as `Database` does."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite would make it readable for others.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise EnvironmentLacksError(
                f"the store {where} cannot be written: {error.strerror}; "
                "name another place in [store] path"
            ) from None
    db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise InputError(f"{where} is another program's database; name another in [store] path")
        if tables and not FIRST <= version <= VERSION:
            raise InputError(
                f"{where} is of version {version}, and this mpft-deploy reads {FIRST} to "
                f"{VERSION}: use the one that made it, or move it away, and a new one is made"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # no waiting for the disk, but at checkpoints
        db.execute("PRAGMA journal_size_limit = 4194304")
        if version != VERSION:  # 0 where there are no tables
            changes = "".join(_VERSIONS[max(0, version + 1 - FIRST) :])
            db.executescript(f"BEGIN; {changes} PRAGMA user_version = {VERSION}; COMMIT;")
        db.executescript(_MEMORY)
        db.execute("BEGIN EXCLUSIVE")  # or another process could have it until we first write
        db.execute("COMMIT")
    except InputError:
        db.close()
        raise
    except sqlite3.Error as error:
        db.close()
        if "locked" in str(error):
            raise UsageError(
                f"the store {where} is used by another process; name a file for each in "
                "[store] path"
            ) from None
        if isinstance(error, sqlite3.OperationalError):
            raise EnvironmentLacksError(f"the store {where} cannot be used: {error}") from None
        raise InputError(
            f"{where} is no store, or is damaged ({error}): move it away, and a new one is made"
        ) from None
    return db
