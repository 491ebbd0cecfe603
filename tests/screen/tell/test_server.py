"""The server: who may see it, what it answers, and that visitors cost a bounded amount."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard_demo import DemoMonitor, demo_sources
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from telling import eventually, frame_event, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.records import Picture
from mpft_deploy.screen.tell import serve
from mpft_deploy.screen.tell.access import Access
from mpft_deploy.screen.tell.config import Http, Snapshots
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.server import Server
from mpft_deploy.screen.tell.snapshots import SnapshotSink
from mpft_deploy.screen.tell.store import Store

TOKEN = "a-token-of-more-than-16"
PATHS = ["/api/sources", "/api/events", "/api/history", "/api/stream", "/metrics", "/dashboard.js"]


@pytest.fixture(scope="module")
def monitor() -> DemoMonitor:
    one = DemoMonitor(demo_sources(3))
    one.step(1.7e9)
    return one


@pytest.fixture
def server(monitor: DemoMonitor) -> Iterator[Server]:
    one = serve(monitor, Http(address="127.0.0.1:0"))
    yield one
    one.close()


@pytest.fixture
def locked(monitor: DemoMonitor) -> Iterator[Server]:
    one = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN))
    yield one
    one.close()


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1].rstrip("/"))


def get(
    server: Server, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; a header's name is written with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, dict(answer.headers), b""
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_what_it_answers(server: Server, monitor: DemoMonitor) -> None:
    first = next(iter(monitor.sources))
    for event in (frame_event(1), frame_event(5, first), stream_event(2), source_event(3)):
        server.send(event)
    status, headers, body = get(server, "/api/sources")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    sources = json.loads(body)["sources"]
    assert [source["source"] for source in sources] == list(monitor.sources)
    assert [source["picture_time"] for source in sources] == [1.7e9 + 5, None, None]
    events = json.loads(get(server, "/api/events")[2])["events"]
    assert [event["event"]["id"] for event in events] == ["e000002", "s000003"]
    assert json.loads(get(server, "/api/events?after=1")[2])["events"] == events[1:]
    history = json.loads(get(server, "/api/history")[2])
    assert [point[1] for point in history[first]] == [-1.25]
    assert "gate" not in history  # no such source any more
    assert b"mpft_verdicts_total" in get(server, "/metrics")[2]
    assert get(server, "/api/nothing")[0] == 404
    assert get(server, "/", method="POST", body="x")[0] == 404
    status, headers, body = get(server, "/livez", method="HEAD")
    assert (status, body) == (200, b"")


def test_health(monitor: DemoMonitor, locked: Server) -> None:
    assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
    monitor.is_alive = False
    try:
        assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [503, 503]
    finally:
        monitor.is_alive = True


def test_pictures(server: Server, monitor: DemoMonitor) -> None:
    name = next(iter(monitor.sources))
    query = name.replace(" ", "+")
    shown = json.loads(get(server, f"/api/picture?source={query}")[2])
    assert (shown["width"], shown["height"]) == (1280, 720)
    assert len(shown["cells"]) == 96
    with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as image:
        assert image.size == (640, 360)
    near = json.loads(get(server, f"/api/picture?source={query}&near=1")[2])
    assert near["width"] <= 224 + 32
    top, left, side = near["cells"][0]
    whole = monitor.sources[name].picture
    assert whole is not None
    with Image.open(io.BytesIO(base64.b64decode(near["jpeg"]))) as image:
        pixels = np.asarray(image).astype(int)
    row, column, _ = whole.cells[0]
    expected = whole.pixels[row : row + side, column : column + side].astype(int)
    assert np.abs(pixels[top : top + side, left : left + side] - expected).mean() < 12
    status, headers, body = get(server, f"/api/picture.jpg?source={query}")
    assert (status, headers["Content-Type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert get(server, "/api/picture?source=nobody")[0] == 404
    assert get(server, "/api/picture.jpg?source=nobody")[0] == 404


def test_a_source_without_a_picture() -> None:
    server = serve(DemoMonitor(demo_sources(1, generated=0, down=0)), Http(address="127.0.0.1:0"))
    assert get(server, "/api/picture?source=Main+street")[2] == b"null"
    assert get(server, "/api/picture.jpg?source=Main+street")[0] == 404
    server.close()


def test_snapshots_are_served_and_nothing_else(monitor: DemoMonitor, tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    shots = SnapshotSink(
        Snapshots(folder=str(tmp_path / "s")), lambda _: Picture(pixels, 1.0, []), Store(None)
    )
    (tmp_path / "s" / "notes.txt").write_text("private")
    (tmp_path / "secret.jpg").write_text("private")
    server = serve(monitor, Http(address="127.0.0.1:0"), sinks=Sinks(snapshots=shots))
    event: Any = shots.attach(stream_event(1))
    shots.close(5)
    assert get(server, f"/api/snapshot?name={event.snapshot}")[2][:2] == b"\xff\xd8"
    for name in ("notes.txt", "../secret.jpg", "..%2Fsecret.jpg", "", f"x/{event.snapshot}"):
        assert get(server, f"/api/snapshot?name={name}")[0] == 404
    server.close()


def test_headers_forbid_everything_foreign(server: Server) -> None:
    for path in ("/", "/dashboard.css", "/dashboard.js", "/icon.svg", "/api/sources", "/nothing"):
        _, headers, body = get(server, path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"] == "mpft"
        if path == "/":  # all that the page names comes from here
            assert b"http://" not in body
            assert b"https://" not in body


def test_without_the_token_nothing_is_told(locked: Server, monitor: DemoMonitor) -> None:
    for path in [*PATHS, "/api/picture?source=Aisle+3", "/api/snapshot?name=x", "/api/nothing"]:
        status, _, body = get(locked, path)
        assert status == 401
        assert b"Main street" not in body
    page = get(locked, "/")[2]
    assert b'type="password"' in page
    for given_token in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        assert get(locked, "/api/sources", Authorization=f"Bearer {given_token}")[0] == 401
    for scheme in ("Bearer", "bearer"):
        assert get(locked, "/api/sources", Authorization=f"{scheme} {TOKEN}")[0] == 200
    assert get(locked, f"/api/sources?token={TOKEN}")[0] == 401  # it would end up in logs


def test_logging_in(locked: Server) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    status, headers, body = get(locked, "/login", "POST", "token=wrong", **form)
    assert status == 401
    assert b"data-refused" in body
    assert "Set-Cookie" not in headers
    status, headers, _ = get(locked, "/login", "POST", f"token={TOKEN}", **form)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert get(locked, "/api/sources", Cookie=cookie.split(";")[0])[0] == 200
    assert get(locked, "/api/sources", Cookie="mpft_dashboard=x")[0] == 401
    assert get(locked, "/login", "POST", "x" * 5000, **form)[0] == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_names_are_refused(server: Server, method: str) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8088", ""):
        assert get(server, "/api/sources", method, Host=host)[0] == 421
    if method == "GET":
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80", "192.168.1.7"):
            assert get(server, "/api/sources", Host=host)[0] == 200


def test_further_names_are_configured(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", hosts=("Wall.example",)))
    assert get(server, "/livez", Host="wall.example:8088")[0] == 200
    server.close()


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_the_rules(host: str, authorization: str, cookie: str) -> None:
    access = Access(TOKEN, ["wall.example"])
    assert not access.admits(authorization, cookie)
    assert access.knows_host(host) in (True, False)


def test_a_taken_port(server: Server, monitor: DemoMonitor) -> None:
    with pytest.raises(EnvironmentLacksError, match="cannot be listened on"):
        serve(monitor, Http(address=f"127.0.0.1:{port_of(server)}"))


def read_events(server: Server, count: int) -> list[tuple[str, Any]]:
    """The first server-sent events: kind and content."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    connection.request("GET", "/api/stream")
    answer = connection.getresponse()
    found: list[tuple[str, Any]] = []
    kind = ""
    while len(found) < count:
        line = answer.readline().decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            found.append((kind, json.loads(line[6:])))
    connection.close()
    return found


def test_the_live_connection(server: Server) -> None:
    server.send(stream_event(1))
    timer = threading.Timer(0.3, server.send, (source_event(2),))
    timer.start()
    found = read_events(server, 4)
    timer.join()
    assert found[0][0] == "overview"
    told = [content["id"] for kind, content in found if kind == "told"]
    assert told == ["e000001", "s000002"]


def test_events_of_an_earlier_process_do_not_hide_those_of_this(server: Server) -> None:
    server.send(stream_event(1))
    with socket.create_connection(("127.0.0.1", port_of(server)), 10) as raw:
        raw.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 350\r\n\r\n")
        received = b""
        while b"e000001" not in received:
            received += raw.recv(65536)


def test_many_visitors_are_turned_away(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", clients=4))
    before = threading.active_count()
    crowd = [socket.create_connection(("127.0.0.1", port_of(server)), 60) for _ in range(30)]
    eventually(lambda: threading.active_count() >= before + 4)
    assert threading.active_count() <= before + 4
    turned_away = sum(b"503" in guest.recv(100) for guest in crowd[8:])
    assert turned_away == 22
    for guest in crowd:
        guest.close()
    eventually(lambda: threading.active_count() == before)
    assert get(server, "/livez")[0] == 200
    server.close()


def test_live_connections_leave_room_for_health_checks(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", clients=4))
    guests = []
    for _ in range(2):
        guest = socket.create_connection(("127.0.0.1", port_of(server)), 60)
        guest.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in guest.recv(100)
        guests.append(guest)
    assert get(server, "/api/stream")[0] == 503
    assert get(server, "/livez")[0] == 200
    for guest in guests:
        guest.close()
    server.close()


def test_a_visitor_who_reads_nothing_holds_up_nobody(server: Server) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.connect(("127.0.0.1", port_of(server)))
    slow.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    longest = 0.0
    for number in range(3000):
        began = time.monotonic()
        server.send(stream_event(number))
        longest = max(longest, time.monotonic() - began)
    assert longest < 5  # a visitor's time-out is 15 s
    assert get(server, "/livez")[0] == 200
    assert len(server.board.events()) <= 500
    slow.close()


def test_pictures_are_encoded_once_for_all(
    server: Server, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpft_deploy.screen.tell import board

    calls = []
    encode = board.encode_jpeg
    monkeypatch.setattr(board, "encode_jpeg", lambda *a, **k: calls.append(1) or encode(*a, **k))
    threads = [
        threading.Thread(target=get, args=(server, "/api/picture?source=Main+street"))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_still_scene_is_converted_once(
    server: Server, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor converts a whole frame when it is asked for a picture."""
    from mpft_deploy.screen.tell import board

    asked = []
    picture = monitor.picture
    monkeypatch.setattr(server.board._monitor, "picture", lambda s: asked.append(s) or picture(s))
    monkeypatch.setattr(board, "PICTURE_SECONDS", 0.0)
    server.send(frame_event(1, "Main street"))
    get(server, "/api/picture?source=Main+street")
    before = len(asked)
    for _ in range(3):
        get(server, "/api/picture?source=Main+street")
        get(server, "/api/sources")
    assert len(asked) == before
    server.send(frame_event(2, "Main street"))
    get(server, "/api/picture?source=Main+street")
    assert len(asked) > before


def test_closing_ends_live_connections(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0"))
    guest = socket.create_connection(("127.0.0.1", port_of(server)), 60)
    guest.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert guest.recv(100)
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 5
    while guest.recv(65536):
        pass
    guest.close()


@given(st.binary(max_size=400))
def test_garbage_is_survived(data: bytes) -> None:
    """One server for all examples: each must leave it alive."""
    server = _garbage_server()
    with socket.create_connection(("127.0.0.1", port_of(server)), 60) as raw:
        raw.sendall(data + b"\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65536):
            pass
    assert get(server, "/livez")[0] == 200


_GARBAGE: list[Server] = []


def _garbage_server() -> Server:
    if not _GARBAGE:
        monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
        _GARBAGE.append(serve(monitor, Http(address="127.0.0.1:0")))
    return _GARBAGE[0]


@pytest.fixture(scope="module", autouse=True)
def _end_garbage_server() -> Iterator[None]:
    yield
    for server in _GARBAGE:
        server.close()


def test_a_source_that_is_removed_leaves_the_page(server: Server) -> None:
    for number in range(3):
        server.send(frame_event(number, "Main street"))
    server.board.picture("Main street", near=False)
    server.send(source_event(4, "Main street", state="removed", previous="live"))
    board = server.board
    assert not any("Main street" in kept for kept in (board._history, board._judged, board._slots))
    [(_, text)] = board.events()
    assert json.loads(text)["state"] == "removed"


def test_a_history_is_as_large_at_the_start_as_ever() -> None:
    from mpft_deploy.screen.tell.board import HISTORY, _History

    history = _History()
    size = history._points.nbytes
    history.add(10.0, 1.00049, None)
    history.add(10.5, 2.0, 0.25)  # of the same second
    history.add(11.4, 3.0, None)
    assert history.points() == [[10.0, 2.0, 0.25], [11.4, 3.0, 0.25]]
    for second in range(100, 100 + 2 * HISTORY):
        history.add(float(second), 0.5, 0.75)
    points = history.points()
    assert len(points) == HISTORY
    assert [point[0] for point in points] == [float(100 + HISTORY + n) for n in range(HISTORY)]
    assert history._points.nbytes == size
