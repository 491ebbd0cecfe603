"""A thread that dies is noticed: the service says so and ends, or has a new one."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from broker import Broker, require_broker
from engines import read_pictures
from telling import Told, eventually, frame_event, source_event

from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.emitter import Emitter
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import Event, FrameEvent
from mpft_deploy.screen.streams.scheduler import Scheduler
from mpft_deploy.screen.streams.source import Source
from mpft_deploy.screen.streams.task import HUNG, Task
from mpft_deploy.screen.streams.watch import TICK, Watch
from mpft_deploy.screen.tell.config import Http, parse_tables
from mpft_deploy.screen.tell.fanout import Sinks, open_sinks
from mpft_deploy.screen.tell.stats import Worker
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard


class Service:
    """Sources, sinks and server as `mpft screen` puts them together."""

    def __init__(self, screener: Screener, sinks: Sinks, *names: str) -> None:
        sources = [source_settings("gst:t", name=name, size="1x1", gate=0.0) for name in names]
        self.watch = Watch(screener, Config(sources=named(sources)), keep=True)
        self.told, self.sinks = Told(), sinks
        self.server: Dashboard = serve(self.watch, Http(address="127.0.0.1:0"), sinks)
        sinks.append(self.told)
        self.watch.tell(sinks)
        self.watch.start()

    def frames(self) -> int:
        return sum(isinstance(event, FrameEvent) for event in self.told.events)

    def livez(self) -> int:
        """Its status; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(self.server.url + "livez", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture
def service(
    screener: Screener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Service]]:
    monkeypatch.setitem(READERS, "gst", read_pictures)
    started: list[Service] = []

    def start(tables: dict[str, Any] | None = None, *names: str) -> Service:
        sinks = open_sinks(parse_tables(tables or {}), lambda event: None, list)
        started.append(Service(screener, sinks, *(names or ("a", "b"))))
        return started[-1]

    yield start
    for one in started:
        one.watch.stop()


class Killed(BaseException):
    """Nobody expects this one."""


def kill(*_: object, **__: object) -> Any:
    raise Killed("injected")


def test_a_task_keeps_and_logs_what_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    for error in (ValueError("bad"), MemoryError(), SystemExit(0), Killed()):

        def fail(error: BaseException = error) -> None:
            raise error

        task = Task("test", fail)
        task.start()
        task.join()
        assert task.failure is error
    assert caplog.text.count("the thread mpft-test failed") == 4
    task = Task("test", lambda: 3)
    task.start()
    task.join()
    assert task.failure is None


@pytest.mark.parametrize(
    ("owner", "method"), [(Scheduler, "_round"), (Emitter, "_send"), (uvicorn.Server, "on_tick")]
)
def test_a_dead_thread_fails_livez_and_ends_the_run(
    service: Any, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    one = service()
    eventually(lambda: one.frames() > 3)
    assert one.livez() == 200
    assert not one.watch.finished
    monkeypatch.setattr(owner, method, kill)
    eventually(lambda: one.watch.failure is not None)
    assert isinstance(one.watch.failure, Killed)
    assert not one.watch.alive()
    assert one.livez() in (503, 0)  # 0: it was the server itself
    assert one.watch.finished


@pytest.mark.parametrize("table", ["jsonl", "snapshots", "webhook"])
def test_a_dead_sink_fails_livez_and_ends_the_run(
    service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str
) -> None:
    tables = {
        "jsonl": {"path": str(tmp_path / "events.jsonl")},
        "snapshots": {"folder": str(tmp_path / "shots")},
        "webhook": {"url": "http://127.0.0.1:9/"},
    }
    one = service({table: tables[table]})
    assert one.livez() == 200
    if table == "webhook":
        monkeypatch.setattr(Store, "waiting", kill)
        one.sinks.send(source_event())
    else:
        monkeypatch.setattr(Worker, "_work", kill)
        for sink in one.sinks:
            if sink.name == table:
                sink.put(None)
    eventually(lambda: one.livez() == 503)
    assert isinstance(one.watch.failure, Killed)
    assert one.watch.finished


def test_a_dead_mqtt_client_fails_livez(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_broker()
    broker = Broker(tmp_path)
    try:
        one = service({"mqtt": {"host": "127.0.0.1", "port": broker.port}})
        [mqtt] = [sink for sink in one.sinks if sink.name == "mqtt"]
        eventually(lambda: mqtt._client.is_connected())
        assert one.livez() == 200
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        mqtt._client.on_publish = lambda *args: kill()
        eventually(lambda: one.livez() == 503)
        assert "MQTT" in str(one.watch.failure)
    finally:
        broker.down()


def test_a_sink_that_hangs_fails_livez(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = service()
    eventually(lambda: one.frames() > 3)
    free = threading.Event()
    monkeypatch.setattr(one.told, "send", lambda event: free.wait(60))
    eventually(lambda: one.watch._emitter._sending is not None)
    now = time.monotonic()
    time.sleep(0.1)
    assert one.watch._emitter.alive(now)
    assert not one.watch._emitter.alive(now + HUNG + 1)
    monkeypatch.setattr("mpft_deploy.screen.streams.emitter.HUNG", 0.05)
    assert one.livez() == 503
    free.set()
    eventually(lambda: one.livez() == 200)


def test_a_thread_that_can_be_replaced_is(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = service()
    eventually(lambda: one.frames() > 3)
    real = Source._pause
    died = threading.Event()

    def fail_once(*arguments: Any, **keywords: Any) -> Any:
        if not died.is_set():
            died.set()
            kill()
        return real(*arguments, **keywords)

    def lost(attempt: Attempt) -> float:
        raise SourceLostError("the connection ended")

    monkeypatch.setattr(Source, "_pause", fail_once)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "packet", lost)
        eventually(died.is_set)
    eventually(lambda: one.livez() == 503)  # nobody has noticed yet
    before = one.frames()

    def recovered() -> bool:
        one.watch.tick()
        time.sleep(TICK / 5)
        return one.frames() > before + 10 and one.livez() == 200

    eventually(recovered)
    assert one.watch.failure is None
    assert not one.watch.finished


def test_a_service_whose_part_failed_ends_with_1(rtsp: Any, run: Any, tmp_path: Path) -> None:
    """The command itself: its events go to a pipe that fails in a way nobody foresaw."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import mpft_deploy.screen.tell.jsonl as jsonl\n"
        "def fail(self, line):\n    raise SystemExit(0)\n"
        "jsonl.JsonLines._print = fail\n"
    )
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    one = run(rtsp().url("cam"), "--json", "--decode", "5", PYTHONPATH=path)
    with contextlib.suppress(AssertionError):
        one.until(lambda: one.process.poll() is not None)
    one.process.wait(60)
    assert one.process.returncode == 1
    messages = [json.loads(line)["message"] for line in one.errors if line.startswith("{")]
    assert "the thread mpft-jsonl failed" in messages
    assert any(message.startswith("ended, since a part failed") for message in messages)


def test_events_that_are_lost_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    from mpft_deploy.screen.streams.clock import Clock

    emitter = Emitter(None, Clock(), capacity=2)
    event: Event = frame_event(1)
    fields = {name: getattr(event, name) for name in event.__struct_fields__[3:]}
    for _ in range(5):
        emitter.emit(FrameEvent, source="a", **fields)
    assert emitter.lost == 3
    assert caplog.text.count("the oldest are lost") == 1
