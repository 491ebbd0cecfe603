"""Cameras of the network: honest ones, hostile ones, and what is shown of both."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from command import without
from hypothesis import given
from hypothesis import strategies as st
from onvif_network import PASSWORD, USER, Device, Network, envelope, match, network, send

from mpft_deploy.screen import onvif
from mpft_deploy.screen.onvif import Camera, Stream, find_cameras, read_match

ENTITIES = (
    f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
LAUGHS = f'<!DOCTYPE l [<!ENTITY a "ha">{"".join(ENTITIES)}]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr(onvif, "WAIT", 1.0)
    with network(monkeypatch) as one:
        yield one


@pytest.fixture
def device(net: Network) -> Iterator[Callable[..., Device]]:
    """Start cameras of the network."""
    started: list[Device] = []

    def start(host: str = "127.0.0.1", *, http: bool = False) -> Device:
        one = Device(host, http=http)
        started.append(one)
        net.answers.append((host, one.match))
        return one

    yield start
    for one in started:
        one.close()


def test_a_camera_is_found_by_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(socket.if_nametoindex("lo"), "lo")])
    with network(monkeypatch, onvif.GROUP[0]) as net:
        net.answers.append(("127.0.0.3", lambda q: match(q, "http://127.0.0.3/onvif")))
        [camera] = find_cameras()
    assert camera == Camera(
        host="127.0.0.3",
        address="rtsp://127.0.0.3/",
        name="Dock ä",
        hardware="X-1",
        service="http://127.0.0.3/onvif",
    )
    assert len(net.probes) == 2  # since datagrams are lost


def test_where_interfaces_may_not_be_listed_the_system_takes_one(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "if_nameindex", refuse)
    net.answers.append(("127.0.0.3", lambda q: match(q, "")))
    assert [one.host for one in find_cameras()] == ["127.0.0.3"]


def test_without_a_network_that_is_said(
    mpft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "if_nameindex", list)
    code, _, error = mpft("cameras")
    assert (code, "no network interface can ask" in error) == (3, True)
    monkeypatch.setenv("MPFT_CAMERA_PASSWORD", "x")
    codes, errors = without(("httpx2",), ["cameras", "--user", "op"])
    assert codes == [3]
    assert "asking cameras for their streams needs httpx2: " in errors


@pytest.mark.parametrize("http", [False, True], ids=["ws", "http"])
def test_a_camera_tells_its_streams(
    device: Callable[..., Device], http: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one = device(http=http)
    one.streams["b"] = "rtsp://127.0.0.1/sub"
    [camera] = find_cameras(USER, PASSWORD)
    assert camera.streams == (
        Stream("Main 2560 × 1440", "rtsp://127.0.0.1:8554/live?channel=1&subtype=0"),
        Stream("Main 2560 × 1440", "rtsp://127.0.0.1/sub"),
    )
    assert camera.problem == ""
    first = ["GetSystemDateAndTime", "GetCapabilities", "GetProfiles"]
    assert one.asked == [*first, "GetStreamUri", "GetStreamUri"]
    secret = PASSWORD.encode()
    assert not any(secret in request for request in one.requests)
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(camera)


def test_each_camera_has_its_own_trouble(net: Network, device: Callable[..., Device]) -> None:
    fine, silent, elsewhere = (device(f"127.0.0.{number}") for number in (1, 2, 3))
    net.answers.append(("127.0.0.4", lambda q: match(q, "http://192.0.2.9/onvif")))
    net.answers.append(("127.0.0.5", lambda q: match(q, "http://127.0.0.5:9/onvif")))
    silent.instead["GetProfiles"] = lambda _: envelope("")
    elsewhere.streams = {"a": "rtsp://192.0.2.9/live", "b": "rtsp://127.0.0.3/live"}
    found = find_cameras(USER, PASSWORD)
    assert [one.host for one in found] == [f"127.0.0.{number}" for number in range(1, 6)]
    assert [len(one.streams) for one in found] == [1, 0, 1, 0, 0]
    assert [one.problem for one in found] == [
        "",
        "",
        "it names a stream that is not at its own address",
        "it names no service at its own address: not asked for streams",
        "Connection refused",
    ]
    assert find_cameras("somebody", "else")[0].problem == "it does not take this user and password"
    assert len(fine.requests) == 4 + 2


def drip(request: BaseHTTPRequestHandler) -> None:
    """Say a letter now and then, without end."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    flood(request, b"<", 0.05)


def flood(request: BaseHTTPRequestHandler, text: bytes = 65536 * b"x", pause: float = 0) -> None:
    try:
        while True:
            request.wfile.write(text)
            request.wfile.flush()
            time.sleep(pause)
    except OSError:
        request.close_connection = True


def digest_flood(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n'
    )
    flood(request)


def plain(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: send(request, status, body, named)


MEDIA = "<t:Media><t:XAddr>{}</t:XAddr></t:Media>"
HOSTILE: dict[str, tuple[Callable[[BaseHTTPRequestHandler], str | None], str]] = {
    "huge": (lambda _: 600_000 * "x", "it answers more than is read"),
    "endless": (flood, "it closed the connection"),
    "slow": (drip, "no reply in time"),
    "401 without end": (digest_flood, "it answers more than is read"),
    "odd digest": (
        plain(401, b"", WWW_Authenticate='Digest realm="r", nonce="n", algorithm=X'),
        "",
    ),
    "half a digest": (plain(401, b"", WWW_Authenticate="Digest realm"), ""),
    "basic": (plain(401, b"", WWW_Authenticate='Basic realm="r"'), "it does not take this user"),
    "laughs": (lambda _: envelope("&j;", LAUGHS), "its answer holds a DOCTYPE"),
    "entity": (lambda _: envelope("&a;", OUTSIDE), "its answer holds a DOCTYPE"),
    "utf-16": (plain(200, envelope("&j;", LAUGHS).encode("utf-16")), "its answer is not XML"),
    "gzip": (plain(200, b"\x1f\x8b" + bytes(99), Content_Encoding="gzip"), "its answer is not XML"),
    "nothing": (plain(200, b""), "its answer is not XML"),
    "deep": (lambda _: 60_000 * "<a>" + 60_000 * "</a>", "it names no media service"),
    "moved": (plain(307, b"", Location="{}"), "it answered 307"),
    "media elsewhere": (lambda _: envelope(MEDIA.format("{}")), "it names no media service"),
    "user before host": (
        lambda _: envelope(MEDIA.format("http://127.0.0.1:80@{}/")),
        "it names no media service",
    ),
    "prefix": (lambda _: envelope(MEDIA.format("http://127.0.0.10/")), "it names no media service"),
    "a file": (lambda _: envelope(MEDIA.format("file:///etc/passwd")), "it names no media service"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_service_costs_little_and_gets_nobody_asked(
    device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "slow":
        monkeypatch.setattr(onvif, "PATIENCE", 3.0)
    one, victim = device(), Device("127.0.0.2")
    answer, problem = HOSTILE[name]
    if name == "moved":
        answer = plain(307, b"", Location=victim.url)
    elif name in ("media elsewhere", "user before host"):
        said = answer(None)  # type: ignore[arg-type]
        answer = lambda _: str(said).format(victim.url)  # noqa: E731
    one.instead["GetCapabilities"] = answer
    try:
        [camera] = find_cameras(USER, PASSWORD)
    finally:
        victim.close()
    assert camera.streams == ()
    assert camera.problem.startswith(problem)
    assert camera.problem
    assert victim.requests == []


def test_hostile_datagrams_are_left_out_and_names_are_text(net: Network) -> None:
    def say(text: bytes) -> Callable[[str], bytes]:
        return lambda _: text

    at = "http://127.0.0.9/"
    hostile: list[Callable[[str], bytes]] = [
        say(b""),
        say(b"\0" * 60_000),
        say(20_000 * b"<a>"),
        say(match("urn:uuid:0", at)),  # of another question
        lambda q: match(q, at, before=LAUGHS, more="&j;"),
        lambda q: match(q, at, before=OUTSIDE, more="&a;"),
        lambda q: match(q, at, before=LAUGHS, more="&j;").decode().encode("utf-16"),
        lambda q: match(q, at)[:-9],
        lambda q: match(q, at).replace(b"ProbeMatch>", b"Probe>"),
    ]
    net.answers += [("127.0.0.9", one) for one in hostile]
    scopes = "onvif://www.onvif.org/name/%3Cscript%3Ealert(1)%3C/script%3E%0a%1b[2J%E2%80%AEx "
    scopes += "onvif://www.onvif.org/location/" + 30_000 * "y" + " onvif://www.onvif.org/name/%FF"
    services = "http://127.0.0.11@127.0.0.12/ file:///etc/passwd http://127.0.0.110/ http:// x"
    net.answers.append(("127.0.0.11", lambda q: match(q, services, scopes)))
    net.answers += [("127.0.0.11", lambda q: match(q, "", ""))] * 50  # once is enough
    [camera] = find_cameras()
    assert camera.host == "127.0.0.11"
    assert camera.service == ""
    assert camera.name == r"<script>alert(1)</script>\n\x1b[2J\u202ex, �"
    assert camera.location == 100 * "y"


def test_no_more_cameras_are_kept_than_can_be_shown(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onvif, "CAMERAS", 5)
    net.answers += [(f"127.0.1.{n}", lambda q: match(q, "")) for n in range(1, 20)]
    assert len(find_cameras()) == 5


def test_a_camera_tells_so_many_streams_at_most(
    device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onvif, "STREAMS", 3)
    one = device()
    one.streams = {str(n): f"rtsp://127.0.0.1/{n}" for n in range(9)}
    [camera] = find_cameras(USER, PASSWORD)
    assert [stream.address for stream in camera.streams] == list(one.streams.values())[:3]


# Text of which XML may be made, and hosts that look like others.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<&"), max_size=200)
HOSTS = st.sampled_from(["192.0.2.7", "192.0.2.70", "192x0.2.7", "evil", "[::1]", "192.0.2.7:80@e"])


@given(st.binary(max_size=2000) | WORDS.map(lambda text: match("q", text, text)))
def test_whatever_is_sent_is_a_camera_or_nothing(data: bytes) -> None:
    camera = read_match(data, "q", "192.0.2.7")
    if camera is not None:
        for text in (camera.name, camera.hardware, camera.location):
            assert text.isprintable()
            assert len(text) <= 100


@given(st.lists(st.tuples(st.sampled_from(["http", "https", "ftp", "HTTP"]), HOSTS, WORDS)))
def test_a_service_is_at_the_host_that_answered(parts: list[tuple[str, str, str]]) -> None:
    services = " ".join(f"{scheme}://{host}/{path}" for scheme, host, path in parts)
    camera = read_match(match("q", services), "q", "192.0.2.7")
    if camera is not None and camera.service:
        assert camera.service.startswith(("http://192.0.2.7/", "https://192.0.2.7/"))
        assert camera.service.isprintable()


def test_the_command(
    mpft: Callable[..., tuple[int, str, str]],
    device: Callable[..., Device],
    net: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, error = mpft("cameras")
    assert (code, out) == (1, "")
    assert "no camera answered within 1 s: it must be in the same network" in error
    device()
    net.answers.append(("127.0.0.4", lambda q: match(q, "")))
    code, out, _ = mpft("cameras")
    assert (code, "Dock ä" in out, "rtsp://127.0.0.1/…" in out) == (0, True, True)
    code, out, error = mpft("cameras", "--user", USER)
    assert (code, out) == (2, "")
    assert "there is none: set MPFT_CAMERA_PASSWORD" in error
    monkeypatch.setenv("MPFT_CAMERA_PASSWORD", PASSWORD)
    code, out, error = mpft("cameras", "--user", USER, "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first["streams"][0]["address"] == "rtsp://127.0.0.1:8554/live?channel=1&subtype=0"
    assert "not asked for streams" in second["problem"]
    code, out, error = mpft("cameras", "--user", USER)
    assert "Main 2560 × 1440" in out
    assert PASSWORD not in out + error
