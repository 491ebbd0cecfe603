"""What visitors send and leave unsent costs a bounded amount, and holds up nobody."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from dashboard_demo import DemoMonitor, demo_sources
from hypothesis import given
from hypothesis import strategies as st
from telling import eventually, frame_event, stream_event
from visits import API, STREAM, get, knock, port_of, rest

from mpft_deploy.screen.tell.config import Health, Http
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import connection, serve, serve_health
from mpft_deploy.screen.web.server import Dashboard


def test_the_live_connection(server: Dashboard) -> None:
    guest = knock(server, STREAM).makefile("rb")

    def changes() -> int:
        while not guest.readline().startswith(b"event: overview"):
            pass
        return int(json.loads(guest.readline().removeprefix(b"data: "))["changes"])

    assert changes() == 0
    server.sinks.send(stream_event(1))
    server.sinks.send(frame_event(2))  # shows in the sources
    server.sinks.store.review(1, "confirmed", "", "ada", 1.8e9)
    eventually(lambda: changes() == 2)
    guest.close()


def test_who_has_asked_for_nothing_makes_room(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", clients=4), Sinks())
    idle = [knock(server, b"GET /") for _ in range(30)]
    assert get(server, "/livez")[0] == 200
    assert [rest(guest) for guest in idle[:26]] == [b""] * 26
    # Those who were let in are turned away alone if all others are being served.
    guests = [knock(server, STREAM) for _ in range(2)]
    assert all(b"200 OK" in guest.recv(100) for guest in guests)
    for guest in [*idle[26:], *guests]:
        guest.close()
    server.sinks.close(1)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 45\r\n\r\n",
        b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 45\r\n\r\n",
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 45\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2d\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 45\r\nContent-Length: 0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 45\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_one_request_has_one_answer(server: Dashboard, request_: bytes) -> None:
    """A second one in its body would be answered to whom a proxy serves next."""
    guest = knock(server, request_ + b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    guest.settimeout(0.5)
    assert rest(guest).count(b"HTTP/1.1 ") <= 1


def test_large_heads_are_refused_before_they_are_kept(server: Dashboard) -> None:
    """One that arrives at a stroke may be read as a whole, which is a quarter of a megabyte."""
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    megabyte = b"a" * 2**20
    many = b"".join(b"X%d: a\r\n" % number for number in range(2**17))
    for flood in (b"X: " + megabyte, many, b"X: a\r\n" + b" a\r\n" * 2**18, megabyte):
        assert b"200 OK" not in rest(knock(server, head + flood + b"\r\n\r\n"))
    assert b"200 OK" in rest(knock(server, head + b"Connection: close\r\n\r\n"))


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /livez HTT",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",  # and then nothing
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n",
        b"PUT /api/v1/events/1/review HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_slow_requests_are_cut_off(
    monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    monkeypatch.setattr("mpft_deploy.screen.web.routes.PATIENCE", 0.3)
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    guest = knock(server, begun)
    ended = threading.Event()

    def dribble() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(0.05):
                guest.send(b"a")

    thread = threading.Thread(target=dribble)
    thread.start()
    began = time.monotonic()
    rest(guest)
    assert time.monotonic() - began < 10
    ended.set()
    thread.join()
    server.sinks.close(1)


def test_small_answers_are_sent_at_once(server: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body go one by one: else each answer but the first waits for the visitor's ACK."""
    options = []
    made = connection.Connection.connection_made

    def look(self: connection.Connection, transport: Any) -> None:
        made(self, transport)
        to = transport.get_extra_info("socket")
        options.append(to.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(connection.Connection, "connection_made", look)
    get(server, "/livez")
    assert all(options)
    assert options


def test_health_answers_while_the_page_is_held(monitor: DemoMonitor) -> None:
    page = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    health = serve_health(monitor, Health(address="127.0.0.1:0"))
    crowd = [knock(page, b"GET / HTTP/1.1\r\nX: ") for _ in range(64)]
    crowd += [knock(health, b"GET / HTTP/1.1\r\nX: ") for _ in range(64)]
    assert get(health, "/livez")[0] == 200
    assert get(health, "/readyz", Host="10.1.2.3:8089")[0] == 200
    assert get(health, "/livez", Host="any.name")[0] == 200  # whoever looks after it
    assert get(health, "/api/v1/sources")[0] == 404
    monitor.is_alive = False
    try:
        assert get(health, "/livez")[0] == 503
    finally:
        monitor.is_alive = True
    for guest in crowd:
        guest.close()
    health.close()
    page.sinks.close(1)


def test_live_connections_leave_room_for_health_checks(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", clients=4), Sinks())
    guests = []
    for _ in range(2):
        guest = knock(server, STREAM)
        assert b"200 OK" in guest.recv(100)
        guests.append(guest)
    assert get(server, f"{API}/stream")[0] == 503
    assert get(server, "/livez")[0] == 200
    for guest in guests:
        guest.close()
    server.sinks.close(1)


def test_who_asks_at_the_same_moment_takes_no_more_places(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", clients=16), Sinks())
    guests = [knock(server) for _ in range(15)]
    for guest in guests:
        guest.sendall(STREAM)
    answers = [guest.makefile("rb") for guest in guests]
    followed = [
        answer.readline().startswith(b"HTTP/1.1 200") and b"event: overview" in answer.read(600)
        for answer in answers
    ]
    assert followed.count(True) == 8
    assert get(server, "/livez")[0] == 200
    for one in [*answers, *guests]:
        one.close()
    server.sinks.close(1)


def test_who_leaves_in_the_middle_of_a_body_is_not_told_of_in_the_log(
    server: Dashboard, caplog: pytest.LogCaptureFixture
) -> None:
    """A line of the log for each would let strangers fill it."""
    head = b"PUT /api/v1/events/1/review HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n"
    for _ in range(5):
        knock(server, head + b"a").close()
    assert get(server, "/livez")[0] == 200
    assert rest(knock(server, head + 900 * b"a")).startswith(b"HTTP/1.1 4")
    assert caplog.records == []


def test_a_visitor_who_reads_nothing_holds_up_nobody(server: Dashboard) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.connect(("127.0.0.1", port_of(server)))
    slow.sendall(STREAM)
    longest = 0.0
    for number in range(3000):
        began = time.monotonic()
        server.sinks.send(stream_event(number))
        longest = max(longest, time.monotonic() - began)
    assert longest < 5  # a visitor's time-out is 15 s
    assert get(server, "/livez")[0] == 200
    slow.close()


def test_closing_ends_live_connections(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    guest = knock(server, STREAM)
    assert guest.recv(100)
    began = time.monotonic()
    server.sinks.close(1)
    assert time.monotonic() - began < 5
    rest(guest)


def test_who_is_cut_off_at_the_end_is_not_told_of_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, asked, told = DemoMonitor(demo_sources(3)), threading.Event(), threading.Event()
    monkeypatch.setattr(monitor, "picture", lambda source: asked.set() or (told.wait(60) and None))
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    source = quote(monitor.statuses()[0].source)
    guest = knock(server, STREAM.replace(b"stream", f"picture?source={source}".encode()))
    assert asked.wait(60)
    server.sinks.close(60)
    told.set()
    assert rest(guest) == b""
    assert caplog.records == []


@given(st.binary(max_size=400))
def test_garbage_is_survived(data: bytes) -> None:
    """One server for all examples: each must leave it alive."""
    server = _garbage_server()
    guest = knock(server, data + b"\r\n\r\n")
    guest.shutdown(socket.SHUT_WR)
    rest(guest)
    assert get(server, "/livez")[0] == 200


_GARBAGE: list[Dashboard] = []


def _garbage_server() -> Dashboard:
    if not _GARBAGE:
        monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
        _GARBAGE.append(serve(monitor, Http(address="127.0.0.1:0"), Sinks()))
    return _GARBAGE[0]


@pytest.fixture(scope="module", autouse=True)
def _end_garbage_server() -> Iterator[None]:
    yield
    for server in _GARBAGE:
        server.sinks.close(1)
