"""People are told: by lines of text, and by the services they use.

The latter not too often, not at night, and with a picture.
"""

from __future__ import annotations

import logging
import sys
import time
from abc import abstractmethod
from collections import Counter, deque
from pathlib import Path

from mpft_deploy.errors import UsageError
from mpft_deploy.extras import require
from mpft_deploy.files import printable
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.hours import within
from mpft_deploy.screen.streams.records import Event, FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.screen.tell.config import Notify
from mpft_deploy.screen.tell.deliver import LEFT, Answer, Deliverer
from mpft_deploy.screen.tell.stats import Worker
from mpft_deploy.screen.tell.store import Delivery, Store
from mpft_deploy.screen.tell.table import Alerts

HOUR = 3600.0

PICTURE_SECONDS = 5.0
"""How long a notification waits for its picture, which another thread writes."""


class TextSink(Worker[str]):
    """Changes of verdicts and states, a line each, on standard output."""

    def __init__(self) -> None:
        super().__init__("text", self._print, 1000)

    def send(self, event: Event) -> None:
        if not isinstance(event, FrameEvent):
            self.put(line(event))

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class Notifier(Deliverer):
    """Tells of what is worth it, but not too often, and not at night.

    Args:
        name, where: see `Deliverer`.

    Attributes:
        clock: by which that is judged.
    """

    clock: Clock = Clock()

    def __init__(self, name: str, where: str, config: Alerts, store: Store) -> None:
        self._config = config
        self._sent: deque[float] = deque()  # when, in the last hour
        self._told: dict[str, float] = {}  # when, of each source
        self._unsent: Counter[str] = Counter()
        super().__init__(name, where, store)

    @abstractmethod
    def notify(self, delivery: Delivery, event: StreamEvent | SourceEvent, text: str) -> Answer:
        """Tell of an event once, in these words."""

    def wants(self, event: Event) -> bool:
        if isinstance(event, StreamEvent):
            return event.verdict in self._config.when or event.reason in self._config.when
        return isinstance(event, SourceEvent) and event.state in self._config.when

    def attempt(self, delivery: Delivery) -> Answer:
        """Notify of an event, or leave it at that for now: the next notification says how many."""
        event = delivery.told
        now = self.clock.monotonic()
        while self._sent and now - self._sent[0] >= HOUR:
            self._sent.popleft()
        often = now - self._told.get(event.source, float("-inf")) < self._config.interval
        quiet = within(filter(None, [self._config.quiet]), time.localtime(self.clock.time()))
        if quiet or often or len(self._sent) >= self._config.per_hour:
            self._unsent[event.stream] += 1
            self.dropped["quiet" if quiet else "rate"] += 1
            return LEFT
        text = line(event)
        if others := self._unsent.total():
            names = ", ".join(sorted(self._unsent))
            text += f"\n{others} more since the last notification: {names}"
        answer = self.notify(delivery, event, text)
        if 200 <= answer.status < 300:
            self._unsent.clear()
            self._told[event.source] = now
            self._sent.append(now)
        return answer


class NotifySink(Notifier):
    """Notifies by one address.

    Args:
        number: of the address among those of the table, from 0.
        folder: where snapshots are; None where there are none.

    Raises:
        UsageError: Apprise knows no such service.
        EnvironmentLacksError: the extra `notify` is missing.
    """

    def __init__(self, config: Notify, number: int, store: Store, folder: Path | None) -> None:
        require("notify", "[notify]", "apprise")
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it may tell of addresses
        url = config.addresses()[number]
        self._service = apprise.Apprise()
        if not self._service.add(url):
            raise UsageError(
                f"[notify] urls: the address {number + 1} is of no service that Apprise knows"
            )
        self._folder = folder if config.picture else None
        where = f"notify {url.partition('://')[0]}"
        super().__init__(f"notify {number + 1}", where, config, store)

    def notify(self, delivery: Delivery, event: StreamEvent | SourceEvent, text: str) -> Answer:
        picture = self._picture(event)
        attached = picture and str(picture)
        if picture and isinstance(event, StreamEvent) and event.looked_at:
            # The file is evidence, and has no frame of it.
            text += f"\nJudged: {event.looked_at.share:.1%} of the picture."
        if not self._service.notify(title=title(event), body=text, attach=attached):
            return Answer(503, "the service did not take a notification")
        return Answer(200, "")

    def _picture(self, event: StreamEvent | SourceEvent) -> Path | None:
        """The snapshot of a verdict, when it is written."""
        if self._folder is None or not isinstance(event, StreamEvent) or not event.snapshot:
            return None
        path, end = self._folder / event.snapshot, time.monotonic() + PICTURE_SECONDS
        while not path.exists():
            if time.monotonic() >= end or self._closing.wait(0.05):
                return None
        return path


def title(event: StreamEvent | SourceEvent) -> str:
    """What it is of, and the verdict or state."""
    if isinstance(event, SourceEvent):
        return f"{event.stream}: {event.state}"
    return f"{event.stream}: {'camera drifted' if event.reason == 'drift' else event.verdict}"


def line(event: StreamEvent | SourceEvent) -> str:
    """When, of what, and what happened."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    if isinstance(event, StreamEvent):
        of = " of generation found" if event.verdict == "no sign" else ""
        what = (
            f"{event.verdict.upper()}{of} (was {event.previous}: {event.reason}; "
            f"evidence {event.evidence:+.1f} from {event.frames} frames, "
            f"worth {event.independent:.1f} independent ones)"
        )
        if event.reason == "drift":
            what += "; the camera does not show what it was taught by: teach it again"
    else:
        what = event.state + (f": {event.reason}" if event.reason else "")
        if event.retry_in is not None:
            what += f"; trying again in {event.retry_in:.0f} s"
    return printable(f"{when}  {event.stream}  {what}")
