"""Who may see the dashboard: a token, and names that no foreign page can borrow."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

COOKIE = "mpft_dashboard"

COOKIE_DAYS = 30


class Access:
    """The rules.

    Args:
        token: what visitors must show, as a bearer token or by the cookie that a login gives them;
            "" for none.
        hosts: names under which the page may be asked for.
    """

    def __init__(self, token: str, hosts: Iterable[str]) -> None:
        self._token = token.encode()
        self._hosts = {"localhost", socket.gethostname().lower(), *(h.lower() for h in hosts)}
        # Not the token itself: a stolen cookie tells nobody the token.
        self.cookie = hmac.new(self._token, b"mpft dashboard cookie 1", hashlib.sha256).hexdigest()

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self._token

    def is_token(self, given: str) -> bool:
        """Compared in constant time."""
        return not self.open and hmac.compare_digest(given.encode(), self._token)

    def admits(self, authorization: str | None, cookies: str | None) -> bool:
        """Whether a request's headers hold the token or the cookie."""
        if self.open:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        try:
            morsel = SimpleCookie(cookies or "").get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(
            morsel.value.encode(), self.cookie.encode()
        )

    def knows_host(self, header: str | None) -> bool:
        """Whether a Host header is one of ours.

        A page of an attacker that re-binds its own name to this address still sends that name (DNS
        rebinding). An address in figures cannot be re-bound.
        """
        if not header:
            return False
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
