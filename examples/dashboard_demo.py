"""Look at the dashboard without cameras: made-up sources with drawn pictures.

    python examples/dashboard_demo.py                # then open http://127.0.0.1:8088
    python examples/dashboard_demo.py --sources 24

Verdicts and evidence are invented; only the cells are what the detector's kernel would choose.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from dashboard_scenes import HEIGHT, SCENES, WIDTH, Pixels, dream, photographed
from PIL import Image

from mpft_deploy.kernels import texture_patchify
from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.areas import Box
from mpft_deploy.screen.streams.records import (
    Event,
    FrameEvent,
    Picture,
    RegionStatus,
    SourceEvent,
    SourceStatus,
    State,
    StreamEvent,
)
from mpft_deploy.screen.tell.config import Http, Snapshots
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.store import ReviewState, Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard
from mpft_deploy.spec import KeepRule, StreamVerdict
from mpft_deploy.views import Window

VIEW, CELL = 224, 16

BOUND = 4.6
"""Evidence that makes a verdict."""

RETRY = 8.0
"""Seconds between two attempts at a source that is down."""


WINDOW = Window((HEIGHT - VIEW) // 2, (WIDTH - VIEW) // 2, VIEW, VIEW)

LOOKED_AT = LookedAt(share=VIEW * VIEW / (HEIGHT * WIDTH), windows=(WINDOW,))


def cells_of(pixels: Pixels, window: Window = WINDOW) -> list[tuple[int, int, int]]:
    """The 96 most textured cells of a window: what a detector with `textured:96` looks at."""
    top, left, _, _ = window
    view = np.ascontiguousarray(pixels[None, top : top + VIEW, left : left + VIEW])
    positions = texture_patchify(view, CELL, KeepRule("textured", 96), 0).positions[0]
    columns = VIEW // CELL
    return [
        (top + int(p) // columns * CELL, left + int(p) % columns * CELL, CELL) for p in positions
    ]


@dataclass
class DemoSource:
    """One made-up source; its fields are what the page shows."""

    name: str
    image: Image.Image
    state: State = "live"
    verdict: StreamVerdict = "unsure"
    drift: float = 0.0
    evidence: float = 0.0
    rate: float = 5.0
    age: float = 180.0
    reconnects: int = 0
    reason: str = ""
    changed: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    picture: Picture | None = None
    received: int = 0
    screened: int = 0
    regions: tuple[RegionStatus, ...] = ()
    masks: tuple[Box, ...] = ()

    def status(self) -> SourceStatus:
        live = self.state == "live"
        seen = self.picture is not None
        probability = 1 / (1 + math.exp(-self.drift * 5))
        return SourceStatus(
            source=self.name,
            address=f"rtsp://***@10.0.4.{10 + sum(map(ord, self.name)) % 200}:554/stream1",
            state=self.state,
            verdict=self.verdict,
            evidence=self.evidence,
            independent=self.screened / 20,
            looking=seen and self.verdict == "unsure",
            looked_for=self.screened / self.rate,
            generated_from=BOUND,
            no_sign_from=-BOUND,
            reach=2 * BOUND,
            probability=probability if seen else None,
            fps_in=self.rate * 5 if live else 0.0,
            fps_screened=self.rate if live else 0.0,
            frame_age_ms=self.age if seen else None,
            received=self.received,
            screened=self.screened,
            gated=self.received // 3,
            dropped=self.dropped,
            reconnects=self.reconnects,
            width=WIDTH if seen else None,
            height=HEIGHT if seen else None,
            codec="h264" if seen else "",
            reason=self.reason,
            region=self.regions[0].region if self.regions else "",
            regions=self.regions,
            masks=self.masks,
            retry_in=(self.changed - time.monotonic()) % RETRY if self.state == "down" else None,
        )


class DemoMonitor:
    """A monitor of made-up sources, which sends the events that they would make."""

    def __init__(self, sources: list[DemoSource], seed: int = 0) -> None:
        self.sources = {source.name: source for source in sources}
        self.is_alive, self.overload = True, ""
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def statuses(self) -> list[SourceStatus]:
        return [
            msgspec.structs.replace(source.status(), overload=self.overload)
            for source in self.sources.values()
        ]

    @property
    def lost_events(self) -> int:
        return 0

    def picture(self, source: str) -> Picture | None:
        return self.sources[source].picture

    def alive(self) -> bool:
        return self.is_alive

    def ready(self) -> bool:
        return self.is_alive and any(s.state == "live" for s in self.sources.values())

    def identity(self) -> str:
        """The next event's id."""
        self._count += 1
        return f"demo-{self._count:08d}"

    def change(self, name: str, state: State, reason: str, at: float) -> SourceEvent:
        """A source changes its state."""
        source = self.sources[name]
        previous, source.state, source.reason = source.state, state, reason
        source.changed = time.monotonic()
        return SourceEvent(
            id=self.identity(),
            source=name,
            time=at,
            state=state,
            previous=previous,
            reason=reason,
            retry_in=RETRY if state == "down" else None,
        )

    def step(self, at: float, *, draw: bool = True) -> list[Event]:
        """One second of every live source."""
        events: list[Event] = []
        for source in self.sources.values():
            if source.state == "live":
                events += self._judge(source, at, draw=draw)
        return events

    def _judge(self, source: DemoSource, at: float, *, draw: bool) -> list[Event]:
        source.received += round(source.rate * 5)
        source.screened += round(source.rate)
        if draw or source.picture is None:
            pixels = photographed(source.image)
            source.picture = Picture(pixels, at, cells_of(pixels), LOOKED_AT)
        else:  # a still scene
            source.picture = msgspec.structs.replace(source.picture, time=at)
        evidence = source.evidence + source.drift + self._rng.normal(0, 0.45)
        source.evidence = float(np.clip(evidence, -7.5, 7.5))
        age = source.age = float(max(40, self._rng.normal(190, 30)))
        previous = source.verdict
        if abs(source.evidence) > BOUND:
            source.verdict = "generated" if source.evidence > 0 else "no sign"
        region = source.status().region
        frame = FrameEvent(
            id=self.identity(),
            source=source.name,
            region=region,
            time=at,
            captured=at - age / 1000,
            age_ms=age,
            verdict="generated" if source.drift > 0 else "real",
            probability=1 / (1 + math.exp(-source.drift * 5)),
            logit=source.drift * 5,
            stream_verdict=source.verdict,
            evidence=source.evidence,
        )
        if source.verdict == previous:
            return [frame]
        changed = StreamEvent(
            id=self.identity(),
            source=source.name,
            region=region,
            time=at,
            verdict=source.verdict,
            previous=previous,
            evidence=source.evidence,
            frames=source.screened,
            independent=source.screened / 20,
            seconds=source.screened / source.rate,
            reason="evidence",
            looked_at=LOOKED_AT,
            size=(HEIGHT, WIDTH),
        )
        return [frame, changed]


def region(name: str, box: Box, verdict: StreamVerdict, evidence: float) -> RegionStatus:
    """A made-up region."""
    return RegionStatus(
        region=name,
        box=box,
        verdict=verdict,
        evidence=evidence,
        probability=1 / (1 + math.exp(-evidence)),
        independent=4 + abs(evidence),
        looking=verdict == "unsure",
        generated_from=BOUND,
        no_sign_from=-BOUND,
        reach=2 * BOUND,
    )


ANYWHERE = Http(address="127.0.0.1:0")


def open_demo(
    monitor: DemoMonitor, folder: Path, http: Http = ANYWHERE, **more: Any
) -> tuple[Dashboard, Sinks]:
    """The page, and whom to tell of events: page, store, and snapshots in a folder."""
    store = Store(None)
    shots = SnapshotSink(
        Snapshots(folder=str(folder)), lambda event: monitor.picture(event.source), store
    )
    sinks = Sinks(snapshots=shots, store=store)
    return serve(monitor, http, sinks, **more), sinks


def past(
    monitor: DemoMonitor, sinks: Sinks, hours: int = 60, receivers: Sequence[str] = ()
) -> None:
    """Verdicts of the last days, most of them reviewed; some receivers are still to be told."""
    names = [name for name, source in monitor.sources.items() if source.picture is not None]
    rng = np.random.default_rng(3)
    now = time.time()
    for hour in range(hours, 0, -2):
        name = names[int(rng.integers(len(names)))]
        generated = bool(rng.random() < 0.6)
        verdict: StreamVerdict = "generated" if generated else "unsure"
        event = StreamEvent(
            id=monitor.identity(),
            source=name,
            time=now - 3600 * hour + float(rng.uniform(0, 3000)),
            verdict=verdict,
            previous="unsure" if generated else "generated",
            evidence=float(rng.uniform(BOUND, 9)) if generated else -2.4,
            frames=int(rng.integers(900, 9000)),
            independent=float(rng.uniform(8, 40)),
            seconds=float(rng.uniform(600, 4000)),
            reason="evidence",
            looked_at=LOOKED_AT,
            size=(HEIGHT, WIDTH),
        )
        assert sinks.snapshots is not None
        sinks.store.add(sinks.snapshots.attach(event), receivers)
        while sinks.snapshots.stats().waiting:  # more at a time would be dropped
            time.sleep(0.01)
    for stored in sinks.store.events(verdict="generated", limit=200)[4:]:
        right = monitor.sources[stored.event.source].drift > 0 or rng.random() < 0.6
        state: ReviewState = "confirmed" if right else "dismissed"
        note = "" if right else "a poster on the wall"
        sinks.store.review(stored.id, state, note, "Ann", stored.event.time + 900)


NAMES = (
    *("Main street", "Aisle 3", "Pier 2", "Valley", "Market square", "Aisle 7", "Container yard"),
    *("Ridge", "Station road"),
)


def demo_sources(
    count: int, *, generated: int = 1, down: int = 1, seed: int = 1
) -> list[DemoSource]:
    """Sources of several kinds; the last ones are down."""
    rng = np.random.default_rng(seed)
    sources = []
    for number in range(count):
        name = NAMES[number] if number < len(NAMES) else f"Camera {number + 1}"
        image = SCENES[number % len(SCENES)](rng)
        source = DemoSource(name, image, drift=float(-rng.uniform(0.1, 0.35)))
        source.rate = float(rng.uniform(3.5, 5.5))
        sources.append(source)
    for number in range(generated):
        source = sources[1 + 3 * number]
        source.name, source.image, source.drift = f"Video call {number + 1}", dream(rng), 0.2
    for source in sources[count - down :]:
        source.rate = 4.0
    return sources


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--address", default="127.0.0.1:8088")
    chosen = parser.parse_args()
    monitor = DemoMonitor(demo_sources(chosen.sources))
    folder = tempfile.TemporaryDirectory()
    server, sinks = open_demo(monitor, Path(folder.name), Http(address=chosen.address))
    monitor.step(time.time())
    past(monitor, sinks)
    last = list(monitor.sources)[-1]
    try:
        print(f"dashboard: {server.url}")
        for second in range(10**9):
            for event in monitor.step(time.time()):
                sinks.send(event)
            if second % 30 == 10:
                sinks.send(monitor.change(last, "down", "connection refused", time.time()))
            if second % 30 == 20:
                sinks.send(monitor.change(last, "live", "", time.time()))
                monitor.sources[last].reconnects += 1
            time.sleep(1)
    except KeyboardInterrupt:
        sinks.close(1)
        folder.cleanup()


if __name__ == "__main__":
    main()
