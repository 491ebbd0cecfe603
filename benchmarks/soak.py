"""Soak: `mpft screen` for a long time; what grows in it, and how old verdicts get.

    python benchmarks/soak.py BUNDLE [--minutes 60] [--sources 16] [--decode 5] [--json OUT]

Sources of 720p25, by default five frames a second each, one of which is cut off every minute, since
what leaks does so when connections are made anew. The command runs as an operator has it run, with
events as JSON lines, dashboard and metrics, and is watched from outside: its metrics are asked for
at every sample. Cameras run in a process of their own. Ends with exit code 1 if a bound is broken:
memory grows by less than 1 MB an hour after warming up, threads and descriptors not at all, no
verdict is older than the bound of `max_age` and a batch, and it ends with 0 when it is told to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import rtsp_load
from turns import provenance

from mpft_deploy.cli.options import parse_decode
from mpft_deploy.files import write_atomic
from mpft_deploy.screen.streams.records import Event, FrameEvent

SAMPLE = 5.0
"""Seconds between two looks at memory, threads and descriptors."""

WARM_UP = 0.25
"""Share of the time that is left out. The dashboard's history is full after 300 verdicts a source,
which takes 10 minutes of an hour with a keyframe every 2 s; pools and caches fill meanwhile."""

CUT = 60.0
"""Seconds between two cuts of a connection."""

MEMORY_MB_PER_HOUR = 1.0
OLDEST_S = 2.5
"""`max_age`, and as much again as a batch may take on a slow machine."""

START_S = 60.0
"""Seconds that the command may take until it serves its metrics."""


class Screen:
    """`mpft screen` in a process of its own, and what it tells."""

    def __init__(self, bundle: Path, config: Path) -> None:
        main = "from mpft_deploy.cli.main import main; main()"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", main, "screen", "--config", config, "--bundle", bundle),
                *("--json", "--http", "127.0.0.1:0"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._proc = Path("/proc") / str(self._process.pid)
        self.verdicts, self.oldest, self.reconnects = 0, 0.0, 0
        self._url = ""
        self._threads = [threading.Thread(target=t) for t in (self._read_events, self._read_log)]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = msgspec.json.decode(line, type=Event)
            if isinstance(event, FrameEvent):
                self.verdicts += 1
                self.oldest = max(self.oldest, event.age_ms / 1e3)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            record = json.loads(line) if line.startswith("{") else {"message": line.rstrip()}
            message = str(record.get("message", ""))
            if message.startswith("dashboard: "):
                self._url = message.removeprefix("dashboard: ").rstrip("/")
            else:
                print(message, file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Until it serves."""
        end = time.monotonic() + START_S
        while not self._url:
            if self._process.poll() is not None or time.monotonic() > end:
                sys.exit("mpft screen did not start; see its messages above")
            time.sleep(0.1)

    def sample(self) -> dict[str, float]:
        """What the process holds now; its metrics are asked for as Prometheus does."""
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        self.reconnects = sum(
            int(float(line.rpartition(" ")[2]))
            for line in metrics.splitlines()
            if line.startswith("mpft_reconnects_total")
        )
        status = dict(
            line.split(":", 1) for line in (self._proc / "status").read_text().splitlines()
        )
        return {
            "time": time.monotonic(),
            "resident_mb": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
            "threads": float(status["Threads"]),
            "descriptors": float(len(os.listdir(self._proc / "fd"))),  # noqa: PTH208, names alone
        }

    def stop(self) -> int:
        """End it; its exit code."""
        self._process.terminate()
        code = self._process.wait(30)
        for thread in self._threads:
            thread.join()
        return code


def slope(samples: list[dict[str, float]], key: str) -> float:
    """By how much it grows in an hour: the median of the slopes of all pairs (Theil and Sen)."""
    kept = samples[int(len(samples) * WARM_UP) :]
    values = np.array([[one["time"], one[key]] for one in kept])
    first, second = np.triu_indices(len(values), 1)
    rises = values[second] - values[first]
    return float(np.median(rises[:, 1] / rises[:, 0])) * 3600 if len(rises) else 0.0


def configuration(sources: int, decode: str | float, port: int, phases: int) -> str:
    """A cameras.toml."""
    lines = ["[defaults]", f"decode = {json.dumps(decode)}", "gate = 0"]
    for index in range(sources):
        address = f"rtsp://127.0.0.1:{port}/{index % phases}"
        lines += ["[[source]]", f'name = "{index}"', f'address = "{address}"']
    return "\n".join(lines) + "\n"


def soak(
    bundle: Path, minutes: float, sources: int, folder: Path, decode: str | float
) -> dict[str, Any]:
    """Run it."""
    clip, config = folder / "720.clip", folder / "cameras.toml"
    rtsp_load.make_clip(clip, 1280, 720)
    phases = min(sources, 16)
    samples: list[dict[str, float]] = []
    with rtsp_load.running(clip, phases) as (port, _, cameras):
        assert cameras.stdin is not None
        config.write_text(configuration(sources, decode, port, phases))
        screen = Screen(bundle, config)
        try:
            screen.wait()
            begin = time.monotonic()
            next_sample, next_cut = begin + SAMPLE, begin + CUT
            while (now := time.monotonic()) < begin + 60 * minutes:
                if now >= next_sample:
                    next_sample += SAMPLE
                    samples.append(screen.sample())
                if now >= next_cut:
                    next_cut += CUT
                    cameras.stdin.write(".")
                    cameras.stdin.flush()
                time.sleep(max(0.0, min(next_sample, next_cut) - time.monotonic()))
        finally:
            code = screen.stop()
    return {
        "minutes": minutes,
        "sources": sources,
        "decode": decode,
        "memory_mb": samples[-1]["resident_mb"],
        "memory_mb_per_hour": slope(samples, "resident_mb"),
        "threads_per_hour": slope(samples, "threads"),
        "descriptors_per_hour": slope(samples, "descriptors"),
        "threads": samples[-1]["threads"],
        "descriptors": samples[-1]["descriptors"],
        "verdicts": screen.verdicts,
        "oldest_verdict_s": screen.oldest,
        "reconnects": screen.reconnects,
        "exit_code": code,
        "samples": samples,
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--sources", default=16, show_default=True)
@click.option(
    "--decode",
    default="5",
    show_default=True,
    callback=parse_decode,
    help="all, keyframes or frames a second.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    bundle: Path, minutes: float, sources: int, decode: str | float, json_path: Path | None
) -> None:
    """Soak with BUNDLE."""
    with tempfile.TemporaryDirectory() as folder:
        result = soak(bundle, minutes, sources, Path(folder), decode)
    hour = "an hour" + ("" if minutes >= 30 else f", from {minutes:g} minutes alone")
    print(f"memory       {result['memory_mb_per_hour']:+8.2f} MB {hour}")
    print(f"threads      {result['threads_per_hour']:+8.2f} {hour}, now {result['threads']:.0f}")
    print(f"descriptors  {result['descriptors_per_hour']:+8.2f} {hour}")
    print(f"verdicts     {result['verdicts']}, the oldest {result['oldest_verdict_s']:.2f} s")
    print(f"reconnects   {result['reconnects']}")
    broken = [
        what
        for what, bad in {
            "memory": result["memory_mb_per_hour"] >= MEMORY_MB_PER_HOUR and minutes >= 30,
            "threads": result["threads_per_hour"] > 0,
            "descriptors": result["descriptors_per_hour"] > 0,
            "age": result["oldest_verdict_s"] > OLDEST_S,
            "exit code": result["exit_code"] != 0,
        }.items()
        if bad
    ]
    if json_path is not None:
        record = {"benchmark": "soak", **provenance(), "broken": broken, **result}
        write_atomic(json_path, (json.dumps(record, indent=2) + "\n").encode())
    if broken:
        sys.exit(f"bounds that are broken: {', '.join(broken)}")


if __name__ == "__main__":
    main()
