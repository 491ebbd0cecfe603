"""The store's SQLite file: made, locked and opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display

APPLICATION = 0x6D706674
"""Tells our files from others': SQLite's `application_id`."""

VERSION = 1

_SCHEMA = f"""
-- `at` is since when a row is kept, by a clock that was put right; retention goes by it.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
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
CREATE INDEX events_by_time ON events (time);
CREATE INDEX events_by_age ON events (verdict, at);
CREATE INDEX events_by_snapshot ON events (snapshot) WHERE snapshot IS NOT NULL;
-- What waits, and with an error what a receiver refused. What was delivered is deleted.
CREATE TABLE deliveries (
    receiver TEXT NOT NULL,
    event INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL,
    error TEXT,
    PRIMARY KEY (receiver, event)
) WITHOUT ROWID;
CREATE TABLE files (
    name TEXT PRIMARY KEY,
    at REAL NOT NULL,
    verdict TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE INDEX files_by_age ON files (verdict, at);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""

_ADDED = """
-- Of a source, what did not come from the configuration: set by the page and the API.
CREATE TABLE IF NOT EXISTS settings (
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (source, key)
) WITHOUT ROWID;
-- Who changed what, by page and API; `at` as that of events.
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    user TEXT NOT NULL,
    role TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL
);
-- Browsers that are logged in; `id` is a hash of the cookie, `token` of the user's token.
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    token TEXT NOT NULL,
    began REAL NOT NULL,
    agent TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_package ON events (package) WHERE package IS NOT NULL;
"""
"""Of files of this version that are older; who does not know these tables can do without."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """A database with the tables of the store, for this process alone; None for memory.

    Two processes would deliver everything twice; and without one's own lock SQLite would need room
    to open it, which a full disk has not.

    Raises:
        UsageError: another process has it.
        InputError: it is another program's, damaged, or of a later version.
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
        if version > VERSION:
            raise InputError(f"{where} is of version {version}, from a newer mpft-deploy: use that")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # no waiting for the disk, but at checkpoints
        db.execute("PRAGMA journal_size_limit = 4194304")
        if not tables:
            db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        if all(row[1] != "package" for row in db.execute("PRAGMA table_info(events)")):
            db.execute("ALTER TABLE events ADD COLUMN package TEXT")
        db.executescript(_ADDED)
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


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is done within, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
