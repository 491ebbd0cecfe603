"""Visitors of the page: how soon it answers, what they cost, and how soon evidence is verified.

    python benchmarks/visitors.py BUNDLE [--cameras 8] [--events 10000] [--json OUT]

`mpft screen` runs as an operator has it run, beside cameras of 720p25 at five frames a second each,
with a store that holds many events, page, health and evidence. Then come, one after the other:
somebody who pages through the events; a crowd that sends unfinished requests for as long as it may,
while health is asked; and crowds that cost memory, each as long as nobody's visit before them. Last
a package of ten seconds of one camera is asked for, and `mpft evidence verify` computes it again
when all else has ended.

Memory is the highest that the command and its readers were resident with in that time (VmHWM, what
they share counted in each), less the same of a time without visitors.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import rtsp_load
from family import family
from records import write_record
from screened import Screen, configuration
from turns import measured, provenance

from mpft_deploy.screen.streams.records import StreamEvent
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.statistics import summary

CROWD = 64
"""Visitors at a time."""

ASKED = 100
"""Times that a page of events, and health, are asked for."""

PAGE = 50
"""Events of a page."""

DRIBBLE = 0.1
"""Seconds between two bytes of a request that never ends."""

Act = Callable[[int, threading.Event], None]
"""What one visitor of a number does until told to leave."""


def fill(path: Path, events: int, cameras: int) -> None:
    """A store of verdicts of the last hours."""
    store, now = Store(path), time.time()
    for number in range(events):
        verdict, previous = ("generated", "unsure") if number % 2 else ("unsure", "generated")
        store.add(
            StreamEvent(
                id=f"e{number:08d}",
                source=str(number % cameras),
                time=now - events + number,
                verdict=verdict,  # type: ignore[arg-type]
                previous=previous,  # type: ignore[arg-type]
                evidence=4.7,
                frames=12,
                seconds=3.5,
                reason="evidence",
            )
        )
    store.close()


def settings(folder: Path, cameras: int, port: int, seconds: float) -> str:
    """A cameras.toml."""
    tell = f"""
[store]
path = "{folder / "events.db"}"
max_bytes = {2**30}
[http]
address = "127.0.0.1:0"
clients = {2 * CROWD}
[health]
address = "127.0.0.1:0"
[evidence]
folder = "{folder / "evidence"}"
before = {seconds / 2}
after = {seconds / 2}
"""
    return configuration(cameras, 5.0, port, tell)


class Visits:
    """Requests to a running command."""

    def __init__(self, screen: Screen) -> None:
        self.page = urlsplit(screen.url).netloc
        self.health = urlsplit(screen.health).netloc
        self.pid = screen.pid

    def ask(self, connection: HTTPConnection, path: str) -> bytes:
        """An answer; a visitor whom there is no place for gets b""."""
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read()
        return data if answer.status == 200 else b""

    def again(self, path: Callable[[int], str]) -> Act:
        """Asking for one thing after the other."""

        def act(number: int, leave: threading.Event) -> None:
            turn = number
            while not leave.is_set():
                with contextlib.suppress(OSError, HTTPException):
                    connection = HTTPConnection(self.page, timeout=30)
                    while not leave.is_set():
                        self.ask(connection, path(turn))
                        turn += 1

        return act

    def send(self, data: bytes, to: str = "", rest: bytes = b"") -> Act:
        """Sending the beginning of a request, and the rest byte by byte, or at once and again."""
        host, _, port = (to or self.page).rpartition(":")

        def act(number: int, leave: threading.Event) -> None:
            while not leave.is_set():
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((host, int(port)), timeout=5) as visitor,
                ):
                    visitor.sendall(data)
                    while not leave.wait(DRIBBLE):
                        visitor.sendall(rest or b"a")

        return act

    def follow(self, number: int, leave: threading.Event) -> None:
        """Having the live connection open, and reading slowly."""
        host, _, port = self.page.rpartition(":")
        request = f"GET /api/v1/stream HTTP/1.1\r\nHost: {self.page}\r\n\r\n".encode()
        while not leave.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host, int(port)), timeout=5) as visitor,
            ):
                visitor.sendall(request)
                while not leave.wait(1) and visitor.recv(64):
                    pass


@contextlib.contextmanager
def crowd(*acts: Act) -> Iterator[None]:
    """CROWD visitors of each kind, until the end."""
    leave = threading.Event()
    threads = [
        threading.Thread(target=act, args=(number, leave), daemon=True)
        for act in acts
        for number in range(CROWD)
    ]
    for thread in threads:
        thread.start()
    yield
    leave.set()
    for thread in threads:
        thread.join(30)


def timed(visits: Visits, host: str, path: Callable[[int], str]) -> dict[str, float]:
    """Milliseconds of ASKED answers, each of a connection of its own."""
    times = []
    for number in range(ASKED):
        began = time.perf_counter()
        connection = HTTPConnection(host, timeout=30)
        if not visits.ask(connection, path(number)):
            sys.exit(f"{path(number)} was not answered")
        times.append(1e3 * (time.perf_counter() - began))
        connection.close()
        time.sleep(0.02)
    return summary(np.array(times))


def highest_mb(pid: int, seconds: float) -> float:
    """The most that a command and what it started were resident with in the seconds to come."""
    proc = Path("/proc")
    for one in (before := family(pid)):
        with contextlib.suppress(OSError):
            (proc / str(one) / "clear_refs").write_text("5")  # VmHWM begins anew
    time.sleep(seconds)
    total = 0
    for one in before:
        with contextlib.suppress(OSError):
            for line in (proc / str(one) / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6


def costs(visits: Visits, cameras: int, events: int, seconds: float) -> dict[str, float]:
    """MB that each crowd makes the command larger by, at most."""
    head = f"GET / HTTP/1.1\r\nHost: {visits.page}\r\n"
    body = f"PUT /api/v1/events/1/review HTTP/1.1\r\nHost: {visits.page}\r\n"
    body += f"Content-Type: application/json\r\nContent-Length: {2**30}\r\n\r\n"
    megabyte = b"a" * 2**20
    acts: dict[str, Act | None] = {
        "nobody": None,
        "pictures of all cameras": visits.again(
            lambda n: f"/api/v1/picture?source={n % cameras}&near={n // cameras % 2}"
        ),
        "pages of events": visits.again(
            lambda n: f"/api/v1/events?before={1 + n * 997 % events}&limit={PAGE}"
        ),
        "the live connection": visits.follow,
        "unfinished heads": visits.send(head.encode() + b"X: "),
        "large heads": visits.send(head.encode() + b"X: " + megabyte, rest=megabyte),
        "large bodies": visits.send(body.encode(), rest=megabyte),
    }
    found = {}
    for name, act in acts.items():
        with crowd(act) if act else contextlib.nullcontext():
            found[name] = highest_mb(visits.pid, seconds)
        print(f"{name:<24} {found[name]:8.1f} MB", flush=True)
        time.sleep(seconds / 5)
    alone = found.pop("nobody")
    return {"nobody": alone, **{name: value - alone for name, value in found.items()}}


def ask_for_package(visits: Visits, path: Path) -> None:
    """Have evidence kept of a camera, and fetch it."""
    request = urllib.request.Request(
        f"http://{visits.page}/api/v1/sources/0/evidence",
        method="POST",
        headers={"Content-Type": "application/json", "Origin": f"http://{visits.page}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        name = json.loads(answer.read())["package"]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if data := visits.ask(HTTPConnection(visits.page, timeout=30), f"/api/v1/evidence/{name}"):
            path.write_bytes(data)
            return
        time.sleep(0.5)
    sys.exit("no package of evidence came")


def verify(bundle: Path, package: Path) -> dict[str, Any]:
    """Seconds of `mpft evidence verify`, from its start to its end; the best of three."""
    main = "from mpft_deploy.cli.main import main; main()"
    command = [sys.executable, "-c", main, "evidence", "verify", str(package), "--json"]
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--bundle", str(bundle)], stdout=subprocess.PIPE, check=True
        )
        times.append(time.perf_counter() - began)
        told = json.loads(done.stdout)
    size = package.stat().st_size / 1e6
    return {"seconds": min(times), "package_mb": size, "frames": told["frames"]}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--cameras", default=8, show_default=True)
@click.option("--events", default=10_000, show_default=True, help="In the store.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each crowd, and of evidence.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(bundle: Path, cameras: int, events: int, seconds: float, json_path: Path | None) -> None:
    """Measure visits with BUNDLE."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        fill(folder / "events.db", events, cameras)
        clip, config, package = folder / "720.clip", folder / "cameras.toml", folder / "kept.zip"
        rtsp_load.make_clip(clip, 1280, 720)
        port, _, _ = stack.enter_context(rtsp_load.running(clip, min(cameras, 16)))
        config.write_text(settings(folder, cameras, port, seconds))
        screen = Screen(bundle, config, page=True)
        try:
            screen.wait()
            time.sleep(2 * seconds)
            visits = Visits(screen)
            page = timed(
                visits,
                visits.page,
                lambda n: (
                    f"/api/v1/events?limit={PAGE}&before={events - n * events // ASKED}"
                    + (f"&source={n % cameras}" if n % 2 else "")
                ),
            )
            print(f"a page of events         p50 {page['p50']:.1f}, max {page['max']:.1f} ms")
            head = b"GET / HTTP/1.1\r\nX: "
            with crowd(visits.send(head), visits.send(head, visits.health)):
                time.sleep(1)
                health = timed(visits, visits.health, lambda n: "/livez")
            print(f"health, beside a crowd   p50 {health['p50']:.1f}, max {health['max']:.1f} ms")
            cost = costs(visits, cameras, events, seconds)
        finally:
            code = screen.stop()
        config.write_text(settings(folder, 1, port, seconds))
        screen = Screen(bundle, config, page=True)
        try:
            screen.wait()
            time.sleep(seconds)
            ask_for_package(Visits(screen), package)
        finally:
            code = code or screen.stop()
        verified = verify(bundle, package)
        print(f"evidence is verified in  {verified['seconds']:.2f} s, {verified['frames']} frames")
    if code:
        sys.exit(f"mpft screen ended with exit code {code}")
    if json_path is not None:
        record = {
            "benchmark": "visitors",
            **provenance(),
            **measured(bundle),
            "cameras": cameras,
            "events": events,
            "crowd": CROWD,
            "seconds": seconds,
            "page_ms": page,
            "health_ms": health,
            "memory_mb": cost,
            "evidence": verified,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()
