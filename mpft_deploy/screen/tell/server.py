"""The server of dashboard, metrics and health, in threads of its own.

The standard library's server is enough: it serves one small page to a few people, threads are cheap
at that number, and nothing has to be installed. All that visitors cost is bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import printable
from mpft_deploy.screen.streams.records import Event, Monitor, Sink
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.access import Access
from mpft_deploy.screen.tell.board import Board
from mpft_deploy.screen.tell.config import Http
from mpft_deploy.screen.tell.handler import handler_for
from mpft_deploy.screen.tell.metrics import Metrics, PrometheusMetrics
from mpft_deploy.screen.tell.snapshots import SnapshotSink

logger = logging.getLogger(__name__)

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Server:
    """Serves until it is closed. It is a sink too: it shows and counts the events it is sent.

    Attributes:
        url: where it listens.
    """

    name = "dashboard"

    def __init__(
        self,
        monitor: Monitor,
        http: Http,
        *,
        sinks: Collection[Sink] = (),
        metrics: Metrics | None = None,
        engine: Mapping[str, str] | None = None,
    ) -> None:
        self.monitor, self.board = monitor, Board(monitor)
        self.metrics = metrics if isinstance(metrics, PrometheusMetrics) else PrometheusMetrics()
        self.access = Access(http.secret(), http.hosts)
        self.clock: Callable[[], float] = time.monotonic
        self.snapshots: Path | None = next(
            (sink.folder for sink in sinks if isinstance(sink, SnapshotSink)), None
        )
        # Half of the connections stay free for short requests, such as health checks.
        self._seats = threading.BoundedSemaphore(http.clients // 2)
        self._listener = _listen(self, http)
        self.metrics.watch(monitor, sinks, engine or {})
        host, port = self._listener.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        self.url = f"http://{shown}:{port}/"
        self._task = Task("http", lambda: self._listener.serve_forever(0.1))
        self._task.start()

    @property
    def failure(self) -> BaseException | None:
        """See `Supervised`."""
        return self._task.failure

    def send(self, event: Event) -> None:
        """Show and count an event."""
        self.metrics.observe_event(event)
        self.board.note(event)

    def close(self, timeout: float = 1.0) -> None:
        """Stop listening and end live connections."""
        self.board.close()
        if self._task.is_alive():  # or it would be waited for for ever
            self._listener.shutdown()
        self._listener.server_close()
        self._task.join(timeout)

    @contextlib.contextmanager
    def seat(self) -> Iterator[bool]:
        """A place for a connection that stays; False if all are taken."""
        seated = self._seats.acquire(blocking=False)
        try:
            yield seated
        finally:
            if seated:
                self._seats.release()


class _Listener(ThreadingHTTPServer):
    """A threading server that turns visitors away when it has enough of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], handler: type, clients: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(clients)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the name lookup of the standard library, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(BUSY)
            self.shutdown_request(request)
            return
        with self._open_lock:
            self._open.add(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._leave(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def _leave(self, request: socket.socket) -> None:
        with self._open_lock:
            self._open.discard(request)
        self._places.release()

    def server_close(self) -> None:
        """Close the listener and every connection that is still open."""
        super().server_close()
        with self._open_lock:
            still_open = list(self._open)
        for request in still_open:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who leaves is no error; anything else is logged."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, http.client.HTTPException)):
            logger.exception("a request of the dashboard failed")


def _listen(app: Server, http_config: Http) -> _Listener:
    address = http_config.bind()
    try:
        return _Listener(address, handler_for(app), http_config.clients)
    except OSError as error:
        raise EnvironmentLacksError(
            f"[http] address: {printable(http_config.address)} cannot be listened on: "
            f"{error.strerror}; choose another port, or end the process that has it"
        ) from None
