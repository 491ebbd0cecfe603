"""Who may do what, and under which names the page may be asked for.

A visitor shows a token, or the cookie that a login gave him in its place. A page of an attacker can
make a browser send both, so what changes something must come from a page of ours.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpft_deploy.screen.tell.config import Http, Role
from mpft_deploy.screen.web.operations import refusal

COOKIE = "mpft_dashboard"

COOKIE_DAYS = 30

OPEN = frozenset({"/livez", "/readyz", "/login", "/logout", "/dashboard.css", "/icon.svg"})
"""Paths that ask for no token: they tell nothing."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


class User(msgspec.Struct, frozen=True):
    """Who asks."""

    name: str
    role: Role


ANYBODY = User("", "admin")
"""Where no token is asked for; only this machine can be asked."""


class Access:
    """The rules of a configuration."""

    def __init__(self, http: Http) -> None:
        self._users = {token.encode(): User(*user) for token, user in http.tokens().items()}
        self._named = {host.lower() for host in http.hosts}
        self._hosts = {"localhost", socket.gethostname().lower(), *self._named}

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self._users

    def log_in(self, token: str) -> tuple[User, str] | None:
        """Whose token it is, and what a browser keeps in its place; None if it is none of ours."""
        for known, user in self._users.items():
            if hmac.compare_digest(token.encode(), known):
                return user, _cookie(known)
        return None

    def user_of(self, headers: Mapping[str, str]) -> User | None:
        """Who sends a request, by its headers; None for a stranger."""
        if self.open:
            return ANYBODY
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode() if scheme.lower() == "bearer" else b""
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            morsel = None
        cookie = morsel.value.encode() if morsel is not None else b""
        for known, user in self._users.items():
            # Compared in constant time.
            if hmac.compare_digest(token, known):
                return user
            if hmac.compare_digest(cookie, _cookie(known).encode()):
                return user
        return None

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
    """Stands before an application: what it lets through has a user, as `scope["user"]`."""

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
        user = scope["user"] = self._access.user_of(headers)
        if scope["path"] in OPEN:
            return None
        if user is None:
            if scope["path"] == "/":
                return self._stranger
            return refusal(
                401, "a token is needed: send it as 'Authorization: Bearer TOKEN', or log in at /"
            )
        return None


def _cookie(token: bytes) -> str:
    """Not the token itself: a stolen cookie tells nobody the token."""
    return hmac.new(token, b"mpft dashboard cookie 1", hashlib.sha256).hexdigest()
