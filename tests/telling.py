"""Parts for tests of telling: events, a clock, sinks, a receiver with faults, and patience."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    SourceEvent,
    SourceStatus,
    StreamEvent,
)
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.post import WebhookSink
from mpft_deploy.screen.tell.stats import SinkStats
from mpft_deploy.screen.tell.store import Store

Mode = Literal["ok", "fail", "refuse", "hang", "dribble", "reset"]


def stream_event(number: int = 1, source: str = "gate", **changes: Any) -> StreamEvent:
    """A stream turned generated."""
    fields: dict[str, Any] = {
        "id": f"e{number:06d}",
        "source": source,
        "time": 1.7e9 + number,
        "verdict": "generated",
        "previous": "unsure",
        "evidence": 4.7,
        "frames": 12,
        "seconds": 3.5,
        "reason": "evidence",
    }
    return StreamEvent(**{**fields, **changes})


def source_event(number: int = 1, source: str = "gate", **changes: Any) -> SourceEvent:
    """A source came alive."""
    fields: dict[str, Any] = {
        "id": f"s{number:06d}",
        "source": source,
        "time": 1.7e9 + number,
        "state": "live",
        "previous": "connecting",
    }
    return SourceEvent(**{**fields, **changes})


def frame_event(number: int = 1, source: str = "gate", **changes: Any) -> FrameEvent:
    """A frame looked real."""
    fields: dict[str, Any] = {
        "id": f"f{number:06d}",
        "source": source,
        "time": 1.7e9 + number,
        "captured": 1.7e9 + number - 0.2,
        "age_ms": 200.0,
        "verdict": "real",
        "probability": 0.125,
        "logit": -2.0,
        "stream_verdict": "unsure",
        "evidence": -1.25,
    }
    return FrameEvent(**{**fields, **changes})


def source_status(source: str = "gate", **changes: Any) -> SourceStatus:
    """A source is live, and nothing was judged yet."""
    fields: dict[str, Any] = {
        **{"source": source, "address": "rtsp://camera", "state": "live"},
        **{"verdict": "unsure", "evidence": 0.0, "probability": None, "frame_age_ms": None},
        **dict.fromkeys(("received", "screened", "gated", "reconnects"), 0),
        **{"fps_in": 25.0, "fps_screened": 5.0, "dropped": {}, "width": 64, "height": 48},
        **{"codec": "h264", "reason": "", "retry_in": None},
    }
    return SourceStatus(**{**fields, **changes})


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true; fail if it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return path


def everything(url: str, method: str, path: str, token: str) -> bytes:
    """Status line, headers and body of an answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = f"{answer.status} {answer.headers}".encode() + answer.read()
    connection.close()
    return text


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now, self.date = 1000.0, 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.date


class Told:
    """A sink that keeps what it is sent."""

    name = "told"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, event: Event) -> None:
        self.events.append(event)

    def close(self, timeout: float) -> None:
        pass


class Receiver:
    """A webhook's receiver, with faults.

    Attributes:
        mode: what it does with the next requests.
        answers: status for the events of some ids, whatever the mode.
        location, pause: where it says that it moved to, and for how many seconds it wants no more.
        received: headers and body of each request that it answered with 204.
        attempts: requests so far, whatever became of them.
    """

    def __init__(self) -> None:
        self.mode: Mode = "ok"
        self.answers: dict[str, int] = {}
        self.location, self.pause = "", 0
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.attempts = 0
        self.released = threading.Event()
        self.port = free_port()
        self._connections: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        """Of the events received, in order."""
        return [json.loads(body)["id"] for _, body in self.received]

    def up(self) -> None:
        """Listen."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # resets are what we are here for

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hang_up(self) -> None:
        """Close every connection, as servers do with those that are idle."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Do as the mode says."""
        self.attempts += 1
        self._connections.append(request.connection)
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        if len(body) < length:  # whoever sent it was killed
            request.close_connection = True
            return
        if self.mode == "reset":
            # Lingering for zero seconds: the peer gets a reset.
            linger = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.close_connection = True
            request.connection.close()
            return
        if self.mode == "hang":
            self.released.wait(60)
            request.close_connection = True
            return
        if self.mode == "dribble":
            with contextlib.suppress(OSError):
                request.wfile.write(b"HTTP/1.1 ")
                while not self.released.wait(0.05):
                    request.wfile.write(b".")
            request.close_connection = True
            return
        status = {"ok": 204, "fail": 500, "refuse": 422}[self.mode]
        status = self.answers.get(request.headers["webhook-id"], status)
        if status == 204:
            self.received.append((dict(request.headers.items()), body))
        request.send_response(status)
        request.send_header("Content-Length", "0")
        if self.pause:
            request.send_header("Retry-After", str(self.pause))
        if self.location:
            request.send_header("Location", self.location)
        request.end_headers()


class Hook(Sinks):
    """A store whose events go to a receiver; the store is in memory without a path."""

    def __init__(
        self,
        receiver: Receiver | None,
        path: Path | None = None,
        wait: float = 0.05,
        **table: Any,
    ) -> None:
        super().__init__(store=Store(path))
        url = {} if receiver is None else {"url": receiver.url}
        config = Webhook(**{**url, **table})
        self.webhook = WebhookSink(config, self.store)
        self.webhook.first_wait = wait
        self.append(self.webhook)

    def stats(self) -> SinkStats:
        """Of the deliveries."""
        return self.webhook.stats()


class Network:
    """A way to a port that can be cut: both ends stay up, and no byte gets through.

    Attributes:
        port: that leads there.
    """

    def __init__(self, target: int) -> None:
        self._target, self._open = target, False
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.join()
        threading.Thread(target=self._accept, daemon=True).start()

    def join(self) -> None:
        """Let traffic through."""
        self._open = True

    def cut(self) -> None:
        """End every connection, and let none be made."""
        with self._lock:
            self._open = False
            for end in self._pairs:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._pairs.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    if not self._open:
                        near.close()
                        continue
                    far = socket.create_connection(("127.0.0.1", self._target), 60)
                    self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that is gone afterwards."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.released.set()
        receiver.down()
