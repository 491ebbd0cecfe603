"""Events on their way to sinks: numbered, bounded, and no sink in the way of another."""

from __future__ import annotations

import threading
import time

import numpy as np
from telling import HandClock, Told

from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.emitter import PICTURES, Emitter
from mpft_deploy.screen.streams.records import Event, FrameEvent, Picture, SourceEvent
from mpft_deploy.screen.tell.fanout import Sinks


def test_events_are_numbered_and_frames_give_way() -> None:
    told, clock = Told(), HandClock()
    emitter = Emitter(told, clock, capacity=10)
    fields = {"captured": 0.0, "age_ms": 0.0, "verdict": "real", "probability": 0.1, "logit": -1.0}
    fields |= {"stream_verdict": "no sign", "evidence": -3.0}
    for index in range(8):
        emitter.emit(FrameEvent, source=f"f{index}", **fields)
    for index in range(12):
        emitter.emit(SourceEvent, source=f"s{index}", state="live", previous="down")
    assert emitter.lost == 10
    emitter.start()
    emitter.close(60)
    assert [event.source for event in told.events] == [f"s{index}" for index in range(2, 12)]
    ids = [event.id for event in told.events]
    assert ids == sorted(set(ids))
    clock.date += 1
    later = Emitter(None, clock).emit(SourceEvent, source="s", state="live", previous="down")
    assert later.id > ids[-1]


def test_few_pictures_wait() -> None:
    class Looking(Told):
        def send(self, event: Event) -> None:
            pictures.append(emitter.picture)

    picture, pictures = Picture(np.zeros((2, 2, 3), np.uint8), 0.0, []), []
    emitter = Emitter(Looking(), HandClock(), capacity=100)
    for index in range(150):  # every other with a picture
        shown = picture if index % 2 else None
        emitter.emit(SourceEvent, shown, source="s", state="live", previous="down")
    assert len(emitter._pictures) == PICTURES
    emitter.start()
    emitter.close(60)
    assert pictures == [None] * (100 - 2 * PICTURES) + [None, picture] * PICTURES
    assert not emitter._pictures


def test_screeners_that_start_at_once_have_ids_of_their_own() -> None:
    clock = HandClock()
    made = {
        Emitter(None, clock).emit(SourceEvent, source="s", state="live", previous="down").id
        for _ in range(50)
    }
    assert len(made) == 50


def test_a_sink_that_fails_or_hangs_costs_the_others_nothing() -> None:
    class Failing(Told):
        def send(self, event: Event) -> None:
            raise RuntimeError("broken")

    class Hanging(Told):
        def close(self, timeout: float) -> None:
            free.wait(60)

    good, free, sinks = Told(), threading.Event(), Sinks()
    for sink in (Failing(), Hanging(), good):
        sinks.append(sink)
    emitter = Emitter(sinks, Clock())
    emitter.start()
    emitter.emit(SourceEvent, source="s", state="live", previous="down")
    began = time.monotonic()
    emitter.close(0.3)
    assert time.monotonic() - began < 20  # far below what the one hangs for
    free.set()
    assert len(good.events) == 1
