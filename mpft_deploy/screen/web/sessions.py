"""Browsers that are logged in: each has a cookie of its own, and can be logged out by itself.

The store keeps a hash of the cookie, and one of the token that it was given for: whoever reads it
has neither, and a session ends with its token.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.tell.store import Store

DAYS = 30
"""After which one logs in again."""

MOST = 50
"""Sessions of a user; the oldest end."""

LONGEST_AGENT = 200


class Session(msgspec.Struct, frozen=True):
    """A browser.

    Attributes:
        id: of the session; no cookie can be told from it.
        token: hash of the token that it was begun with.
        began: when, seconds since the Unix epoch.
        agent: what the browser calls itself.
    """

    id: str
    user: str
    token: str
    began: float
    agent: str

    @property
    def is_over(self) -> bool:
        """Whether it is too old."""
        return time.time() - self.began > 86400 * DAYS


class Sessions:
    """Those that there are; from any thread.

    Attributes:
        cookie: name of the cookie; another store has another, also at the same host.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        name = store.settings("cookie").get("", secrets.token_hex(4).encode())
        store.set_setting("", "cookie", name)
        self.cookie = f"mpft_{name.decode()}"
        rows = store.rows("SELECT id, user, token, began, agent FROM sessions")
        self._sessions = {row[0]: Session(*row) for row in rows}

    def begin(self, user: str, token: str, agent: str) -> str:
        """The cookie of a new session, which ends with the process if the store cannot keep it.

        Args:
            token: that was shown.
        """
        cookie = secrets.token_urlsafe(32)
        session = Session(hashed(cookie), user, hashed(token), time.time(), agent[:LONGEST_AGENT])
        sql = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)"
        with self._lock:
            own = [one for one in self._sessions.values() if one.user == user]
            with contextlib.suppress(EnvironmentLacksError):  # a full disk: who looks sees why
                for old in own:
                    if old.is_over or len(own) >= MOST:
                        self._end(old.id)
                        own = own[1:]
                self._store.rows(sql, *msgspec.structs.astuple(session))
            self._sessions[session.id] = session
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Whose cookie it is; None if it is none, or too old."""
        session = self._sessions.get(hashed(cookie))
        return None if session is None or session.is_over else session

    def all(self) -> list[Session]:
        """Newest first, without those that are over."""
        with self._lock:
            found = [one for one in self._sessions.values() if not one.is_over]
        return sorted(found, key=lambda one: -one.began)

    def end(self, identity: str) -> None:
        """Log a browser out; a KeyError if there is none, an EnvironmentLacksError if not kept."""
        with self._lock:
            self._end(identity)

    def _end(self, identity: str) -> None:
        if identity not in self._sessions:
            raise KeyError(identity)
        self._store.rows("DELETE FROM sessions WHERE id = ?", identity)
        del self._sessions[identity]


def hashed(text: str) -> str:
    """Of a cookie or token, which are long and random: nobody finds them by guessing."""
    return hashlib.sha256(b"mpft session 1 " + text.encode()).hexdigest()
