"""All who are told as one: the store keeps each event, and no sink suffers from another."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Iterator

from mpft_deploy.screen.evidence.keeper import EvidenceSink
from mpft_deploy.screen.streams.records import Event, Sink
from mpft_deploy.screen.streams.task import Task, failure_of
from mpft_deploy.screen.tell.deliver import ABORT_SECONDS
from mpft_deploy.screen.tell.snapshots import SnapshotSink
from mpft_deploy.screen.tell.store import Store

logger = logging.getLogger(__name__)


class Sinks:
    """A sink that hands events to others.

    Attributes:
        store: has an event before anybody is told of it.
        snapshots, evidence: name the files of an event before that.
    """

    name = "all"

    def __init__(
        self,
        sinks: Iterable[Sink] = (),
        snapshots: SnapshotSink | None = None,
        store: Store | None = None,
    ) -> None:
        self.store = store or Store(None)
        self.snapshots = snapshots
        self.evidence: EvidenceSink | None = None
        self._sinks = list(sinks)
        self._broken: set[str] = set()

    @property
    def failure(self) -> BaseException | None:
        """What ended a thread of one of them."""
        return failure_of(self)

    def append(self, sink: Sink) -> None:
        """One more; events that are being sent pass it by."""
        self._sinks = [*self._sinks, sink]

    def remove(self, sink: Sink) -> None:
        """One less; events that are being sent may still reach it."""
        self._sinks = [one for one in self._sinks if one is not sink]

    def __iter__(self) -> Iterator[Sink]:
        for files in (self.snapshots, self.evidence):
            if files is not None:
                yield files
        yield self.store
        yield from self._sinks

    def send(self, event: Event) -> None:
        """Hand an event to each."""
        for files in (self.snapshots, self.evidence):
            if files is not None:
                event = files.attach(event)
        for sink in (self.store, *self._sinks):
            try:
                sink.send(event)
            except Exception:  # noqa: PERF203, each on its own is the point
                if sink.name not in self._broken:
                    logger.exception("%s: events are lost; reported once", sink.name)
                self._broken.add(sink.name)

    def close(self, timeout: float) -> None:
        """Close all at once, so that a slow one costs the others no time; then the store."""
        told = [sink for sink in self if sink is not self.store]
        threads = [Task("close", functools.partial(sink.close, timeout)) for sink in told]
        deadline = time.monotonic() + timeout + ABORT_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self.store.close(0)
