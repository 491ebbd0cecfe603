"""From the start of the process to the first verdict, and the memory of one stream.

    python benchmarks/first_verdict.py BUNDLE DETECTOR [--json OUT]

Each run is a process of its own, `mpft screen FILE --json`; what is timed ends with its first line.
Modules are compiled before, as an installation has them. The stream is a camera of 1080p at 25
frames a second, played by benchmarks/rtsp_load.py, watched for some seconds with no other option.
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
import rtsp_load
from records import write_record
from samples import HEIGHT, WIDTH, mosaic, write_jpegs
from turns import provenance, target

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.profile import system

RUNS, WARM_UP = 10, 2
SECONDS = {"three": 0.7, "centre": 0.35}
"""Targets by the views that are judged."""

MEGABYTES = 150.0
PACKAGES = "click, msgspec, numpy, PIL.Image, safetensors.numpy"
WATCH_SECONDS, STREAM_SECONDS = 0.05, "15"
SCREEN = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()", "screen"]


class Run(NamedTuple):
    """Seconds to the first line of output, and of CPU to the end; median and peak of the process's
    memory, in MB."""

    seconds: float
    cpu_seconds: float
    resident_mb: float
    peak_mb: float


def screen(what: Path | str, bundle: Path, *options: str) -> Run:
    """Run `mpft screen` to its end."""
    command = [*SCREEN, str(what), "--bundle", str(bundle), "--json", *options]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    resident: list[float] = []
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(process.pid, ended, resident))
    watcher.start()
    first = process.stdout.readline()
    seconds = time.perf_counter() - begin
    output = first + process.stdout.read()
    process.stdout.close()
    ended.set()
    watcher.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or b'"verdict"' not in output:
        raise click.ClickException(f"mpft screen failed: {output.decode(errors='replace')}")
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    peak = usage.ru_maxrss * scale / 1e6
    settled = resident[len(resident) // 2 :]  # the first half holds the start
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, float(np.median(settled)) if settled else peak, peak)


def start_alone() -> float:
    """Seconds in which Python has imported the packages that a picture alone needs, the median."""
    taken = []
    for _ in range(WARM_UP + RUNS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {PACKAGES}"], check=True)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken[WARM_UP:]))


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
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(bundle: Path, detector: Path, json_path: Path | None) -> None:
    """Measure BUNDLE, with inputs made of DETECTOR's golden crops."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        [image] = write_jpegs(detector, scratch, 1)
        runs = {
            views: [screen(image, bundle, "--views", views) for _ in range(WARM_UP + RUNS)][
                WARM_UP:
            ]
            for views in SECONDS
        }
        clip = scratch / "clip"
        scene = mosaic(read_detector(detector).golden.crops, 0)
        rtsp_load.make_clip(clip, WIDTH, HEIGHT, scene=scene)
        with rtsp_load.running(clip, 1) as (port, _, _):
            stream = screen(f"rtsp://127.0.0.1:{port}/0", bundle, "--duration", STREAM_SECONDS)
    print(f"one stream: {stream.resident_mb:.0f} MB, at its peak {stream.peak_mb:.0f} MB")
    alone = start_alone()
    why = f"Python and the packages that it takes need {alone:.2f} s of it, without a line of ours"
    print(why)
    targets: list[dict[str, Any]] = []
    for views, some in runs.items():
        print(f"{views}, seconds: {' '.join(f'{one.seconds:.3f}' for one in some)}")
        print(f"{views}, of CPU:  {' '.join(f'{one.cpu_seconds:.3f}' for one in some)}")
        name = f"process start to first verdict, views {views}, median"
        median = float(np.median([one.seconds for one in some]))
        targets.append(target(name, median, SECONDS[views], "s", at_least=False, why=why))
    name = "resident memory of mpft screen on one stream"
    why = "the engine's file, which is mapped and shared by all processes, counts whole"
    targets.append(target(name, stream.resident_mb, MEGABYTES, "MB", at_least=False, why=why))
    if json_path is not None:
        record = {
            "benchmark": "first_verdict",
            **provenance(),
            "seconds": {views: [one.seconds for one in some] for views, some in runs.items()},
            "cpu_seconds": {
                views: [one.cpu_seconds for one in some] for views, some in runs.items()
            },
            "start_alone_seconds": alone,
            "image_peak_mb": max(one.peak_mb for some in runs.values() for one in some),
            "stream_mb": stream.resident_mb,
            "stream_peak_mb": stream.peak_mb,
            "targets": targets,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()
