"""HTTP POST over a connection that is kept open, with one deadline for everything."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; nobody needs them, but the next request comes after them."""


class DeliveryError(Exception):
    """The request did not get through; the message repeats nothing of the address.

    Attributes:
        late: whether the time was up.
    """

    def __init__(self, reason: str, *, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


@dataclass(frozen=True)
class Reply:
    """Status, and for how many seconds the receiver asks to be left alone (0 if it does not)."""

    status: int
    retry_after: float


class Poster:
    """Posts to one address. Neither redirects nor proxies are followed.

    Attributes:
        where: scheme, host and port of the address: what may be shown of it.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._secure, self._timeout = parts.scheme == "https", timeout
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.where = f"{parts.scheme}://{shown}:{self._port}"
        self._headers = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Post once; a DeliveryError if no reply came within the timeout."""
        if self._connection is not None:
            # The receiver may have closed a connection that was idle; that is no failure.
            try:
                return self._attempt(self._connection, body, headers)
            except DeliveryError as error:
                if error.late:
                    raise
        return self._attempt(self._connect(), body, headers)

    def abort(self) -> None:
        """End a `post` that waits, from another thread, and all later ones."""
        self._aborted = True
        _cut(self._connection)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _attempt(
        self, connection: http.client.HTTPConnection, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        self._connection = connection
        if self._aborted:
            raise DeliveryError("given up")
        # The socket's timeout is one of each read: a receiver that dribbles would never end.
        watchdog = threading.Timer(self._timeout, _cut, (connection,))
        watchdog.daemon = True
        watchdog.start()
        began = time.monotonic()
        try:
            connection.request("POST", self._target, body, {**self._headers, **headers})
            response = connection.getresponse()
            response.read(MAX_REPLY)
            if not response.isclosed():
                self.close()  # a longer reply is not worth the connection
            return Reply(response.status, _seconds(response.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            late = time.monotonic() - began >= self._timeout
            late = late or isinstance(error, TimeoutError)
            reason = "no reply in time" if late else _reason(error)
            raise DeliveryError(reason, late=late) from None
        finally:
            watchdog.cancel()


def _cut(connection: http.client.HTTPConnection | None) -> None:
    sock = connection.sock if connection is not None else None
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    """Why, in words that repeat nothing that was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it closed the connection" if isinstance(error, OSError) else "its reply is not HTTP"


def _seconds(text: str | None) -> float:
    return min(float(text), 300.0) if text and text.isascii() and text.isdecimal() else 0.0
