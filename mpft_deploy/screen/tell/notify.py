"""People are told by the services they use: not too often, not at night, and with a picture."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from pathlib import Path

import msgspec

from mpft_deploy.errors import UsageError
from mpft_deploy.extras import require
from mpft_deploy.screen.streams.clock import Clock, SystemClock
from mpft_deploy.screen.streams.hours import within
from mpft_deploy.screen.streams.records import Event, SourceEvent, StreamEvent
from mpft_deploy.screen.tell.config import Notify
from mpft_deploy.screen.tell.deliver import FIRST_WAIT, LEFT, Answer, Deliverer
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.tell.text import line

HOUR = 3600.0

PICTURE_SECONDS = 5.0
"""How long a notification waits for its picture, which another thread writes."""

_event = msgspec.json.Decoder(StreamEvent | SourceEvent)


class NotifySink(Deliverer):
    """Notifies by one address.

    Args:
        number: of the address among those of the table, from 0.
        folder: where snapshots are; None where there are none.

    Raises:
        UsageError: Apprise knows no such service.
        EnvironmentLacksError: the extra `notify` is missing.
    """

    def __init__(
        self,
        config: Notify,
        number: int,
        store: Store,
        folder: Path | None,
        *,
        first_wait: float = FIRST_WAIT,
        clock: Clock | None = None,
    ) -> None:
        require("notify", "[notify]", "apprise")
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it may tell of addresses
        url = config.addresses()[number]
        self._service = apprise.Apprise()
        if not self._service.add(url):
            raise UsageError(
                f"[notify] urls: the address {number + 1} is of no service that Apprise knows"
            )
        self._config, self._clock = config, clock or SystemClock()
        self._folder = folder if config.picture else None
        self._sent: deque[float] = deque()  # when, in the last hour
        self._told: dict[str, float] = {}  # when, of each source
        self._unsent: Counter[str] = Counter()
        scheme = url.partition("://")[0]
        super().__init__(f"notify {number + 1}", f"notify {scheme}", store, first_wait)

    def wants(self, event: Event) -> bool:
        """See `Receiver`."""
        if isinstance(event, StreamEvent):
            return event.verdict in self._config.when
        return isinstance(event, SourceEvent) and event.state in self._config.when

    def attempt(self, delivery: Delivery) -> Answer:
        """Notify of an event, or leave it at that for now: the next notification says how many."""
        event = _event.decode(delivery.body)
        now = self._clock.monotonic()
        while self._sent and now - self._sent[0] >= HOUR:
            self._sent.popleft()
        often = now - self._told.get(event.source, float("-inf")) < self._config.interval
        hours = [self._config.quiet] if self._config.quiet else []
        quiet = within(hours, time.localtime(self._clock.time()))
        if quiet or often or len(self._sent) >= self._config.per_hour:
            self._unsent[event.stream] += 1
            self._dropped["quiet" if quiet else "rate"] += 1
            return LEFT
        text = line(event)
        if others := self._unsent.total():
            names = ", ".join(sorted(self._unsent))
            text += f"\n{others} more since the last notification: {names}"
        title = (
            f"{event.stream}: {event.verdict if isinstance(event, StreamEvent) else event.state}"
        )
        picture = self._picture(event)
        if not self._service.notify(title=title, body=text, attach=picture and str(picture)):
            return Answer(503, "the service did not take a notification")
        self._unsent.clear()
        self._told[event.source] = now
        self._sent.append(now)
        return Answer(200, "")

    def abort(self) -> None:
        """Services have time-outs of their own."""

    def end(self) -> None:
        """Nothing is kept open."""

    def _picture(self, event: StreamEvent | SourceEvent) -> Path | None:
        """The snapshot of a verdict, when it is written."""
        if self._folder is None or not isinstance(event, StreamEvent) or not event.snapshot:
            return None
        path, end = self._folder / event.snapshot, time.monotonic() + PICTURE_SECONDS
        while not path.exists():
            if time.monotonic() >= end or self._closing.wait(0.05):
                return None
        return path
