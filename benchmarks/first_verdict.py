"""From the start of the process to the first verdict, and the memory of one stream.

    python benchmarks/first_verdict.py BUNDLE DETECTOR [--json OUT]

Each run is a process of its own, `mpft screen FILE --json`; what is timed ends with its first line.
The stream is a clip of 1080p: `--clip` takes another.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from records import write_record
from samples import write_clip, write_jpegs
from turns import provenance, target

from mpft_deploy.profile import system

RUNS, WARM_UP = 10, 2
SECONDS, MEGABYTES = 0.7, 300.0
WATCH_SECONDS = 0.05
SCREEN = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()", "screen"]


class Run(NamedTuple):
    """Seconds to the first line of output; median and peak of the process's memory, in MB."""

    seconds: float
    resident_mb: float
    peak_mb: float


def screen(path: Path, bundle: Path, *options: str) -> Run:
    """Run `mpft screen` to its end."""
    command = [*SCREEN, str(path), "--bundle", str(bundle), "--json", *options]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    resident: list[float] = []
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, ended, resident))
    watcher.start()
    first = process.stdout.readline()
    seconds = time.perf_counter() - begin
    process.stdout.read()
    process.stdout.close()
    ended.set()
    watcher.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or b'"verdict"' not in first:
        raise click.ClickException(f"mpft screen failed: {first.decode(errors='replace')}")
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    peak = usage.ru_maxrss * scale / 1e6
    settled = resident[len(resident) // 2 :]  # the first half holds the start
    return Run(seconds, float(np.median(settled)) if settled else peak, peak)


def watch(process: int, ended: threading.Event, resident: list[float]) -> None:
    """Read a process's resident memory until it ends; nothing where there is no /proc."""
    status = Path(f"/proc/{process}/status")
    while not ended.wait(WATCH_SECONDS):
        match = re.search(r"VmRSS:\s+(\d+) kB", system.read_text(status) or "")
        if match:
            resident.append(int(match[1]) * 1024 / 1e6)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("detector", type=click.Path(path_type=Path, exists=True))
@click.option("--clip", type=click.Path(path_type=Path, exists=True), help="A video to stream.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(bundle: Path, detector: Path, clip: Path | None, json_path: Path | None) -> None:
    """Measure BUNDLE, with inputs made of DETECTOR's golden crops."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        [image] = write_jpegs(detector, scratch, 1)
        runs = [screen(image, bundle) for _ in range(WARM_UP + RUNS)][WARM_UP:]
        video = clip or write_clip(detector, scratch / "clip.mkv")
        stream = screen(video, bundle, "--fps", "5")
    seconds = np.array([one.seconds for one in runs])
    print(f"one stream: {stream.resident_mb:.0f} MB, at its peak {stream.peak_mb:.0f} MB")
    print(f"first verdict, seconds: {' '.join(f'{one:.3f}' for one in seconds)}")
    targets: list[dict[str, Any]] = [
        target(
            "process start to first verdict, median",
            float(np.median(seconds)),
            SECONDS,
            "s",
            at_least=False,
        ),
        target(
            "resident memory of mpft screen on one stream",
            stream.resident_mb,
            MEGABYTES,
            "MB",
            at_least=False,
        ),
    ]
    if json_path is not None:
        record = {
            "benchmark": "first_verdict",
            **provenance(),
            "seconds": seconds.tolist(),
            "image_peak_mb": max(one.peak_mb for one in runs),
            "stream_mb": stream.resident_mb,
            "stream_peak_mb": stream.peak_mb,
            "targets": targets,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()
