"""Who may do what, and under which names the page may be asked for.

A visitor shows a token, or the cookie that a login gave him in its place, or comes by a proxy that
says who he is. A page of an attacker can make a browser send all of these, so what changes
something must come from a page of ours.

Of a login the store keeps a hash of the cookie, and one of the token that it was given for: whoever
reads it has neither, and a session ends with its token.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import secrets
import socket
import threading
import time
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web.operations import MissingError, Note, User, operation
from mpft_deploy.screen.web.routes import refusal

OPEN = frozenset(
    {"/livez", "/readyz", "/login", "/logout", "/dashboard.css", "/icon.svg", "/app.webmanifest"}
)
"""Paths that ask for no token: they tell nothing."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""

DAYS = 30
"""After which one logs in again."""

MOST = 50
"""Sessions of a user; the oldest end."""

LONGEST_AGENT = 200

ANYBODY = User("", "admin")
"""Where no token is asked for; only this machine can be asked."""


class LoggedIn(msgspec.Struct, frozen=True):
    """A browser that is logged in, as people see it.

    Attributes:
        id: of the session; no cookie can be told from it.
        began: when, seconds since the Unix epoch.
        agent: what the browser calls itself.
    """

    id: str
    user: str
    began: float
    agent: str


class Session(LoggedIn, frozen=True):
    """token: hash of the one that it was begun with."""

    token: str

    @property
    def is_over(self) -> bool:
        return time.time() - self.began > 86400 * DAYS


class Sessions:
    """Browsers that are logged in, each by a cookie of its own; from any thread.

    Attributes:
        cookie: name of the cookie; another store has another, also at the same host.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.RLock()
        name = store.settings("cookie").get("")
        if name is None:  # or a start would need room, which a full disk has not
            name = secrets.token_hex(4).encode()
            store.set_setting("", "cookie", name)
        self.cookie = f"mpft_{name.decode()}"
        rows = store.rows("SELECT id, user, began, agent, token FROM sessions")
        self._sessions = {row[0]: Session(*row) for row in rows}

    def begin(self, user: str, token: str, agent: str) -> str:
        """The cookie of a new session, which ends with the process if the store cannot keep it.

        Args:
            token: that was shown.
        """
        cookie = secrets.token_urlsafe(32)
        session = Session(hashed(cookie), user, time.time(), agent[:LONGEST_AGENT], hashed(token))
        sql = "INSERT INTO sessions (id, user, began, agent, token) VALUES (?, ?, ?, ?, ?)"
        with self._lock:
            stay = [one for one in self.all() if one.user == user][: MOST - 1]
            with contextlib.suppress(EnvironmentLacksError):  # a full disk: who looks sees why
                for old in list(self._sessions.values()):
                    if old.user == user and old not in stay:
                        self.end(old.id)
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
        """Log a browser out, if it is in; an EnvironmentLacksError if that cannot be kept."""
        with self._lock:
            self._store.rows("DELETE FROM sessions WHERE id = ?", identity)
            self._sessions.pop(identity, None)


class Access:
    """The rules of a configuration.

    Args:
        store: keeps the sessions.
    """

    def __init__(self, http: Http, store: Store) -> None:
        tokens = http.tokens()
        self._users = {hashed(token): User(*user) for token, user in tokens.items()}
        self._named = {host.lower() for host in http.hosts}
        self._hosts = {"localhost", socket.gethostname().lower(), *self._named}
        self._proxy = ipaddress.ip_network(http.trusted_proxy) if http.trusted_proxy else None
        self._header = http.user_header.lower()
        self._roles = {user.name: user.role for user in http.users}
        self._open = not self._users and not self._header
        self.sessions = Sessions(store)

    def may_be(self, name: str) -> bool:
        """Whether somebody of that name can come; a proxy may name anybody."""
        named = any(user.name == name for user in self._users.values())
        return named or bool(self._header) or (self._open and name == ANYBODY.name)

    @operation("GET", "/sessions")
    def listed(self, user: User) -> list[LoggedIn]:
        """Browsers that are logged in, newest first: one's own, and for admins all."""
        return [
            LoggedIn(one.id, one.user, one.began, one.agent)
            for one in self.sessions.all()
            if user.role == "admin" or user == self.whose(one)
        ]

    @operation("DELETE", "/sessions/{id}")
    def log_out(self, id: str, user: User, note: Note) -> None:
        """Log a browser out: one's own, or for admins any."""
        found = next((one for one in self.listed(user) if one.id == id), None)
        if found is None:
            raise MissingError("there is no such session of yours")
        self.sessions.end(id)
        note("ended", f"a session of {found.user}")

    def log_in(self, token: str, agent: str) -> tuple[User, str] | None:
        """Whose token it is, and the cookie of a new session; None if it is none of ours."""
        user = self._users.get(hashed(token))
        return None if user is None else (user, self.sessions.begin(user.name, token, agent))

    def user_of(self, headers: Headers, peer: str) -> User | None:
        """Who sends a request; None for a stranger.

        Args:
            peer: address that the connection comes from.

        Raises:
            UsageError: it names a user, and does not come from the proxy, or names no single one.
        """
        if self._header and (names := headers.getlist(self._header)):
            return self._by_proxy(names, peer)
        if self._open:
            return ANYBODY
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # By hashes: how long it takes tells nothing of a token.
        if scheme.lower() == "bearer" and (user := self._users.get(hashed(given.strip()))):
            return user
        session = self.session_of(headers)
        return None if session is None else self.whose(session)

    def whose(self, session: Session) -> User | None:
        """The user of a session; None if its token is no more."""
        return self._users.get(session.token)

    def session_of(self, headers: Headers) -> Session | None:
        cookie = cookie_parser(headers.get("cookie", "")).get(self.sessions.cookie)
        return None if cookie is None else self.sessions.find(cookie)

    def is_secure(self, headers: Headers, peer: str) -> bool:
        """Whether the proxy says that a browser reached it by TLS."""
        return self._is_proxy(peer) and headers.get("x-forwarded-proto") == "https"

    def _by_proxy(self, names: list[str], peer: str) -> User:
        if not self._is_proxy(peer):
            raise UsageError(f"{self._header}: only the proxy of [http] trusted_proxy may send it")
        name = names[0].strip()
        if len(names) > 1 or not name.isprintable() or not 0 < len(name) <= 100 or "," in name:
            raise UsageError(f"{self._header}: it must name one user")
        return User(name, self._roles.get(name, "viewer"))

    def _is_proxy(self, peer: str) -> bool:
        if self._proxy is None:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address) in self._proxy

    def knows_host(self, header: str) -> bool:
        """Whether a Host header is one of ours.

        A page of an attacker that re-binds its own name to this address still sends that name (DNS
        rebinding). An address in figures cannot be re-bound.
        """
        host = header.strip().lower()
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host.removesuffix(".") in self._hosts
        return True

    def is_ours(self, origin: str | None, host: str) -> bool:
        """Whether the page that has a browser send something is ours; programs name none."""
        try:
            parts = urlsplit(origin or f"//{host}")
        except ValueError:
            return False
        return parts.netloc == host or parts.hostname in self._named


class Gate:
    """Stands before an application: what it lets through has a user, as `scope["user"]`.

    `scope["still"]` tells whether he is one later on, for answers that take long.
    """

    def __init__(self, app: ASGIApp, access: Access, stranger: Response) -> None:
        self._app, self._access, self._stranger = app, access, stranger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application do it; nobody keeps what is not said to stay as it is."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope, Headers(scope=scope))
        await (refused or self._app)(scope, receive, answer)

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        if not self._access.knows_host(headers.get("host", "")):
            return refusal(421, "this name is not one of the server's: add it to hosts in [http]")
        safe = scope["method"] in SAFE
        if not safe and not self._access.is_ours(headers.get("origin"), headers["host"]):
            return refusal(403, "only pages of this server may change something")
        peer = scope["client"][0] if scope["client"] else ""
        try:
            user = scope["user"] = self._access.user_of(headers, peer)
        except UsageError as error:
            return refusal(403, str(error))
        scope["still"] = lambda: self._access.user_of(headers, peer) == user
        if scope["path"] in OPEN:
            return None
        if user is None:
            if scope["path"] == "/":
                return self._stranger
            return refusal(
                401, "a token is needed: send it as 'Authorization: Bearer TOKEN', or log in at /"
            )
        return None


def hashed(text: str) -> str:
    """Of a cookie or token, which are long and random: nobody finds them by guessing."""
    return hashlib.sha256(b"mpft session 1 " + text.encode()).hexdigest()
