"""Streams: how many sources a machine keeps up with, how old frames are at verdict, at what cost.

    python benchmarks/streams.py BUNDLE [--json OUT] [--seconds 60] [--only NAME] [--readers auto]

Each scenario runs in a process of its own, beside a process that plays the cameras
(benchmarks/rtsp_load.py), and then again as the plain loop that a user would write: OpenCV's
VideoCapture in turn, and the same engine. Frames carry their number, so ages are true ones: from
when the server sent a frame to when its verdict was there. The loop needs opencv-python-headless.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import numpy as np
import rtsp_load
from family import cpu_seconds, family, memory_mb
from records import write_record
from samples import mosaic
from turns import measured, provenance

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.channel import Kept
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.memory import give_frames_back
from mpft_deploy.screen.streams.records import Event, FrameEvent
from mpft_deploy.screen.streams.settings import Readers, ScreenSettings
from mpft_deploy.screen.streams.watch import TICK, Watch
from mpft_deploy.statistics import summary
from mpft_deploy.views import views

FRAMES = 100
"""Of a clip; its length in seconds, 4, bounds the ages that can be told apart."""


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Attributes:
        decode: as for a source.
        each: seconds within which every source must have a verdict.
        every: the plain loop judges one frame of so many.
    """

    sources: int
    width: int
    height: int
    decode: str | float
    each: float
    every: int


SCENARIOS = {
    "64 × 1080p25, keyframes every 2 s": Scenario(64, 1920, 1080, "keyframes", 2.0, 50),
    "8 × 720p25, 5 frames a second": Scenario(8, 1280, 720, 5.0, 0.2, 5),
    "1 × 720p25, every frame": Scenario(1, 1280, 720, "all", 0.04, 1),
}


class Cameras(NamedTuple):
    """Those that play.

    port, start: as the server says them.
    offsets: of each phase, in frames; cameras have them in turn.
    process: that plays them.
    """

    port: int
    start: float
    offsets: list[int]
    process: int

    def address(self, index: int) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{index % len(self.offsets)}"

    def offset(self, index: int) -> int:
        return self.offsets[index % len(self.offsets)]

    def sent_at(self, index: int, number: int, seen: float) -> float:
        """When a camera sent the frame of that number, which was seen at a time."""
        return rtsp_load.sent_at(number, self.start, self.offset(index), FRAMES, seen)


class Meter:
    """CPU and memory of this process and those it started, without the cameras', from now on."""

    def __init__(self, cameras: int) -> None:
        self._cameras = cameras
        self._began, self._cpu = time.monotonic(), self._used()

    def _family(self) -> list[int]:
        return [pid for pid in family(os.getpid()) if pid != self._cameras]

    def _used(self) -> float:
        return sum(map(cpu_seconds, self._family()))

    def read(self) -> dict[str, float]:
        """Cores used on average; MB, of what processes share a part each, and how many they are."""
        seconds, processes = time.monotonic() - self._began, self._family()
        return {
            "cores": (self._used() - self._cpu) / seconds,
            "resident_mb": sum(map(memory_mb, processes)),
            "processes": len(processes),
        }


class Ages:
    """Ages and verdicts by source; a sink of a watch."""

    name = "benchmark"

    def __init__(self, cameras: Cameras) -> None:
        self.watch: Watch | None = None
        self._cameras = cameras
        self.recording = False
        self.ages: list[float] = []
        self.reported: list[float] = []
        self.logits: list[float] = []
        self.times: dict[str, list[float]] = defaultdict(list)

    def send(self, event: Event) -> None:
        """Note a verdict."""
        if not self.recording or not isinstance(event, FrameEvent) or self.watch is None:
            return
        now = time.monotonic()
        index = int(event.source)
        channel = self.watch.scheduler.channels[index]
        self.times[event.source].append(now)
        self.reported.append(event.age_ms / 1e3)
        self.logits.append(event.logit)
        if isinstance(channel.shown, Kept):
            number = rtsp_load.read_number(channel.shown.parts[0].views[0])
            self.ages.append(now - self._cameras.sent_at(index, number, now))

    def close(self, timeout: float) -> None:
        """Nothing to deliver."""


def run_watch(
    scenario: Scenario,
    screener: Screener,
    cameras: Cameras,
    secs: float,
    settings: ScreenSettings,
) -> dict[str, Any]:
    """mpft-deploy's own streams."""
    sources = [
        source_settings(cameras.address(index), name=str(index), decode=scenario.decode, gate=0.0)
        for index in range(scenario.sources)
    ]
    sink = Ages(cameras)
    config = Config(sources=named(sources), screen=settings)
    with Watch(screener, config, sink, keep=True) as watch:
        sink.watch = watch
        _tick(watch, lambda: all(s.state == "live" for s in watch.statuses()), 60)
        _tick(watch, lambda: False, 3)
        before = watch.statuses()
        meter, sink.recording = Meter(cameras.process), True
        _tick(watch, lambda: False, secs)
        sink.recording, used = False, meter.read()
        after = watch.statuses()
    return {
        **used,
        **_verdicts(sink.times, scenario, secs),
        "age_s": _summary(sink.ages),
        "age_since_receipt_s": _summary(sink.reported),
        "received_per_second": sum(s.received for s in after) / secs
        - sum(s.received for s in before) / secs,
        "reconnects": sum(s.reconnects for s in after),
        "dropped": _dropped(after),
        "logits": sink.logits,
    }


def run_loop(
    scenario: Scenario,
    screener: Screener,
    cameras: Cameras,
    secs: float,
) -> dict[str, Any]:
    """The plain loop: read a frame of each camera in turn, judge one of so many."""
    import cv2

    captures = [
        cv2.VideoCapture(cameras.address(index), cv2.CAP_FFMPEG)
        for index in range(scenario.sources)
    ]
    size = screener.spec.crop.size
    ages: list[float] = []
    times: dict[str, list[float]] = defaultdict(list)
    logits: list[float] = []
    loops, last = [0] * len(captures), [-1] * len(captures)
    meter, end, count = Meter(cameras.process), time.monotonic() + secs, 0
    opened = time.monotonic()
    while time.monotonic() < end:
        for index, capture in enumerate(captures):
            good, frame = capture.read()
            if not good or count % scenario.every:
                continue
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            logits.append(screener(pixels).logit)
            now = time.monotonic()
            number = rtsp_load.read_number(views(pixels, size)[0])
            # Read in order, so a smaller number is a later round of the clip.
            place = (number - cameras.offset(index)) % FRAMES
            if last[index] < 0:
                first = cameras.sent_at(index, number, opened) - cameras.start
                loops[index] = round((first - place / rtsp_load.FPS) * rtsp_load.FPS / FRAMES)
            elif place < last[index]:
                loops[index] += 1
            last[index] = place
            sent = cameras.start + (loops[index] * FRAMES + place) / rtsp_load.FPS
            ages.append(now - sent)
            times[str(index)].append(now)
        count += 1
    used = meter.read()
    for capture in captures:
        capture.release()
    return {**used, **_verdicts(times, scenario, secs), "age_s": _summary(ages), "logits": logits}


def _tick(watch: Watch, enough: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not enough():
        watch.tick()
        time.sleep(TICK)


def _verdicts(times: dict[str, list[float]], scenario: Scenario, seconds: float) -> dict[str, Any]:
    """How often sources had a verdict."""
    counts = np.array([len(times[str(index)]) for index in range(scenario.sources)])
    gaps = [gap for moments in times.values() for gap in np.diff(moments)]
    return {
        "verdicts_per_second": float(counts.sum() / seconds),
        "verdicts_per_second_of_worst_source": float(counts.min() / seconds),
        "longest_gap_s": float(max(gaps)) if gaps else None,
        "gap_s": _summary(gaps),
    }


def _summary(values: list[float]) -> dict[str, float] | None:
    """None of no values: no verdict came in time."""
    return summary(np.array(values)) if values else None


def _dropped(statuses: list[Any]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for status in statuses:
        for cause, count in status.dropped.items():
            total[cause] += count
    return dict(total)


def run_one(
    bundle: Path, name: str, how: str, seconds: float, clip: Path, readers: Readers
) -> dict[str, Any]:
    """One scenario, one way, in this process."""
    scenario = SCENARIOS[name]
    phases = min(scenario.sources, 16)
    read = read_bundle(bundle)
    run, batch, threads = run_loop, 1, 0
    if how == "mpft":  # as `mpft screen` does
        give_frames_back()
        settings = ScreenSettings(readers=readers)
        batch, threads = settings.batch_of(read.info), settings.engine_threads
        run = functools.partial(run_watch, settings=settings)
    engine = load_engine(read, threads=threads, spin=how != "mpft")
    # One view of a frame, as of streams; that in the middle, which has the frame's number.
    screener = Screener(read, engine, batch=batch, views="centre")
    with rtsp_load.running(clip, phases) as (port, start, process):
        before, began = cpu_seconds(process.pid), time.monotonic()
        cameras = Cameras(port, start, rtsp_load.offsets(FRAMES, phases), process.pid)
        result = run(scenario, screener, cameras, seconds)
        near, again = screener.calibration.is_near, read.info.precision.again
        result["looked_at_twice"] = float(
            np.mean([near(z, again) for z in result.pop("logits")] or [0.0])
        )
        result["cameras_cores"] = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
    return result


def _show(name: str, how: str, r: dict[str, Any]) -> None:
    age, gap = r["age_s"], r["longest_gap_s"]
    print(
        f"{name:<36} {how:<12} {r['verdicts_per_second']:7.1f} verdicts/s"
        f"  worst source {r['verdicts_per_second_of_worst_source']:6.2f}/s"
        + (f"  longest gap {gap:6.2f} s" if gap else "  no source had two verdicts")
        + (f"  age p50 {age['p50']:6.3f} p99 {age['p99']:6.3f} s" if age else "")
        + f"  {r['looked_at_twice']:.0%} looked at twice  {r['cores']:.2f} cores"
        f" {r['resident_mb']:.0f} MB in {r['processes']} processes"
        f" (cameras {r['cameras_cores']:.2f})",
        flush=True,
    )


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--seconds", default=60.0, show_default=True, help="Of each measurement.")
@click.option("--only", type=click.Choice(list(SCENARIOS)), help="This scenario alone.")
@click.option("--readers", type=click.Choice(get_args(Readers)), default="auto", show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
@click.option("--child", nargs=3, hidden=True, help="Scenario, way and clip to run here.")
def main(
    bundle: Path,
    seconds: float,
    only: str | None,
    readers: Readers,
    json_path: Path | None,
    child: tuple[str, str, str] | None,
) -> None:
    """Measure streams with BUNDLE."""
    if child:
        name, how, clip = child
        print(json.dumps(run_one(bundle, name, how, seconds, Path(clip), readers)), flush=True)
        return
    results = []
    scene = mosaic(read_bundle(bundle).golden.crops, 0)
    with tempfile.TemporaryDirectory() as folder:
        for name, scenario in SCENARIOS.items():
            if only and name != only:
                continue
            clip = Path(folder) / f"{scenario.height}.clip"
            if not clip.exists():
                size = scenario.width, scenario.height
                rtsp_load.make_clip(clip, *size, frames=FRAMES, scene=scene)
            for how in ("mpft", "plain loop"):
                command = [sys.executable, __file__, str(bundle), "--seconds", str(seconds)]
                command += ["--readers", readers]
                done = subprocess.run(
                    [*command, "--child", name, how, str(clip)], stdout=subprocess.PIPE, check=True
                )
                result = json.loads(done.stdout.splitlines()[-1])
                results.append({"scenario": name, "how": how, **result})
                _show(name, how, result)
    if json_path is not None:
        payload = {
            "benchmark": "streams",
            **provenance(),
            **measured(bundle),
            "seconds": seconds,
            "readers": readers,
            "results": results,
        }
        write_record(json_path, payload)


if __name__ == "__main__":
    main()
