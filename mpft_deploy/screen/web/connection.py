"""What a visitor may cost before any page is asked: h11 parses, this bounds time and places.

Heads are bounded by h11, bodies by the pages that read one, and a body that nobody reads ends its
connection. Whoever has not sent a whole request makes room for newcomers. Where a body ends is said
by its length alone: a server that also takes chunks may read another end than a proxy before it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 16 * 1024
"""Of a request's line and headers in all."""

PATIENCE = 10.0
"""Seconds for a whole request, from the connection or the last answer on."""

READING = 15.0
"""Seconds for which a visitor may accept nothing of what waits for him."""

LEAVING = 0.3
"""Seconds for the end of an answer while the server stops."""

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Connection(H11Protocol):
    """One visitor's connection; its server's `limit_concurrency` counts all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Here connections are turned away before they are read, not as uvicorn does it, after.
        self._places, self.limit_concurrency = self.limit_concurrency, None
        self._since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether a request is still to come."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()
        if self._places is not None and len(self.connections) > self._places:
            others = [one for one in self.connections if isinstance(one, Connection)]
            waiting = [one for one in others if one is not self and one.waits]
            if waiting:
                oldest = min(waiting, key=lambda one: one._since)
                self.connections.discard(oldest)  # at once, or the next would find it again
                oldest.transport.abort()
            else:
                transport.write(BUSY)
                transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:  # nobody wants the rest
            self.transport.close()
        self._await_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(READING, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        super().resume_writing()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(LEAVING, self.transport.abort)

    def _await_request(self) -> None:
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(PATIENCE, self._expire)

    def _expire(self) -> None:
        if self.waits:
            self.transport.abort()


def without_chunks(app: ASGIApp) -> ASGIApp:
    """The application, but for requests whose bodies come in chunks: they end their connection."""
    refusal = PlainTextResponse("send a Content-Length\n", 411, {"Connection": "close"})

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        await (refusal if chunked else app)(scope, receive, send)

    return answer
