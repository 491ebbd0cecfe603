"""Soak: sources for a long time; what grows, and how old verdicts get.

    python benchmarks/soak.py BUNDLE [--minutes 60] [--sources 16] [--decode 5] [--json OUT]

Sources of 720p25, by default five frames a second each, one of which is cut off every minute, since
what leaks does so when connections are made anew. Cameras run in a process of their own. Ends with
exit code 1 if a bound is broken: memory grows by less than 1 MB an hour after warming up, threads
and descriptors not at all, and no verdict is older than the bound of `max_age` and a batch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import rtsp_load
from turns import provenance

from mpft_deploy.bundle import read_bundle
from mpft_deploy.cli.options import parse_decode
from mpft_deploy.engine import load_engine
from mpft_deploy.files import write_atomic
from mpft_deploy.profile.system import resident_mb
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.config import Config, named
from mpft_deploy.screen.streams.library import source_settings
from mpft_deploy.screen.streams.records import Event, FrameEvent
from mpft_deploy.screen.streams.watch import TICK, Watch

SAMPLE = 5.0
"""Seconds between two looks at memory, threads and descriptors."""

WARM_UP = 0.25
"""Share of the time that is left out: pools fill, and caches."""

CUT = 60.0
"""Seconds between two cuts of a connection."""

MEMORY_MB_PER_HOUR = 1.0
OLDEST_S = 2.5
"""`max_age`, and as much again as a batch may take on a slow machine."""


class Oldest:
    """A sink that counts verdicts and keeps the highest age."""

    name = "soak"

    def __init__(self) -> None:
        self.verdicts, self.oldest = 0, 0.0

    def send(self, event: Event) -> None:
        """Look at a verdict's age."""
        if isinstance(event, FrameEvent):
            self.verdicts += 1
            self.oldest = max(self.oldest, event.age_ms / 1e3)

    def close(self, timeout: float) -> None:
        """Nothing to deliver."""


def sample() -> dict[str, Any]:
    """What this process holds now."""
    return {
        "time": time.monotonic(),
        "resident_mb": resident_mb(field="VmRSS"),
        "threads": float(threading.active_count()),
        "descriptors": float(len(os.listdir("/proc/self/fd"))),  # noqa: PTH208, names alone
    }


def slope(samples: list[dict[str, Any]], key: str) -> float:
    """By how much it grows in an hour: the median of the slopes of all pairs (Theil and Sen)."""
    kept = samples[int(len(samples) * WARM_UP) :]
    values = np.array([[one["time"], one[key]] for one in kept])
    first, second = np.triu_indices(len(values), 1)
    rises = values[second] - values[first]
    return float(np.median(rises[:, 1] / rises[:, 0])) * 3600 if len(rises) else 0.0


def soak(
    bundle: Path, minutes: float, sources: int, clip: Path, decode: str | float
) -> dict[str, Any]:
    """Run it."""
    read = read_bundle(bundle)
    screener = Screener(read, load_engine(read, spin=False))
    phases = min(sources, 16)
    samples: list[dict[str, Any]] = []
    sink = Oldest()
    with rtsp_load.running(clip, phases) as (port, _, _):
        settings = [
            source_settings(
                f"rtsp://127.0.0.1:{port}/{index % phases}",
                name=str(index),
                decode=decode,
                gate=0.0,
            )
            for index in range(sources)
        ]
        with Watch(screener, Config(sources=named(settings, "soak")), sink) as watch:
            end = time.monotonic() + 60 * minutes
            next_sample = time.monotonic() + SAMPLE
            next_cut, cut = time.monotonic() + CUT, 0
            while (now := time.monotonic()) < end:
                watch.tick()
                if now >= next_sample:
                    next_sample += SAMPLE
                    samples.append(sample())
                if now >= next_cut:
                    next_cut += CUT
                    watch.scheduler.channels[cut % sources].source.reconnect()
                    cut += 1
                time.sleep(TICK)
            statuses = watch.statuses()
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
        "verdicts": sink.verdicts,
        "oldest_verdict_s": sink.oldest,
        "reconnects": sum(status.reconnects for status in statuses),
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
        clip = Path(folder) / "720.clip"
        rtsp_load.make_clip(clip, 1280, 720)
        result = soak(bundle, minutes, sources, clip, decode)
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
