"""All who are told as one: the store keeps each event, and no sink suffers from another."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mpft_deploy.screen.evidence.keeper import EvidenceSink
from mpft_deploy.screen.streams.records import Event, Picture, Sink, SourceStatus, StreamEvent
from mpft_deploy.screen.streams.task import Task, failure_of
from mpft_deploy.screen.tell.config import TellConfig
from mpft_deploy.screen.tell.deliver import ABORT_SECONDS, Deliverer
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.notify import NotifySink
from mpft_deploy.screen.tell.store import Store

logger = logging.getLogger(__name__)


class Sinks:
    """A sink that hands events to others.

    Attributes:
        store: has an event before anybody is told of it.
        snapshots, evidence: name the files of an event before that.
    """

    name = "all"

    def __init__(self, snapshots: SnapshotSink | None = None, store: Store | None = None) -> None:
        self.store = store or Store(None)
        self.snapshots = snapshots
        self.evidence: EvidenceSink | None = None
        self._sinks: list[Sink] = []
        self._broken: set[str] = set()

    @property
    def failure(self) -> BaseException | None:
        return failure_of(self)

    def append(self, sink: Sink) -> None:
        """One more; events that are being sent pass it by."""
        self._sinks = [*self._sinks, sink]

    def remove(self, sink: Sink) -> None:
        """One less; events that are being sent may still reach it."""
        self._sinks = [one for one in self._sinks if one is not sink]

    def __iter__(self) -> Iterator[Sink]:
        yield from (*self._files(), self.store, *self._sinks)

    def _files(self) -> list[SnapshotSink | EvidenceSink]:
        return [one for one in (self.snapshots, self.evidence) if one is not None]

    def send(self, event: Event) -> None:
        for files in self._files():
            event = files.attach(event)
        sinks = [one for one in self._sinks if not isinstance(one, Deliverer) or one.wants(event)]
        receivers = [one.name for one in sinks if isinstance(one, Deliverer)]
        ways: list[tuple[str, Callable[[Event], object]]] = [
            ("store", functools.partial(self.store.add, receivers=receivers)),
            *((one.name, one.send) for one in sinks),
        ]
        for name, take in ways:
            try:
                take(event)
            except Exception:  # noqa: PERF203, each on its own is the point
                if name not in self._broken:
                    logger.exception("%s: events are lost; reported once", name)
                self._broken.add(name)

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


def open_sinks(
    config: TellConfig,
    evidence: Callable[[StreamEvent], Picture | None],
    statuses: Callable[[], Sequence[SourceStatus] | None],
) -> Sinks:
    """Start what the configuration names, all but `[evidence]` and what is served.

    The result is a sink made of them all. It names the snapshot in an event before the others see
    it, and a fault in one costs the others nothing. What was started is closed again if one cannot
    be.

    Args:
        evidence: the picture of a stream's verdict, asked for once, when the event is sent.
        statuses: of the sources that are screened now; a broker is told them, and no others. None
            as long as these are not known.

    Raises:
        MpftError: an extra is missing, or a secret, folder or file cannot be used.
    """
    told = (config.webhook, config.notify, config.mqtt, config.http)
    asked = any((*told, config.snapshots, config.evidence))
    path = Path(config.store.path) if config.store.path and asked else None
    opened = Sinks(store=Store(path, config.store))
    try:
        if config.snapshots is not None:
            opened.snapshots = SnapshotSink(config.snapshots, evidence, opened.store)
        folder = None if opened.snapshots is None else opened.snapshots.folder
        if config.jsonl is not None:
            opened.append(JsonLines(config.jsonl))
        if config.webhook is not None:
            from mpft_deploy.screen.tell.post import WebhookSink

            opened.append(WebhookSink(config.webhook, opened.store))
        if config.notify is not None:
            for number in range(len(config.notify.addresses())):
                opened.append(NotifySink(config.notify, number, opened.store, folder))
        if config.mqtt is not None:
            from mpft_deploy.screen.tell.mqtt import MqttSink

            opened.append(MqttSink(config.mqtt, opened.store, statuses, folder))
    except BaseException:
        opened.close(0.5)
        raise
    return opened
