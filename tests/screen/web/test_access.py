"""Who may see and change what: tokens, sessions, roles, proxies, and pages of others."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_demo import DemoMonitor
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from telling import stream_event
from visits import API, STREAM, TOKEN, get, knock, log_in, rest

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.screen.tell.config import Http, Role, User
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.access import MOST, Access, Sessions
from mpft_deploy.screen.web.server import Dashboard

PATHS = [
    *(API + path for path in ("/sources", "/events", "/history", "/stream", "/openapi.json")),
    "/metrics",
    "/dashboard.js",
]


@pytest.fixture(scope="module")
def wall(monitor: DemoMonitor) -> Iterator[Dashboard]:
    """With a name of its own."""
    one = serve(monitor, Http(address="127.0.0.1:0", hosts=("wall.example",)), Sinks())
    yield one
    one.sinks.close(1)


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
    # Other programs at this host, at whatever port, have cookies too, and none is sent by itself.
    for other in ('prefs={"a":1}', "a=b c", "x[0]=1", "\xe9=1", "=", "a"):
        assert get(locked, f"{API}/sources", Cookie=f"{other}; {cookie.split(';')[0]}")[0] == 200
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
    monkeypatch.setattr("mpft_deploy.screen.web.access.time.time", lambda: now[0])
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
    assert sessions.all() == []


def test_a_session_that_two_end_at_the_same_moment_is_no_error() -> None:
    sessions = Sessions(Store(None))
    found = sessions.find(sessions.begin("Ann", TOKEN, ""))
    assert found is not None
    for _ in range(2):
        sessions.end(found.id)
    assert sessions.all() == []


def test_on_a_full_disk_one_can_log_in_and_is_not_told_to_be_out_who_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(None)
    sessions = Sessions(store)
    kept = sessions.begin("Ann", TOKEN, "")

    def full(sql: str, *values: object) -> Any:
        raise EnvironmentLacksError("the disk is full")

    monkeypatch.setattr(store, "rows", full)
    for _ in range(MOST):
        assert sessions.find(sessions.begin("Ann", TOKEN, "")) is not None
    [session] = [one for one in sessions.all() if one == sessions.find(kept)]
    with pytest.raises(EnvironmentLacksError):
        sessions.end(session.id)
    assert sessions.find(kept) == session
    monkeypatch.undo()
    monkeypatch.setattr(store, "set_setting", full)
    again = Sessions(store)  # after a restart
    assert (again.cookie, again.all()) == (sessions.cookie, [session])


def test_a_proxy_says_who_its_visitors_are(monitor: DemoMonitor) -> None:
    ann = User(name="Ann", role="admin")
    http = Http(
        address="127.0.0.1:0", users=(ann,), trusted_proxy="127.0.0.1", user_header="X-User"
    )
    server = serve(monitor, http, Sinks())

    def me(**headers: str) -> tuple[int, Any]:
        status, _, body = get(server, f"{API}/me", **headers)
        return status, json.loads(body)

    assert me(X_User="Ann")[1] == {
        "name": "Ann",
        "role": "admin",
        "manages": False,
        "notifies": False,
    }
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
