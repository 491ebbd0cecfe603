"""Servers that tests stream from, a proxy that makes trouble, and the processes that read."""

from __future__ import annotations

import contextlib
import http.server
import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from telling import eventually

from mpft_deploy.screen.streams.processes import ReaderProcesses

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")


def require_rtsp_server() -> None:
    """Skip where GStreamer's RTSP server is missing."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    probe += "; from gi.repository import Gst; Gst.init(None)"
    probe += (
        "; assert Gst.ElementFactory.find('rtph264pay') and Gst.ElementFactory.find('h264parse')"
    )
    try:
        found = subprocess.run([PYTHON, "-c", probe], capture_output=True, timeout=60)
    except OSError:
        found = None
    if found is None or found.returncode:
        pytest.skip(
            "GStreamer's RTSP server is not installed: apt-get install gir1.2-gst-rtsp-server-1.0 "
            "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad python3-gi"
        )


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RtspServer:
    """`rtsp_server.py` in a process of its own; tls: files of a certificate and its key."""

    def __init__(self, port: int = 0, tls: Sequence[Path] = (), **paths: str) -> None:
        self._paths, self._tls = paths, tls
        self.port = port
        self.start()

    def start(self) -> None:
        """Start, or start again at the same port."""
        paths = [f"/{name}={clip}" for name, clip in self._paths.items()]
        end = time.monotonic() + 60
        while True:
            self._process = subprocess.Popen(
                [PYTHON, str(SERVER), ",".join(map(str, (self.port, *self._tls))), *paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if line:
                break
            # The port of a server that was killed may be taken for a moment.
            self._process.wait()
            assert time.monotonic() < end, "the RTSP server does not start"
            time.sleep(0.1)
        self.port = int(line.split()[1])

    def url(self, name: str, login: str = "") -> str:
        """Of a path."""
        scheme = "rtsps" if self._tls else "rtsp"
        return f"{scheme}://{login}{'@' if login else ''}127.0.0.1:{self.port}/{name}"

    def tell(self, *words: object) -> None:
        """Send a command; see rtsp_server.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def set(self, name: str, clip: Path) -> None:
        """What a path plays from the next start on."""
        self._paths[name] = str(clip)

    def kill(self) -> None:
        """As a crash."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections are still taken, by the kernel, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def rtmp_server(folder: Path) -> Iterator[str]:
    """nginx as an RTMP server, and GStreamer that sends it a picture; the address to play."""
    nginx = Path(shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "/none/none")
    module = nginx.parents[1] / "lib/nginx/modules/ngx_rtmp_module.so"
    probe = ["gst-inspect-1.0", "--exists", "x264enc"]
    if not module.exists() or not shutil.which(probe[0]) or subprocess.run(probe).returncode:
        pytest.skip(
            "nginx with RTMP, or what sends to it, is not installed: apt-get install nginx "
            "libnginx-mod-rtmp gstreamer1.0-tools gstreamer1.0-plugins-{bad,ugly}"
        )
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"load_module {module}; daemon off; master_process off; pid pid; events {{}}\n"
        f"rtmp {{ access_log off; server {{ listen 127.0.0.1:{port};"
        " application live { live on; } } }"
    )
    url = f"rtmp://127.0.0.1:{port}/live/cam"
    picture = "videotestsrc is-live=true pattern=ball ! x264enc tune=zerolatency key-int-max=15"
    send = f"gst-launch-1.0 {picture} ! flvmux streamable=true ! rtmp2sink location={url}"
    with _running(str(nginx), "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"):
        eventually(lambda: _listens(port))
        with _running(*send.split()):
            yield url


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Listener:
    """Accepts connections at a loopback port and hands each to a thread."""

    def __init__(self, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self.closing = threading.Event()
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            connection, _ = self._socket.accept()
            self.connections.append(connection)
            thread = threading.Thread(target=self._handle, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve(connection)

    def close(self) -> None:
        """End it and its threads."""
        self.closing.set()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._socket.close()


class Proxy(Listener):
    """Passes bytes between clients and a server; `mode` decides what becomes of those to clients.

    forward; silent: keep them, as a network that dropped; corrupt: flip bits in some of them.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.mode: Literal["forward", "silent", "corrupt"] = "forward"
        self._rng = random.Random(0)
        super().__init__(self._pass)

    def url(self, name: str) -> str:
        """Of a path of the server, through this."""
        return f"rtsp://127.0.0.1:{self.port}/{name}"

    def _pass(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._server_port)) as server:
            while not self.closing.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if self.mode == "silent":
                        continue
                    if source is server:
                        client.sendall(self._spoiled(data) if self.mode == "corrupt" else data)
                    else:
                        server.sendall(data)

    def _spoiled(self, data: bytes) -> bytes:
        """With a bit flipped in every 2000 bytes or so; the frames of RTP are left whole."""
        spoiled = bytearray(data)
        for _ in range(len(data) // 2000 + (self._rng.random() < len(data) % 2000 / 2000)):
            # Interleaved packets begin with "$", a channel and a length; a header takes 12 bytes.
            at = self._rng.randrange(len(spoiled))
            if b"$" not in spoiled[max(0, at - 20) : at + 1]:
                spoiled[at] ^= 1 << self._rng.randrange(8)
        return bytes(spoiled)


class Site:
    """A web server of this machine: answers by path, and what it was asked for."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.demands = ""
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers.get("Authorization", "")))
                status, headers, body = site.answers.get(self.path, (404, {}, b""))
                if site.demands and "Authorization" not in self.headers:
                    status, headers, body = 401, {"WWW-Authenticate": site.demands}, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://user:secretpw@127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def send_http(connection: socket.socket, kind: str = "video/mp2t") -> None:
    """Read a request and answer that a stream follows."""
    connection.recv(65536)
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())


def never_answer(connection: socket.socket) -> None:
    """Take a connection and say nothing, ever."""
    while connection.recv(65536):
        pass


def pid(reading: ReaderProcesses) -> int:
    """Of the process that forks the others."""
    assert reading._server is not None
    return reading._server.pid


def children(reading: ReaderProcesses) -> list[int]:
    """Processes that read, in the order in which they began."""
    server = pid(reading)
    return [int(one) for one in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
