"""A screener of the tiny bundle, clips, RTSP servers, and a watch whose events are kept."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clips
import managed
import pytest
import recorded
import servers
from command import Process
from engines import read_pictures

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, SourceStatus
from mpft_deploy.screen.streams.watch import TICK, Watch


@pytest.fixture(scope="session")
def screener(bundle: Path) -> Screener:
    """Of the tiny bundle, on one thread."""
    return Screener.open(bundle, threads=1)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Path:
    """A tiny bundle whose logits are defined to the last bit."""
    path = tmp_path_factory.mktemp("native") / "tiny"
    export(Request(detector, path, backend="native", precision="wide"))
    return path


@pytest.fixture(scope="session")
def alarmed(native: Path) -> Screener:
    """Of that bundle; it calls every frame generated, unless its camera was taught."""
    bundle = read_bundle(native)
    return Screener(bundle, load_engine(bundle, threads=1), threshold=recorded.ALARMED)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a coded clip, each only once."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Path] = {}

    def make(codec: str = "h264", **options: Any) -> Path:
        key = json.dumps([codec, options], sort_keys=True)
        if key not in made:
            made[key] = clips.write_clip(folder / f"{len(made)}.{codec}", **options)
        return made[key]

    return make


@pytest.fixture
def rtsp(clip: Callable[..., Path]) -> Iterator[Callable[..., servers.RtspServer]]:
    """Start RTSP servers; without arguments one that plays a clip at /cam."""
    servers.require_rtsp_server()
    started = []

    def start(**paths: str) -> servers.RtspServer:
        server = servers.RtspServer(**(paths or {"cam": str(clip())}))
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


class Running:
    """A watch under test, with every event that it told."""

    name = "test"

    def __init__(self, screener: Screener, config: Config, clock: Any = None) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self.watch = Watch(screener, config, self, clock=clock, keep=True)
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self.watch.start()
        self._ticker.start()

    def _tick(self) -> None:
        while not self._stop.wait(TICK / 5):
            self.watch.tick()

    def send(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        pass

    def status(self, name: str = "") -> SourceStatus:
        """Of a source; of the only one without a name."""
        return next(s for s in self.watch.statuses() if name in ("", s.source))

    def wait(
        self, wanted: Callable[[Event], bool], what: str, seconds: float = 60, after: int = 0
    ) -> Event:
        """The first event that is wanted, of those after the first `after`."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                for event in self.events[after:]:
                    if wanted(event):
                        return event
                left = end - time.monotonic()
                assert left > 0, f"{what} did not come: {self.states()} {self.watch.statuses()}"
                self._changed.wait(left)

    def frame(self, name: str = "", seconds: float = 60, after: int | None = None) -> FrameEvent:
        """The next verdict of a frame: from now on, or after the first `after` events."""
        event = self.wait(
            lambda e: isinstance(e, FrameEvent) and name in ("", e.source),
            f"a frame of {name or 'the source'}",
            seconds,
            len(self.events) if after is None else after,
        )
        assert isinstance(event, FrameEvent)
        return event

    def state(self, state: str, name: str = "", seconds: float = 60, after: int = 0) -> SourceEvent:
        """The first change to a state."""
        event = self.wait(
            lambda e: isinstance(e, SourceEvent) and e.state == state and name in ("", e.source),
            f"state {state}",
            seconds,
            after,
        )
        assert isinstance(event, SourceEvent)
        return event

    def states(self) -> list[str]:
        """The changes of states so far."""
        return [e.state for e in self.events if isinstance(e, SourceEvent)]

    def stop(self) -> bool:
        """End it; whether every thread ended."""
        self._stop.set()
        self._ticker.join()
        return self.watch.stop()


@pytest.fixture
def run(bundle: Path) -> Iterator[Callable[..., Process]]:
    started = []

    def start(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Process:
        started.append(Process([str(a) for a in arguments], bundle, cwd, **environment))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()


@pytest.fixture
def watching(screener: Screener) -> Iterator[Callable[..., Running]]:
    """Start a watch of some addresses, with settings for all of them, or of a configuration."""
    started: list[Running] = []

    def start(
        *addresses: str,
        clock: Any = None,
        config: Config | None = None,
        judge: Screener = screener,
        **settings: Any,
    ) -> Running:
        settings = {"gate": 0.0, **settings}
        sources = [source_settings(address, **settings) for address in addresses]
        config = config or Config(sources=named(sources))
        running = Running(judge, config, clock)
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def service(
    watching: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., managed.Service]]:
    """Start a service whose cameras are drawn, with `managed.TOML` for its configuration."""
    monkeypatch.setitem(READERS, "rtsp", read_pictures)
    (tmp_path / "cameras.toml").write_text(managed.TOML)
    started = []

    def start() -> managed.Service:
        started.append(managed.Service(watching, tmp_path / "cameras.toml"))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(Exception):
            one.close()
