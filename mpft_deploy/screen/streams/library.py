"""Streams as an iterator of events, for programs that embed the screener."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.records import Event, Sink
from mpft_deploy.screen.streams.watch import TICK, Watch

if TYPE_CHECKING:
    from mpft_deploy.screen.screener import Screener

DEPTH = 1000
"""Events that wait for the program; beyond that the oldest are lost."""


class _Queue(Sink):
    """A sink that a program takes events from."""

    name = "program"

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue(DEPTH)

    def send(self, event: Event) -> None:
        """Take it: whoever reads too slowly gets what is new."""
        while True:
            with contextlib.suppress(queue.Full):
                return self.events.put_nowait(event)
            with contextlib.suppress(queue.Empty):
                self.events.get_nowait()


def watch(screener: Screener, *addresses: str, **settings: object) -> Iterator[Event]:
    """The events of some streams, until all have ended; see `Screener.watch`."""
    sources = [source_settings(address, **settings) for address in addresses]
    if not sources:
        raise UsageError("name at least one address to watch")
    sink = _Queue()
    with Watch(screener.for_streams(), Config(sources=named(sources)), sink) as running:
        while not running.finished:
            running.tick()
            with contextlib.suppress(queue.Empty):
                yield sink.events.get(timeout=TICK)
        running.stop()
        while not sink.events.empty():
            yield sink.events.get()
    if running.failure is not None:
        raise running.failure
