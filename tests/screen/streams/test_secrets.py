"""A whole run with everything on: what was planted in its configuration shows nowhere."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import servers
from broker import PASSWORD as BROKER
from broker import Broker, Subscriber, require_broker
from command import Process
from telling import Receiver, eventually, everything, receiving

CAMERA, WRONG, QUERY = "Pl4nted/S3cret+1", "Wr0ng&S3cret/2", "T0ken-of-a-query=3"
PIPELINE, HOOK_LOGIN, HOOK_PATH = "P1peline-S3cret:4", "H00k-S3cret/5", "h00kpathtoken6789"
HOOK_KEY, DASHBOARD = "H00k-Signing-K3y-7", "D4shboard-T0ken+8"
SECRETS = (CAMERA, WRONG, QUERY, PIPELINE, HOOK_LOGIN, HOOK_PATH, HOOK_KEY, DASHBOARD, BROKER)


def forms(secret: str) -> set[bytes]:
    """A secret as it is, percent-encoded, as JSON, and what base64 makes of it within a text."""
    found = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    for before in range(3):
        # The first and last characters also tell of what stands beside the secret.
        padded = base64.b64encode(bytes(before) + secret.encode())
        whole = padded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6].decode()
        found |= {whole, whole.translate(str.maketrans("+/", "-_"))}
    return {form.lower().encode() for form in found}


def leaks(text: bytes, secrets: tuple[str, ...] = SECRETS) -> list[str]:
    """Which secrets a text holds, in whatever form and case."""
    lower = text.lower()
    return [secret for secret in secrets if any(form in lower for form in forms(secret))]


def test_the_search_finds_them() -> None:
    for secret in SECRETS:
        login = base64.b64encode(f"viewer:{secret}".encode())
        texts = [secret.encode(), quote(secret, safe="").encode(), login]
        assert all(leaks(b"x" + text + b"y") == [secret] for text in texts)
    assert not leaks(b"rtsp://***@127.0.0.1/cam?token=***")


CONFIG = """
[screen]
threads = 1
threshold = 0.01
[decision]
false_alarms = "2s"
misses = "2s"
patience = "1s"
least = 0.1
[defaults]
gate = 0.0
connect = 2.0
[[source]]
name = "refused"
address = "{refused}"
[[source]]
address = "{web}"
[[source]]
address = "gst:rtspsrc location={dead} user-id=viewer user-pw={pipeline} ! decodebin"
size = "32x32"
[jsonl]
path = "{out}/events.jsonl"
[webhook]
url = "{hook}"
secret = "{key}"
[store]
path = "{out}/store/screen.db"
[mqtt]
host = "127.0.0.1"
port = {port}
user = "screener"
password_file = "{private}/broker"
interval = 0.0
[snapshots]
folder = "{out}/shots"
when = ["generated", "no sign", "unsure"]
[http]
address = "127.0.0.1:0"
token_file = "{private}/token"
"""


def configure(folder: Path, refused: str, receiver: Receiver, broker: Broker) -> Path:
    """Write a configuration that tells everybody; what comes of it goes to `out`."""
    out, private = folder / "out", folder / "private"
    out.mkdir()
    private.mkdir()
    (private / "broker").write_text(BROKER)
    (private / "token").write_text(DASHBOARD)
    login = f"hook:{quote(HOOK_LOGIN, safe='')}"
    dead = f"127.0.0.1:{servers.free_port()}"
    path = private / "cameras.toml"
    path.write_text(
        CONFIG.format(
            refused=refused,
            web=f"http://{dead}/{HOOK_PATH}?{urlencode({'auth': QUERY})}",
            dead=f"rtsp://viewer:{quote(CAMERA, safe='')}@{dead}/cam",
            pipeline=PIPELINE,
            out=out,
            private=private,
            hook=f"http://{login}@127.0.0.1:{receiver.port}/{HOOK_PATH}?key={HOOK_PATH}",
            key=HOOK_KEY,
            port=broker.port,
        )
    )
    return path


PAGES = (
    *("/", "/login", "/livez", "/readyz", "/metrics", "/api/v1/sources", "/api/v1/history"),
    *("/api/v1/events", "/api/v1/openapi.json", "/live.js", "/nothing"),
)


def pages(url: str, names: list[str]) -> bytes:
    """What the dashboard answers to those who know the token, and to others."""
    said = b""
    for token in ("", "a-token-that-is-wrong", DASHBOARD):
        for path in (*PAGES, f"/api/v1/sources?{urlencode({'token': DASHBOARD})}"):
            said += b"".join(everything(url, method, path, token) for method in ("GET", "HEAD"))
        for name in names:
            query = urlencode({"source": name})
            said += everything(url, "GET", f"/api/v1/picture?{query}", token)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/login", urlencode({"token": DASHBOARD}))
    answer = connection.getresponse()
    assert answer.status == 303
    said += f"{answer.headers}".encode() + answer.read()
    connection.request("GET", "/api/v1/stream", headers={"Authorization": f"Bearer {DASHBOARD}"})
    answer = connection.getresponse()
    live = b""
    while b"event: overview" not in live:
        live += answer.readline()
    connection.close()
    return said + live


def of_the_process(pid: int) -> bytes:
    """Its title, and the names of its threads."""
    folder = Path(f"/proc/{pid}")
    names = b"".join(path.read_bytes() for path in folder.glob("task/*/comm"))
    return (folder / "cmdline").read_bytes() + names


@pytest.mark.parametrize("form", ["people", "json"])
def test_what_was_planted_shows_nowhere(
    form: str, clip: Any, rtsp: Any, run: Any, tmp_path: Path
) -> None:
    require_broker()
    broker, server = Broker(tmp_path, login=True), rtsp(cam=f"{clip()},25,viewer:{CAMERA}")
    password, subscriber = quote(CAMERA, safe=""), Subscriber(broker.port, ("screener", BROKER))
    live = server.url("cam", f"viewer:{password}") + f"?{urlencode({'token': QUERY})}"
    dead = f"rtsp://{password}:{password}@127.0.0.1:{servers.free_port()}/{HOOK_PATH}"
    refused = server.url("cam", f"viewer:{quote(WRONG, safe='')}")
    with receiving() as receiver:
        path = configure(tmp_path, refused, receiver, broker)
        arguments = [live, dead, "--config", path, "--decode", "5"]
        one: Process = run(*arguments, *(["--json"] if form == "json" else []))
        said = watch_it(one, server, receiver, subscriber, path)
        hooks = list(receiver.received)
    subscriber.close()
    broker.down()
    for headers, body in hooks:
        # Its own login is what the receiver is to be told; nothing else is.
        assert leaks(headers.pop("Authorization").encode()) == [HOOK_LOGIN]
        said["webhook"] = said.get("webhook", b"") + f"{headers}".encode() + body
    said["mqtt"] = "\n".join(f"{topic} {text}" for topic, text in subscriber.messages).encode()
    said["output"], said["log"] = "".join(one.lines).encode(), "".join(one.errors).encode()
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            kind = file.relative_to(tmp_path / "out").parts[0]
            said[kind] = said.get(kind, b"") + file.read_bytes()
    # Each way of telling was in use, and told of sources that work and of those that do not.
    assert {"webhook", "mqtt", "log", "events.jsonl", "store", "shots"} <= said.keys()
    for what in ("webhook", "mqtt", "pages", "events.jsonl"):
        assert b'"live"' in said[what], what
        assert b"Connection refused" in said[what], what
    assert (b"live" in said["output"]) == (form == "people")
    assert {what: found for what, text in said.items() if (found := leaks(text))} == {}


def watch_it(
    one: Process, server: Any, receiver: Receiver, subscriber: Subscriber, path: Path
) -> dict[str, bytes]:
    """Let it go through good and bad times; what its pages and its title said."""
    said = {}
    one.until(lambda: any("dashboard: " in line for line in one.errors))
    [url] = [found[0] for line in one.errors if (found := re.search(r"http://127[^\s\"]+", line))]
    shots = path.parent.parent / "out" / "shots"
    one.until(lambda: shots.is_dir() and any(shots.glob("*.jpg")))
    kinds = lambda: {json.loads(body)["event"] for _, body in receiver.received}  # noqa: E731
    one.until(lambda: kinds() == {"stream", "source"})
    one.until(lambda: sum('"down"' in text for _, text in subscriber.messages) >= 4)
    overview = everything(url, "GET", "/api/v1/sources", DASHBOARD).decode()
    said["pages"] = pages(url, re.findall(r'"source":"(.*?)"', overview))
    said["title"] = of_the_process(one.process.pid)
    assert b"screen" in said["title"]
    # A configuration with a mistake is refused, and the message holds none of it.
    good = path.read_text()
    path.write_text(good.replace("address", "adress", 1))
    one.process.send_signal(signal.SIGHUP)
    one.until(lambda: any("was not taken" in line for line in one.errors))
    # What comes now stays in the store.
    receiver.down()
    receiver.hang_up()
    server.kill()
    one.until(lambda: any("events wait" in line for line in one.errors))
    eventually(lambda: subscriber.messages)
    one.end()
    assert one.process.returncode == 0
    return said
