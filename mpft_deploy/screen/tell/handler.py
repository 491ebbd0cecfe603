"""The pages and answers of the dashboard's server."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec

from mpft_deploy.screen.tell.access import COOKIE, COOKIE_DAYS
from mpft_deploy.screen.tell.metrics import CONTENT_TYPE
from mpft_deploy.screen.tell.snapshots import NAME

if TYPE_CHECKING:
    from mpft_deploy.screen.tell.server import Server

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The page asks nothing of anyone but this server."""

ASSETS = {
    "/dashboard.css": "text/css; charset=utf-8",
    "/dashboard.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}

OPEN = frozenset({"/livez", "/readyz", "/login", "/dashboard.css", "/icon.svg"})
"""Paths that ask for no token: they tell nothing."""

TICK = 1.0
"""Seconds between two overviews of a live connection."""

MAX_FORM = 4096


@lru_cache
def asset(name: str) -> bytes:
    """A file of the package's `assets`."""
    return (resources.files("mpft_deploy.screen.tell") / "assets" / name).read_bytes()


class Handler(BaseHTTPRequestHandler):
    """One connection. Subclassed by the server, which sets `app`."""

    app: Server
    protocol_version = "HTTP/1.1"
    timeout = 15.0
    """Seconds that a visitor may take to send or accept something."""

    def version_string(self) -> str:
        return "mpft"

    def log_message(self, format: str, *args: Any) -> None:
        """Of the request line only the path: a query may hold anything."""
        # A visitor who says nothing in time has neither.
        method, path = getattr(self, "command", None), getattr(self, "path", "")
        logger.debug("%s %s", method, urlsplit(path).path)

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self.close_connection = True  # an unread body would be taken for the next request
        if not self.app.access.knows_host(self.headers.get("Host")):
            self._wrong_host()
        elif urlsplit(self.path).path != "/login":
            self._fail(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._log_in()

    def _route(self) -> None:
        path = urlsplit(self.path).path
        if not self.app.access.knows_host(self.headers.get("Host")):
            self._wrong_host()
            return
        admitted = self.app.access.admits(
            self.headers.get("Authorization"), self.headers.get("Cookie")
        )
        if not admitted and path == "/":
            self._answer(asset("login.html"), "text/html; charset=utf-8")
        elif not admitted and path not in OPEN:
            self._fail(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: send it as 'Authorization: Bearer TOKEN', or log in at /",
            )
        elif path in ASSETS:
            self._answer(asset(path[1:]), ASSETS[path])
        else:
            pages: dict[str, Callable[[], None]] = {
                "/": lambda: self._answer(asset("index.html"), "text/html; charset=utf-8"),
                "/login": lambda: self._redirect(),
                "/livez": lambda: self._health(self.app.monitor.alive()),
                "/readyz": lambda: self._health(self.app.monitor.ready()),
                "/metrics": lambda: self._answer(self.app.metrics.text(), CONTENT_TYPE),
                "/api/sources": lambda: self._json(self.app.board.overview()),
                "/api/history": lambda: self._json(self.app.board.history()),
                "/api/events": self._events,
                "/api/stream": self._stream,
                "/api/picture": self._picture,
                "/api/picture.jpg": self._picture_file,
                "/api/snapshot": self._snapshot,
            }
            page = pages.get(path)
            if page is None:
                self._fail(HTTPStatus.NOT_FOUND, "there is no such page")
            else:
                page()

    def _log_in(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_FORM:
            self._fail(HTTPStatus.BAD_REQUEST, "send a form with a token")
            return
        form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        if self.app.access.is_token(form.get("token", [""])[0].strip()):
            cookie = (
                f"{COOKIE}={self.app.access.cookie}; Path=/; Max-Age={86400 * COOKIE_DAYS}; "
                "HttpOnly; SameSite=Strict"
            )
            self._redirect({"Set-Cookie": cookie})
        else:
            page = asset("login.html").replace(b"<html ", b'<html data-refused="" ', 1)
            self._answer(page, "text/html; charset=utf-8", HTTPStatus.UNAUTHORIZED)

    def _events(self) -> None:
        kept = self.app.board.events(self._number("after"))
        lines = b",".join(b'{"number":%d,"event":%b}' % one for one in kept)
        self._json(b'{"events":[%b]}' % lines)

    def _stream(self) -> None:
        """Server-sent events: the overview each second, events as they come."""
        with self.app.seat() as seated:
            if not seated:
                self._fail(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open")
                return
            self.close_connection = True
            self._head(HTTPStatus.OK, {"Content-Type": "text/event-stream"})
            if self.command == "HEAD":
                return
            last = self._number("after")
            given = self.headers.get("Last-Event-ID", "")
            last = int(given) if given.isascii() and given.isdecimal() else last
            if last > self.app.board.last:  # counted by an earlier process
                last = 0
            with contextlib.suppress(OSError):  # it left, or was too slow for us
                self._follow(last)

    def _follow(self, last: int) -> None:
        board, overview_due = self.app.board, 0.0
        while True:
            now = self.app.clock()
            if now >= overview_due:
                self.wfile.write(b"event: overview\ndata: %b\n\n" % board.overview())
                overview_due = now + TICK
            for number, text in board.events(last):
                self.wfile.write(b"id: %d\nevent: told\ndata: %b\n\n" % (number, text))
                last = number
            self.wfile.flush()
            if not board.wait(last, max(0.0, overview_due - self.app.clock())):
                return

    def _picture(self) -> None:
        try:
            shown = self.app.board.picture(self._text("source"), near=self._text("near") == "1")
        except KeyError:
            self._fail(HTTPStatus.NOT_FOUND, "there is no such source")
            return
        self._json(msgspec.json.encode(shown))

    def _picture_file(self) -> None:
        try:
            shown = self.app.board.picture(self._text("source"), near=False)
        except KeyError:
            shown = None
        if shown is None:
            self._fail(HTTPStatus.NOT_FOUND, "there is no picture of such a source")
            return
        self._answer(base64.b64decode(shown.jpeg), "image/jpeg")

    def _snapshot(self) -> None:
        name, folder = self._text("name"), self.app.snapshots
        if folder is not None and NAME.fullmatch(name):
            try:
                self._answer((folder / name).read_bytes(), "image/jpeg")
                return
            except OSError:
                pass
        self._fail(HTTPStatus.NOT_FOUND, "there is no such snapshot; it may have grown too old")

    def _health(self, good: bool) -> None:
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(b"ok\n" if good else b"not ok\n", "text/plain; charset=utf-8", status)

    def _text(self, key: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

    def _number(self, key: str) -> int:
        text = self._text(key)
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0

    def _json(self, body: bytes) -> None:
        self._answer(body, "application/json")

    def _fail(self, status: HTTPStatus, why: str) -> None:
        self._answer(json.dumps({"error": why}).encode(), "application/json", status)

    def _wrong_host(self) -> None:
        self._fail(
            HTTPStatus.MISDIRECTED_REQUEST,
            "this name is not one of the server's: add it to hosts in [http]",
        )

    def _redirect(self, headers: dict[str, str] | None = None) -> None:
        self._head(
            HTTPStatus.SEE_OTHER, {"Location": "/", "Content-Length": "0", **(headers or {})}
        )

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        common = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**common, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if status >= HTTPStatus.BAD_REQUEST:
            logger.debug("answered %d", status)


def handler_for(app: Server) -> type[Handler]:
    """A handler class bound to a server."""
    return cast("type[Handler]", type("BoundHandler", (Handler,), {"app": app}))
