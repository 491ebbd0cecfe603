"""Soak: `mpft screen` for a long time; what grows in it, and how old verdicts get.

    python benchmarks/soak.py BUNDLE [--cameras 8] [--minutes 60] [--decode 5] [--json OUT]

Cameras of 720p25, by default five frames a second each, one of which is cut off every minute, since
what leaks does so when connections are made anew. The command runs as an operator has it run, with
events as JSON lines, page, metrics, webhook and, where mosquitto is installed, MQTT; a visitor has
the page open. It is watched from outside. Before that one camera alone is screened
for a minute, without all that.

Ends with exit code 1 if a bound is broken: it ends by itself or with another code than 0; threads
or descriptors grow; a verdict is older than the bound of `max_age` and a batch; a sink gets
nothing; one camera takes more than ONE_CAMERA_MB; after warming up anonymous memory grows or
shrinks by more than MEMORY_MB_PER_HOUR. The last is judged of runs of 45 minutes or more.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import numpy as np
import rtsp_load
from records import write_record
from screened import Screen, configuration
from turns import measured, provenance

from mpft_deploy.cli.options import parse_decode

SAMPLE = 5.0
"""Seconds between two samples of memory, threads and descriptors."""

GLANCE = 0.1
"""Seconds between two looks at memory, of which a sample is the mean: frames in flight make single
looks differ by 20 MB, which is more than what would leak in a day."""

WARM_UP = 30.0
"""Minutes that are left out, at most half of all: pools, caches and the allocator's arenas fill."""

JUDGED = 45.0
"""Minutes from which on the slope of memory is judged."""

CUT = 60.0
"""Seconds between two cuts of a connection."""

ALONE = 60.0
"""Seconds that one camera is screened alone."""

LOOK = 2.0
"""Seconds between two pictures of a camera that a visitor's page asks for."""

MEMORY_MB_PER_HOUR = 1.0
ONE_CAMERA_MB = 260.0

OLDEST_S = 2.5
"""`max_age`, and as much again as a batch may take on a slow machine."""


class Visitor:
    """Has the page open, as a browser has: the live connection, and pictures one at a time."""

    def __init__(self, screen: Screen, cameras: int) -> None:
        self._screen, self._cameras = screen, cameras
        self.pictures, self._stopped = 0, threading.Event()
        for work in (self._follow, self._look):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """Leave."""
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            address = self._screen.url + "/api/v1/stream"
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                urllib.request.urlopen(address, timeout=10) as stream,
            ):
                while not self._stopped.is_set() and stream.readline():
                    pass
            self._stopped.wait(1)

    def _look(self) -> None:
        while not self._stopped.wait(LOOK / self._cameras):
            name = self.pictures % self._cameras
            near = self.pictures // self._cameras % 2
            with contextlib.suppress(OSError, http.client.HTTPException):
                picture = json.loads(self._screen.get(f"/api/v1/picture?source={name}&near={near}"))
                self.pictures += picture is not None


@contextlib.contextmanager
def receiver() -> Iterator[int]:
    """The port of a webhook's receiver, which takes everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int | None]:
    """The port of an MQTT broker; None where none is installed."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        print("mosquitto is not installed: without MQTT", file=sys.stderr)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n")
    with subprocess.Popen([program, "-c", config], stderr=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


def slope(samples: list[dict[str, float]], key: str) -> float:
    """By how much it grows in an hour: the median of the slopes of all pairs (Theil and Sen)."""
    if not samples:
        return 0.0
    begin, end = samples[0]["time"], samples[-1]["time"]
    warm = begin + min(60 * WARM_UP, (end - begin) / 2)
    values = np.array([[one["time"], one[key]] for one in samples if one["time"] >= warm])
    first, second = np.triu_indices(len(values), 1)
    rises = values[second] - values[first]
    return float(np.median(rises[:, 1] / rises[:, 0])) * 3600 if len(rises) else 0.0


def watch(screen: Screen, seconds: float, cut: Any = None) -> tuple[list[dict[str, float]], str]:
    """Samples of a running command, and what went wrong, if something did."""
    samples: list[dict[str, float]] = []
    begin = time.monotonic()
    next_sample, next_cut = begin + min(SAMPLE, seconds / 3), begin + CUT
    while (now := time.monotonic()) < begin + seconds:
        if now >= next_sample:
            next_sample += SAMPLE
            try:
                samples.append(screen.sample())
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                if not screen.running:
                    return samples, "it ended by itself"
                return samples, f"its metrics did not answer: {error}"
        if cut is not None and now >= next_cut:
            next_cut += CUT
            cut()
        time.sleep(GLANCE)
        with contextlib.suppress(OSError, KeyError):  # it ended; the next sample says so
            screen.glance()
    return samples, ""


def soak(
    bundle: Path, minutes: float, cameras: int, folder: Path, decode: str | float
) -> dict[str, Any]:
    """Run it."""
    clip, config = folder / "720.clip", folder / "cameras.toml"
    rtsp_load.make_clip(clip, 1280, 720)
    with contextlib.ExitStack() as stack:
        port, _, player = stack.enter_context(rtsp_load.running(clip, min(cameras, 16)))
        stdin = player.stdin
        assert stdin is not None

        def cut() -> None:
            stdin.write(".")
            stdin.flush()

        config.write_text(configuration(1, 1, port))
        screen = Screen(bundle, config, page=False)
        try:
            screen.wait()
            alone, trouble = watch(screen, min(ALONE, 60 * minutes))
        finally:
            code_alone = screen.stop()

        hook = stack.enter_context(receiver())
        mqtt = stack.enter_context(broker(folder))
        tell = f'[webhook]\nurl = "http://127.0.0.1:{hook}/"\n'
        tell += f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt}\n' if mqtt is not None else ""
        config.write_text(configuration(cameras, decode, port, tell))
        screen = Screen(bundle, config, page=True)
        try:
            screen.wait()
            visitor = Visitor(screen, cameras)
            samples, wrong = watch(screen, 60 * minutes, cut)
            visitor.stop()
        finally:
            code = screen.stop()
    last = samples[-1] if samples else {}
    return {
        "minutes": minutes,
        "cameras": cameras,
        "decode": decode,
        "trouble": trouble or wrong,
        "exit_codes": [code_alone, code],
        "one_camera_mb": alone[-1]["resident_mb"] if alone else None,
        "one_camera_peak_mb": alone[-1]["peak_mb"] if alone else None,
        "memory_mb": last.get("resident_mb"),
        "peak_mb": last.get("peak_mb"),
        "anonymous_mb": last.get("anonymous_mb"),
        "anonymous_mb_per_hour": slope(samples, "anonymous_mb"),
        "threads_per_hour": slope(samples, "threads"),
        "descriptors_per_hour": slope(samples, "descriptors"),
        "threads": last.get("threads"),
        "descriptors": last.get("descriptors"),
        "verdicts": screen.verdicts,
        "oldest_verdict_s": screen.oldest,
        "reconnects": screen.reconnects,
        "pictures": visitor.pictures,
        "delivered": screen.delivered,
        "samples": samples,
    }


def broken_bounds(result: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    growth = abs(result["anonymous_mb_per_hour"])
    bounds = {
        result["trouble"]: bool(result["trouble"]),
        f"exit codes {result['exit_codes']}": any(result["exit_codes"]),
        "memory": result["minutes"] >= JUDGED and growth > MEMORY_MB_PER_HOUR,
        "memory of one camera": (result["one_camera_mb"] or 0) > ONE_CAMERA_MB,
        "threads": result["threads_per_hour"] > 0,
        "descriptors": result["descriptors_per_hour"] > 0,
        "age": result["oldest_verdict_s"] > OLDEST_S,
        "no pictures": not result["pictures"],
        "a sink got nothing": not result["delivered"] or 0 in result["delivered"].values(),
    }
    return [what for what, bad in bounds.items() if bad]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--cameras", default=8, show_default=True)
@click.option(
    "--decode",
    default="5",
    show_default=True,
    callback=parse_decode,
    help="all, keyframes or frames a second.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    bundle: Path, minutes: float, cameras: int, decode: str | float, json_path: Path | None
) -> None:
    """Soak with BUNDLE."""
    with tempfile.TemporaryDirectory() as folder:
        result = soak(bundle, minutes, cameras, Path(folder), decode)
    hour = "an hour" + (
        "" if minutes >= JUDGED else f", from {minutes:g} minutes alone: not judged"
    )
    if result["samples"]:
        alone, peak = result["one_camera_mb"], result["one_camera_peak_mb"]
        print(f"one camera   {alone:8.1f} MB, peak {peak:.1f}")
        print(f"memory       {result['memory_mb']:8.1f} MB, peak {result['peak_mb']:.1f}")
    print(f"anonymous    {result['anonymous_mb_per_hour']:+8.2f} MB {hour}")
    print(f"threads      {result['threads_per_hour']:+8.2f} an hour, now {result['threads']}")
    print(f"descriptors  {result['descriptors_per_hour']:+8.2f} an hour")
    print(f"verdicts     {result['verdicts']}, the oldest {result['oldest_verdict_s']:.2f} s")
    print(f"reconnects   {result['reconnects']}; pictures {result['pictures']}")
    print(f"delivered    {result['delivered']}")
    broken = broken_bounds(result)
    if json_path is not None:
        record = {
            "benchmark": "soak",
            **provenance(),
            **measured(bundle),
            "broken": broken,
            **result,
        }
        write_record(json_path, record)
    if broken:
        sys.exit(f"bounds that are broken: {', '.join(broken)}")


if __name__ == "__main__":
    main()
