"""The store's SQLite file: made, locked and opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display

APPLICATION = 0x6D706674
"""Tells our files from others': SQLite's `application_id`."""

_WHOLE = f"""
-- `at` is since when a row is kept, by the clock that retention goes by.
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


def open_database(path: Path | None) -> sqlite3.Connection:
    """A database with the tables of the store, for this process alone; None for memory.

    Two processes would deliver everything twice; and without one's own lock SQLite would need room
    to open it, which a full disk has not.

    Raises:
        UsageError: another process has it.
        InputError: it is another program's, damaged, or of another version.
        EnvironmentLacksError: it cannot be written.
    """
    where = "memory" if path is None else display(path)
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


def write_out(db: sqlite3.Connection) -> None:
    """Have the file hold what is in memory: all of it, or a sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _WRITE.split(";"):
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
