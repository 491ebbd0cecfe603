"""A configuration that is read again: what goes is told, and so is every verdict that ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from engines import read_pictures
from telling import eventually

from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.decision import StreamDecision
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.streams.settings import DecisionSettings


def configured(*names: str, decision: DecisionSettings | None = None, **settings: Any) -> Config:
    """Sources of a name and, after a colon, an address each."""
    settings = {"size": "1x1", "gate": 0.0, **settings}
    sources = []
    for text in names:
        name, _, address = text.partition(":")
        sources.append(source_settings(f"gst:{address or 'test'}", name=name, **settings))
    decision = decision or DecisionSettings()
    return Config(sources=named(sources), decision=decision)


@pytest.fixture
def start(watching: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setitem(READERS, "gst", read_pictures)
    return lambda *names, **options: watching(config=configured(*names, **options))


def decide(running: Any, name: str) -> None:
    """Have a stream called generated, by the thread that decides, until it starts afresh."""
    scheduler = running.watch.scheduler
    [channel] = [c for c in scheduler.channels if c.source.name == name]

    def replace() -> None:
        channel.lead.decision.verdict = "generated"
        channel.lead.decision.add = lambda *arguments, **options: []

    scheduler._ask(replace)


def told(running: Any, name: str) -> list[Any]:
    return [event for event in running.events if event.source == name]


@pytest.mark.parametrize("change", ["removed", "renamed", "moved"])
def test_a_source_that_goes_is_told_last(start: Any, change: str) -> None:
    running = start("a", "b")
    for name in "ab":
        running.frame(name)
    decide(running, "b")
    after = {"removed": ["a"], "renamed": ["a", "c"], "moved": ["a", "b:elsewhere"]}[change]
    running.watch.reload(configured(*after))
    eventually(
        lambda: any(isinstance(e, SourceEvent) and e.state == "removed" for e in running.events)
    )
    running.frame("a")
    events = told(running, "b")
    [gone] = [
        n for n, e in enumerate(events) if isinstance(e, SourceEvent) and e.state == "removed"
    ]
    assert events[gone].previous == "live"
    ended = events[gone - 1]
    assert isinstance(ended, StreamEvent)
    assert (ended.verdict, ended.previous, ended.reason) == ("unsure", "generated", "restart")
    if change == "moved":
        running.frame("b")
        after_that = told(running, "b")[gone + 1]
        assert isinstance(after_that, SourceEvent)
        assert (after_that.state, after_that.previous) == ("live", "connecting")
    else:
        assert len(told(running, "b")) == gone + 1
        assert "b" not in [status.source for status in running.watch.statuses()]
        with pytest.raises(KeyError):
            running.watch.picture("b")
    if change == "renamed":
        running.frame("c")
    assert [e.state for e in told(running, "a") if isinstance(e, SourceEvent)] == ["live"]


def test_other_rules_of_deciding_are_told(start: Any) -> None:
    running = start("a", "b")
    for name in "ab":
        running.frame(name)
    decide(running, "a")
    threads: set[str] = set()
    restart = StreamDecision.restart

    settings = msgspec.structs.replace(DecisionSettings(), movement=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            StreamDecision,
            "restart",
            lambda self, why: threads.add(threading.current_thread().name) or restart(self, why),
        )
        running.watch.reload(configured("a", "b", decision=settings))
    assert threads == {"mpft-engine"}
    ended = running.wait(lambda e: isinstance(e, StreamEvent), "a verdict that ends")
    assert (ended.source, ended.verdict, ended.reason) == ("a", "unsure", "restart")
    later = running.frame("a")
    assert isinstance(later, FrameEvent)
    assert later.stream_verdict == "unsure"
    assert all(
        channel.lead.decision._settings == settings for channel in running.watch.scheduler.channels
    )
    assert not any(isinstance(e, SourceEvent) and e.state == "removed" for e in running.events)


def test_the_same_again_changes_nothing(start: Any) -> None:
    running = start("a")
    running.frame("a")
    decide(running, "a")
    running.watch.reload(configured("a"))
    running.frame("a")
    assert not any(isinstance(e, StreamEvent) for e in running.events)
    assert running.status("a").verdict == "generated"
