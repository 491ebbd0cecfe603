"""The server: who may see it, what it answers, and that visitors cost a bounded amount."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from dashboard_demo import DemoMonitor, demo_sources
from dashboard_screenshots import Browser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers
from telling import eventually, frame_event, free_port, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.screen.streams.records import Picture
from mpft_deploy.screen.tell.config import Health, Http, Node, Role, User
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.limits import Snapshots
from mpft_deploy.screen.tell.snapshots import SnapshotSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import connection, serve, serve_health
from mpft_deploy.screen.web.access import Access
from mpft_deploy.screen.web.server import Dashboard, Server
from mpft_deploy.screen.web.sessions import MOST, Sessions

TOKEN = "a-token-of-more-than-16"
API = "/api/v1"
PATHS = [
    *(API + path for path in ("/sources", "/events", "/history", "/stream", "/openapi.json")),
    "/metrics",
    "/dashboard.js",
]


@pytest.fixture(scope="module")
def monitor() -> DemoMonitor:
    one = DemoMonitor(demo_sources(3))
    one.step(1.7e9)
    return one


@pytest.fixture(scope="module")
def wall(monitor: DemoMonitor) -> Iterator[Dashboard]:
    """With a name of its own."""
    one = serve(monitor, Http(address="127.0.0.1:0", hosts=("wall.example",)), Sinks())
    yield one
    one.sinks.close(1)


@pytest.fixture
def server(monitor: DemoMonitor) -> Iterator[Dashboard]:
    one = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    yield one
    one.sinks.close(1)


@pytest.fixture
def locked(monitor: DemoMonitor) -> Iterator[Dashboard]:
    one = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN), Sinks())
    yield one
    one.sinks.close(1)


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


def test_what_it_answers(server: Dashboard, monitor: DemoMonitor) -> None:
    first = next(iter(monitor.sources))
    for event in (frame_event(1), frame_event(5, first), stream_event(2), source_event(3)):
        server.sinks.send(event)
    sources = ask(server, "/sources")["sources"]
    assert [source["source"] for source in sources] == list(monitor.sources)
    assert [source["picture_time"] for source in sources] == [1.7e9 + 5, None, None]
    events = ask(server, "/events")["events"]
    assert [event["event"]["id"] for event in events] == ["s000003", "e000002"]
    history = ask(server, "/history")
    assert [point[1] for point in history[first]] == [-1.25]
    assert "gate" not in history  # no such source any more
    status, headers, body = get(server, "/metrics")
    assert b"mpft_verdicts_total" in body
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert get(server, API + "/nothing")[0] == 404
    assert get(server, "/", method="POST", body="x")[0] == 405
    status, headers, body = get(server, "/livez", method="HEAD")
    assert (status, body) == (200, b"")


def test_wrong_parameters_are_named(server: Dashboard) -> None:
    for query, word in (("limit=0", b"limit"), ("befor=3", b"befor"), ("state=good", b"state")):
        status, _, body = get(server, f"{API}/events?{query}")
        assert status == 400
        assert word in body


def test_the_api_describes_itself(server: Dashboard, monitor: DemoMonitor) -> None:
    """Every path is there, and no reference leads nowhere."""
    described = ask(server, "/openapi.json")
    text = json.dumps(described)
    for part in text.split('"$ref": "')[1:]:
        found: Any = described
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[name]
    assert described["paths"][API + "/events/{number}/review"]["put"]["requestBody"]
    [parameter] = described["paths"][API + "/events/{number}"]["get"]["parameters"]
    assert (parameter["in"], parameter["required"]) == ("path", True)
    source = next(iter(monitor.sources)).replace(" ", "+")
    for path in described["paths"]:
        if "{" not in path:
            assert get(server, f"{path}?source={source}" if "picture" in path else path)[0] == 200


def test_health(monitor: DemoMonitor, locked: Dashboard) -> None:
    assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
    monitor.is_alive = False
    try:
        assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [503, 503]
    finally:
        monitor.is_alive = True


def test_pictures(server: Dashboard, monitor: DemoMonitor) -> None:
    name = next(iter(monitor.sources))
    query = name.replace(" ", "+")
    shown = json.loads(get(server, f"{API}/picture?source={query}")[2])
    assert (shown["width"], shown["height"]) == (1280, 720)
    assert len(shown["cells"]) == 96
    assert shown["windows"] == [[248, 528, 224, 224]]
    assert shown["share"] == pytest.approx(224 * 224 / (1280 * 720))
    with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as image:
        assert image.size == (640, 360)
    near = json.loads(get(server, f"{API}/picture?source={query}&near=1")[2])
    assert near["width"] <= 224 + 32
    [[row, column, *_]] = near["windows"]  # around the cells, which need not fill it
    assert -224 < min(row, column) <= max(row, column) < 224
    top, left, side = near["cells"][0]
    whole = monitor.sources[name].picture
    assert whole is not None
    with Image.open(io.BytesIO(base64.b64decode(near["jpeg"]))) as image:
        pixels = np.asarray(image).astype(int)
    row, column, _ = whole.cells[0]
    expected = whole.pixels[row : row + side, column : column + side].astype(int)
    assert np.abs(pixels[top : top + side, left : left + side] - expected).mean() < 12
    status, headers, body = get(server, f"{API}/picture.jpg?source={query}")
    assert (status, headers["Content-Type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert get(server, f"{API}/picture?source=nobody")[0] == 404
    assert get(server, f"{API}/picture.jpg?source=nobody")[0] == 404


def test_a_source_without_a_picture() -> None:
    server = serve(
        DemoMonitor(demo_sources(1, generated=0, down=0)), Http(address="127.0.0.1:0"), Sinks()
    )
    assert get(server, f"{API}/picture?source=Main+street")[2] == b"null"
    assert get(server, f"{API}/picture.jpg?source=Main+street")[0] == 404
    server.sinks.close(1)


def test_snapshots_are_served_and_nothing_else(monitor: DemoMonitor, tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    shots = SnapshotSink(
        Snapshots(folder=str(tmp_path / "s")), lambda _: Picture(pixels, 1.0, []), Store(None)
    )
    (tmp_path / "s" / "notes.txt").write_text("private")
    (tmp_path / "secret.jpg").write_text("private")
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks(snapshots=shots))
    event: Any = shots.attach(stream_event(1))
    shots.close(5)
    assert get(server, f"{API}/snapshots/{event.snapshot}")[2][:2] == b"\xff\xd8"
    for name in ("notes.txt", "../secret.jpg", "..%2Fsecret.jpg", "", f"x/{event.snapshot}"):
        assert get(server, f"{API}/snapshots/{name}")[0] == 404
    server.sinks.close(1)


def test_headers_forbid_everything_foreign(server: Dashboard) -> None:
    for path in ("/", "/dashboard.css", "/dashboard.js", "/icon.svg", f"{API}/sources", "/nothing"):
        _, headers, body = get(server, path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"] == "mpft"
        if path == "/":  # all that the page names comes from here
            assert b"http://" not in body
            assert b"https://" not in body


def test_without_the_token_nothing_is_told(locked: Dashboard, monitor: DemoMonitor) -> None:
    for path in [*PATHS, f"{API}/picture?source=Aisle+3", f"{API}/snapshots/x", f"{API}/nothing"]:
        status, _, body = get(locked, path)
        assert status == 401
        assert b"Main street" not in body
    page = get(locked, "/")[2]
    assert b'type="password"' in page
    for given_token in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        assert get(locked, f"{API}/sources", Authorization=f"Bearer {given_token}")[0] == 401
    for scheme in ("Bearer", "bearer"):
        assert get(locked, f"{API}/sources", Authorization=f"{scheme} {TOKEN}")[0] == 200
    assert get(locked, f"{API}/sources?token={TOKEN}")[0] == 401  # it would end up in logs


def test_logging_in(locked: Dashboard) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    status, headers, body = get(locked, "/login", "POST", "token=wrong", **form)
    assert status == 401
    assert b"data-refused" in body
    assert "Set-Cookie" not in headers
    status, headers, _ = get(locked, "/login", "POST", f"token={TOKEN}", **form)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert get(locked, f"{API}/sources", Cookie=cookie.split(";")[0])[0] == 200
    name = cookie.split("=")[0]
    assert get(locked, f"{API}/sources", Cookie=f"{name}=x")[0] == 401
    assert get(locked, "/login", "POST", "x" * 20_000, **form)[0] == 413
    status, headers, _ = get(locked, "/logout", "POST", Cookie=cookie.split(";")[0])
    assert "Max-Age=0" in headers["Set-Cookie"]
    assert get(locked, f"{API}/sources", Cookie=cookie.split(";")[0])[0] == 401  # it is no more


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_names_are_refused(server: Dashboard, method: str) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8088", ""):
        assert get(server, f"{API}/sources", method, Host=host)[0] == 421
    if method == "GET":
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80", "192.168.1.7"):
            assert get(server, f"{API}/sources", Host=host)[0] == 200


def test_further_names_are_configured(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0", hosts=("Wall.example",)), Sinks())
    assert get(server, "/livez", Host="wall.example:8088")[0] == 200
    server.sinks.close(1)


ACCESS = Access(
    Http(token=TOKEN, hosts=("wall.example",), trusted_proxy="10.0.0.0/8", user_header="X-User"),
    Store(None),
)


HEADERS = st.text(st.characters(max_codepoint=255), max_size=40)


@given(*4 * [HEADERS | st.sampled_from(["http://[", "[", "[::1", "Bearer \xff", "a=\0"])])
def test_no_header_breaks_the_rules(
    host: str, authorization: str, cookie: str, origin: str
) -> None:
    given = Headers({"authorization": authorization, "cookie": cookie})
    for peer in ("127.0.0.1", "10.0.0.1", ""):
        assert ACCESS.user_of(given, peer) is None
    with contextlib.suppress(UsageError):
        found = ACCESS.user_of(Headers({"x-user": cookie}), "10.0.0.1")
        assert found is not None
        assert found.role == "viewer"
    for peer in ("127.0.0.1", "11.0.0.1", "10.0.0.1.evil", "", "::ffff:11.0.0.1"):
        with pytest.raises(UsageError):
            ACCESS.user_of(Headers({"x-user": cookie}), peer)
    assert ACCESS.knows_host(host) in (True, False)
    assert ACCESS.is_ours(origin, "wall.example") in (True, False)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 404),
        ("http://localhost:1", 404),  # as in the Host header
        ("https://wall.example", 404),  # a proxy that speaks TLS
        ("http://localhost:2", 403),
        ("http://192.168.1.7", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_foreign_pages_change_nothing(wall: Dashboard, origin: str | None, status: int) -> None:
    """A browser sends cookies, and reaches loopback, for any page that asks it to."""
    headers = {"Host": "localhost:1"} | ({"Origin": origin} if origin else {})
    body = '{"state":"dismissed"}'
    assert get(wall, f"{API}/events/7/review", "PUT", body, **headers)[0] == status


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("reviewer", 200)])
def test_roles(
    monitor: DemoMonitor, role: Role, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    user = User(name="Ann", role=role, token="ann-" + TOKEN)
    server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN, users=(user,)), Sinks())
    server.sinks.send(stream_event(1))
    given_token = {"Authorization": f"Bearer {user.token}"}
    body = '{"state":"confirmed","note":"a poster","by":"Bob"}'
    assert get(server, f"{API}/events", **given_token)[0] == 200
    answered, _, text = get(server, f"{API}/events/1/review", "PUT", body, **given_token)
    assert answered == status
    if status == 200:
        stored = json.loads(text)
        assert (stored["state"], stored["note"], stored["by"]) == ("confirmed", "a poster", "Ann")
    assert get(server, "/login", "POST", f"token={user.token}")[0] == 303
    said = ["Ann reviewed event 1 of gate as confirmed", "Ann logged in "]
    assert [line for line in caplog.messages if "Ann" in line] == said[status != 200 :]
    assert user.token not in caplog.text
    server.sinks.close(1)


def log_in(server: Dashboard, token: str, **headers: str) -> str:
    """The cookie of a browser."""
    status, answer, _ = get(server, "/login", "POST", f"token={token}", **headers)
    assert status == 303
    return str(answer["Set-Cookie"])


def test_sessions_are_ended_by_their_owner_by_admins_and_with_their_token(
    monitor: DemoMonitor, tmp_path: Path
) -> None:
    ann, bob = (User(name=name, role="viewer", token=f"{name}-{TOKEN}") for name in ("Ann", "Bob"))
    http = Http(address="127.0.0.1:0", token=TOKEN, users=(ann, bob))
    server = serve(monitor, http, Sinks(store=Store(tmp_path / "a.db")))
    one, two = (log_in(server, ann.token, User_Agent=f"Browser {n}") for n in "12")
    theirs = log_in(server, bob.token)
    assert one.split("=")[0] == two.split("=")[0]

    def as_(cookie: str, path: str = "/sessions", method: str = "GET") -> tuple[int, Any]:
        status, _, body = get(server, API + path, method, Cookie=cookie.split(";")[0])
        return status, json.loads(body)

    assert [row["agent"] for row in as_(one)[1]] == ["Browser 2", "Browser 1"]
    [foreign] = as_(theirs)[1]
    assert as_(one, f"/sessions/{foreign['id']}", "DELETE")[0] == 404
    assert as_(one, f"/sessions/{as_(one)[1][0]['id']}", "DELETE")[0] == 200
    assert [as_(cookie)[0] for cookie in (one, two, theirs)] == [200, 401, 200]
    # What goes on ends as well.
    live = STREAM.replace(b"\r\n\r\n", f"\r\nCookie: {theirs.split(';')[0]}\r\n\r\n".encode())
    guest = knock(server, live)
    assert b"200 OK" in guest.recv(100)
    # An admin sees and ends all; a cookie is no id, and an id no cookie.
    admin = {"Authorization": f"Bearer {TOKEN}"}
    assert len(json.loads(get(server, f"{API}/sessions", **admin)[2])) == 2
    assert as_(f"{one.split('=')[0]}={foreign['id']}")[0] == 401
    assert get(server, f"{API}/sessions/{foreign['id']}", "DELETE", **admin)[0] == 200
    assert as_(theirs)[0] == 401
    assert rest(guest).endswith(b"\r\n0\r\n\r\n")
    # Nothing in the file opens a door, and a restart ends no session, but a new token does.
    server.sinks.close(1)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert one.split(";")[0].split("=")[1].encode() not in kept
    assert ann.token.encode() not in kept
    server = serve(monitor, http, Sinks(store=Store(tmp_path / "a.db")))
    assert as_(one)[0] == 200
    server.sinks.close(1)
    changed = Http(address="127.0.0.1:0", token=TOKEN, users=(User(name="Ann", token=f"x{TOKEN}"),))
    server = serve(monitor, changed, Sinks(store=Store(tmp_path / "a.db")))
    assert as_(one)[0] == 401
    server.sinks.close(1)


def test_two_at_one_host_share_no_cookie(monitor: DemoMonitor) -> None:
    names = set()
    for _ in range(2):
        server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN), Sinks())
        names.add(log_in(server, TOKEN).split("=")[0])
        server.sinks.close(1)
    assert len(names) == 2


def test_sessions_grow_old_and_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.7e9]
    monkeypatch.setattr("mpft_deploy.screen.web.sessions.time.time", lambda: now[0])
    sessions = Sessions(Store(None))
    first = sessions.begin("Ann", TOKEN, "x" * 5000)
    assert sessions.find(first) is not None
    for _ in range(MOST):
        now[0] += 1
        sessions.begin("Ann", TOKEN, "")
    assert sessions.find(first) is None
    assert len(sessions.all()) == MOST
    last = sessions.begin("Bob", TOKEN, "")
    now[0] += 30 * 86400 + 1
    assert sessions.find(last) is None


def test_a_proxy_says_who_its_visitors_are(monitor: DemoMonitor) -> None:
    ann = User(name="Ann", role="admin")
    http = Http(
        address="127.0.0.1:0", users=(ann,), trusted_proxy="127.0.0.1", user_header="X-User"
    )
    server = serve(monitor, http, Sinks())

    def me(**headers: str) -> tuple[int, Any]:
        status, _, body = get(server, f"{API}/me", **headers)
        return status, json.loads(body)

    assert me(X_User="Ann")[1] == {"name": "Ann", "role": "admin", "manages": False}
    assert me(X_User="Eve")[1]["role"] == "viewer"
    assert me()[0] == 401  # nobody is let in for want of tokens
    for name in ("", " ", "Ann,Eve", "x" * 101, "a\tb"):
        assert me(X_User=name)[0] == 403
    twice = b"GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\nX-User: Eve\r\nX-User: Ann\r\n\r\n"
    guest = knock(server, twice)
    assert b"403 Forbidden" in guest.recv(100)
    guest.close()
    server.sinks.close(1)
    # From anywhere else the header is refused, whatever else is shown.
    http = Http(address="127.0.0.1:0", token=TOKEN, trusted_proxy="192.0.2.1", user_header="X-User")
    server = serve(monitor, http, Sinks())
    bearer = f"Bearer {TOKEN}"
    assert me(X_User="Ann")[0] == 403
    assert me(X_User="Ann", Authorization=bearer)[0] == 403
    assert me(X_Forwarded_For="192.0.2.1", X_User="Ann")[0] == 403
    assert me(Authorization=bearer)[0] == 200
    assert "secure" not in log_in(server, TOKEN, X_Forwarded_Proto="https").lower()
    server.sinks.close(1)
    http = Http(address="127.0.0.1:0", token=TOKEN, trusted_proxy="127.0.0.0/8")
    server = serve(monitor, http, Sinks())
    assert "secure" in log_in(server, TOKEN, X_Forwarded_Proto="https").lower()
    server.sinks.close(1)


def test_who_did_what_is_kept_in_pages(monitor: DemoMonitor) -> None:
    ann = User(name="Ann", role="reviewer", token="ann-" + TOKEN)
    server = serve(monitor, Http(address="127.0.0.1:0", token=TOKEN, users=(ann,)), Sinks())
    server.sinks.send(stream_event(1))
    cookie = log_in(server, ann.token).split(";")[0]
    get(server, f"{API}/events/1/review", "PUT", '{"state":"confirmed"}', Cookie=cookie)
    get(server, f"{API}/events/2/review", "PUT", '{"state":"confirmed"}', Cookie=cookie)  # is none
    get(server, f"{API}/export", Cookie=cookie)
    get(server, "/logout", "POST", Cookie=cookie)
    admin = {"Authorization": f"Bearer {TOKEN}"}
    assert get(server, f"{API}/audit", Authorization=f"Bearer {ann.token}")[0] == 403
    page = json.loads(get(server, f"{API}/audit", **admin)[2])
    assert page["next"] is None
    told = [(row["user"], row["action"], row["object"]) for row in page["entries"]]
    assert told == [
        ("Ann", "logged out", ""),
        ("Ann", "exported reviewed frames", ""),
        ("Ann", "reviewed", "event 1 of gate as confirmed"),
        ("Ann", "logged in", ""),
    ]
    first = json.loads(get(server, f"{API}/audit?limit=3", **admin)[2])
    rest_ = json.loads(get(server, f"{API}/audit?before={first['next']}", **admin)[2])
    assert first["entries"] + rest_["entries"] == page["entries"]
    server.sinks.close(1)


def test_a_taken_port(server: Dashboard, monitor: DemoMonitor) -> None:
    with pytest.raises(EnvironmentLacksError, match="cannot be listened on"):
        serve(monitor, Http(address=f"127.0.0.1:{port_of(server)}"), Sinks())


STREAM = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_the_live_connection(server: Dashboard) -> None:
    server.sinks.send(stream_event(1))
    guest = knock(server, STREAM).makefile("rb")
    while not guest.readline().startswith(b"event: overview"):
        pass
    server.sinks.send(source_event(2))
    server.sinks.send(source_event(3))
    found = []
    while len(found) < 2:
        if guest.readline() == b"event: told\n":
            found.append(json.loads(guest.readline().removeprefix(b"data: "))["event"]["id"])
    assert found == ["s000002", "s000003"]
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


def test_pictures_are_encoded_once_for_all(
    server: Dashboard, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpft_deploy.screen.web import board

    calls = []
    encode = board.encode_jpeg
    monkeypatch.setattr(board, "encode_jpeg", lambda *a, **k: calls.append(1) or encode(*a, **k))
    threads = [
        threading.Thread(target=get, args=(server, f"{API}/picture?source=Main+street"))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_still_scene_is_converted_once(
    server: Dashboard, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor converts a whole frame when it is asked for a picture."""
    from mpft_deploy.screen.web import board

    asked = []
    picture = monitor.picture
    monkeypatch.setattr(server.board._monitor, "picture", lambda s: asked.append(s) or picture(s))
    monkeypatch.setattr(board, "PICTURE_SECONDS", 0.0)
    server.sinks.send(frame_event(1, "Main street"))
    get(server, f"{API}/picture?source=Main+street")
    before = len(asked)
    for _ in range(3):
        get(server, f"{API}/picture?source=Main+street")
        get(server, f"{API}/sources")
    assert len(asked) == before
    server.sinks.send(frame_event(2, "Main street"))
    get(server, f"{API}/picture?source=Main+street")
    assert len(asked) > before


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_package_is_named_with_its_remedy(
    monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentLacksError, match=rf"{package}: run `pip install .*dashboard"):
        serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    with pytest.raises(EnvironmentLacksError, match=rf"\[health\] needs {package}"):
        serve_health(monitor, Health(address="127.0.0.1:0"))


def test_closing_ends_live_connections(monitor: DemoMonitor) -> None:
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    guest = knock(server, STREAM)
    assert guest.recv(100)
    began = time.monotonic()
    server.sinks.close(1)
    assert time.monotonic() - began < 5
    rest(guest)


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


def test_a_source_that_is_removed_leaves_the_page(server: Dashboard) -> None:
    for number in range(3):
        server.sinks.send(frame_event(number, "Main street"))
    server.board.picture("Main street", near=False)
    server.sinks.send(source_event(4, "Main street", state="removed", previous="live"))
    board = server.board
    assert not any("Main street" in kept for kept in (board._history, board._judged, board._slots))
    assert ask(server, "/events")["events"][0]["event"]["state"] == "removed"


def test_a_history_is_as_large_at_the_start_as_ever() -> None:
    from mpft_deploy.screen.web.board import HISTORY, _History

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


def test_other_nodes_are_shown(monitor: DemoMonitor, browser: Browser) -> None:
    yard = DemoMonitor(demo_sources(2))
    yard.step(1.7e9)
    user = User(name="hall", role="viewer", token="hall-" + TOKEN)
    there = serve(yard, Http(address="127.0.0.1:0", token=TOKEN, users=(user,)), Sinks())
    for event in yard.step(1.7e9 + 1):
        there.sinks.send(event)
    nodes = (
        Node(name="yard", url=there.url, token=user.token),
        Node(name="locked", url=there.url, token="wrong-" + TOKEN),
        Node(name="other", url=there.url + "x", token=user.token),
        Node(name="nowhere", url=f"http://127.0.0.1:{free_port()}"),
    )
    here = serve(monitor, Http(address="127.0.0.1:0", nodes=nodes), Sinks())

    def told() -> dict[str, Any]:
        return {one["node"]: one for one in ask(here, "/sources")["nodes"]}

    eventually(lambda: told()["yard"]["sources"] and told()["nowhere"]["problem"])
    assert [one["source"] for one in told()["yard"]["sources"]] == list(yard.sources)
    eventually(lambda: told()["locked"]["problem"] == "it does not know the token")
    assert told()["other"]["problem"] == "it answered 404"
    assert told()["nowhere"]["problem"] == "Connection refused"
    assert ask(here, "/sources?own=true")["nodes"] == []  # nodes that show each other do no more
    name = list(yard.sources)[1]
    picture = ask(here, f"/nodes/yard/picture?source={name.replace(' ', '+')}")
    assert picture["width"] == 1280
    assert get(here, f"{API}/nodes/attic/picture?source=x")[0] == 404
    assert get(here, f"{API}/nodes/yard/picture?source=x")[0] == 404
    # On the page they stand beside the own ones, and lead to their own.
    browser.show(here.url)
    count = len(monitor.sources) + 2
    browser.wait_for(f"document.querySelectorAll('.tile').length === {count}")
    browser.wait_for("document.querySelectorAll('.tile:last-child image').length === 1")
    shown = browser.ask("document.querySelector('.tile:last-child .name span').textContent")
    assert shown == f"yard: {name}"
    browser.ask("window.open = (url) => { window.opened = url; }")
    browser.ask("document.querySelector('.tile:last-child .screen').click()")
    assert browser.ask("opened") == f"{there.url}#source={quote(name)}"
    assert not browser.ask("document.querySelector('#detail').open")
    assert browser.ask("document.querySelector('#filters [name=source]').length") == count - 1
    notice = "document.querySelector('#notice').textContent"
    browser.wait_for(f"{notice}.includes('locked: it does not know the token.')")
    there.sinks.close(1)
    browser.wait_for(f"{notice}.includes('yard: ')")
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 2")
    text = browser.ask("document.documentElement.outerHTML")
    assert user.token not in text + str(told())
    here.sinks.close(1)
