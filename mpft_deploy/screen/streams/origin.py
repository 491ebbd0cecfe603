"""HTTP that stays at one server: what a camera answers must not lead into the operator's network.

FFmpeg would follow redirects and playlists to wherever they lead.
"""

from __future__ import annotations

import base64
import http
import http.client
import socket
import ssl
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from mpft_deploy.screen.streams.address import PORTS
from mpft_deploy.screen.streams.attempt import GONE, SourceLostError
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.tls import distrust, trusting

_REDIRECTS = 5


def follow_redirects(settings: SourceSettings) -> str | None:
    """Where a source's address leads within its server; None if it leads nowhere else.

    Raises:
        SourceLostError: it leads to another server, or in a circle.
    """
    first = url = settings.target.raw
    context = trusting(settings.ca_file)
    for _ in range(_REDIRECTS):
        try:
            with _ask(urlsplit(url), settings.connect / 5, context, {}) as response:
                location = response.getheader("Location")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        if location is None:
            return None if url == first else url
        url = within(first, urljoin(url, location))
    raise SourceLostError("it redirects in a circle")


def within(origin: str, url: str) -> str:
    """An address that a server named, with the login of `origin`, if both are of one server.

    Raises:
        SourceLostError: it is another one, or no HTTP.
    """
    home, parts = urlsplit(origin), urlsplit(url)
    try:
        named = (parts.scheme, parts.hostname, _port(parts))
    except ValueError:
        named = ("", "", 0)
    own = (home.scheme, home.hostname, _port(home))
    secured = own[0] == "http" and own[2] == 80 and named == ("https", own[1], 443)
    if named != own and not secured:
        raise SourceLostError(
            f"it leads to another server, {parts.scheme}://{parts.netloc.rpartition('@')[2]}: "
            "if that is meant, give its address instead"
        )
    login, at, _ = home.netloc.rpartition("@")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{login}{at}{host}").geturl()


class Playlists:
    """Opens what FFmpeg asks for while it plays a list, if it is of the list's own server.

    Attributes:
        origin: the list's address, credentials and all.
        failure: why something was not opened, which FFmpeg does not pass on.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.origin = settings.target.raw.partition("+")[2]
        self._timeout, self._context = settings.timeout, trusting(settings.ca_file)
        self.failure: SourceLostError | None = None

    def __call__(self, url: str, flags: int, options: dict[str, str]) -> Any:
        """A file-like object."""
        try:
            return self._open(url, options)
        except SourceLostError as error:
            self.failure = error
            raise

    def _open(self, url: str, options: dict[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(within(self.origin, url))
        headers = {}
        start, end = options.get("offset", "0"), options.get("end_offset", "0")
        if start != "0" or end != "0":
            headers["Range"] = f"bytes={start}-{int(end) - 1 if int(end) else ''}"
        try:
            response = _ask(parts, self._timeout, self._context, headers)
        except ssl.SSLCertVerificationError as error:
            raise SourceLostError(distrust(error, parts.hostname or "")) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or "no HTTP answer"
            gone = isinstance(error, socket.gaierror) or getattr(error, "errno", None) in GONE
            raise SourceLostError(why, gone=gone) from None
        if response.status not in (200, 206):
            response.close()
            raise SourceLostError(f"the server answers {response.status}")
        return response


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS.get(parts.scheme, 0)


def _ask(
    parts: SplitResult, timeout: float, context: ssl.SSLContext, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """Ask for an address; the login is told only to a server that asks for it in plain."""
    response = _request(parts, timeout, context, headers)
    wanted = response.getheader("WWW-Authenticate", "").lower().startswith("basic")
    if response.status == http.HTTPStatus.UNAUTHORIZED and wanted and parts.username:
        response.close()
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        encoded = base64.b64encode(login).decode()
        headers = {**headers, "Authorization": f"Basic {encoded}"}
        response = _request(parts, timeout, context, headers)
    return response


def _request(
    parts: SplitResult, timeout: float, context: ssl.SSLContext, headers: dict[str, str]
) -> http.client.HTTPResponse:
    host, port = parts.hostname or "", _port(parts)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"Connection": "close", **headers})
    return connection.getresponse()
