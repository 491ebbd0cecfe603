"""Visits of the page's server: whole requests, and bare connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from email.message import Message
from typing import Any

from mpft_deploy.screen.web.server import Dashboard, Server

TOKEN = "a-token-of-more-than-16"
API = "/api/v1"


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1].rstrip("/"))


def knock(server: Server, text: bytes = b"") -> socket.socket:
    """A connection that has sent something."""
    guest = socket.create_connection(("127.0.0.1", port_of(server)), 60)
    with contextlib.suppress(OSError):  # it may not want to hear all
        guest.sendall(text)
    return guest


def rest(guest: socket.socket) -> bytes:
    """All that comes until the connection ends, however it does."""
    received = b""
    with contextlib.suppress(OSError):
        while part := guest.recv(65536):
            received += part
    guest.close()
    return received


def get(
    server: Server, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, Message, bytes]:
    """Status, headers and body; a header's name is written with _ for -."""
    link = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        link.request(method, path, body, named)
        answer = link.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, answer.headers, b""
        return answer.status, answer.headers, answer.read()
    finally:
        link.close()


def ask(server: Server, path: str) -> Any:
    """What the API answers."""
    status, _, body = get(server, API + path)
    assert status == 200, body
    return json.loads(body)


def log_in(server: Dashboard, token: str, **headers: str) -> str:
    """The cookie of a browser."""
    status, answer, _ = get(server, "/login", "POST", f"token={token}", **headers)
    assert status == 303
    return str(answer["Set-Cookie"])


STREAM = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
