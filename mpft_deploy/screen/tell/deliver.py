"""Deliveries from the store: in order, at least once, and no event holds up all others for good."""

from __future__ import annotations

import logging
import random
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.streams.task import Task
from mpft_deploy.screen.tell.database import REFUSED
from mpft_deploy.screen.tell.stats import Counted, SinkStats, Trouble
from mpft_deploy.screen.tell.store import Delivery, Store

if TYPE_CHECKING:
    from mpft_deploy.screen.tell.post import Poster

logger = logging.getLogger(__name__)

REFUSALS = frozenset({400, 413, 415, 422})
"""Replies to an event that no repetition will make welcome."""

BUSY = frozenset({0, 408, 425, 429, 502, 503, 504})
"""Replies that speak of the receiver, not of the event; 0 stands for none."""

PATIENCE = 5
"""Times that an event is tried alone. Then those behind it are tried too: if one of them is taken,
the receiver works, and it is the event that it cannot take."""

PROBES = 8
"""Events that are tried in one go, at most."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
"""Seconds between attempts: doubled each time, and shortened by up to a half at random."""

LONGEST_PAUSE = 300.0
"""Seconds for which a receiver may ask to be left alone."""

ABORT_SECONDS = 2.0
"""How long closing waits, past its own time, for a thread to notice that its request was cut."""


class Answer(NamedTuple):
    """What became of an attempt.

    Attributes:
        status: as of HTTP; 0 where no reply came.
        reason: why not, in words that repeat nothing of what was sent.
        pause: seconds for which the receiver asks to be left alone.
    """

    status: int
    reason: str
    pause: float = 0.0


LEFT = Answer(204, "")
"""The receiver need not be told of this event after all."""


class Deliverer(Counted, ABC):
    """A sink that takes what waits for it in the store, in a thread of its own.

    Args:
        name: by which the store knows it, the same over restarts.
        where: what may be said of the receiver's address.

    Attributes:
        first_wait: seconds before the second attempt.
    """

    first_wait = FIRST_WAIT
    _poster: Poster | None = None
    """By which `attempt` posts, if it does; it is closed with this."""

    def __init__(self, name: str, where: str, store: Store) -> None:
        super().__init__(name, logger)
        self._where, self._store, self._refusing = where, store, Trouble(logger)
        self._closing, self._news = threading.Event(), threading.Event()
        self._task = Task(name, self._run)
        self._task.start()

    @abstractmethod
    def wants(self, event: Event) -> bool:
        """Whether it is to be sent this."""

    @abstractmethod
    def attempt(self, delivery: Delivery) -> Answer:
        """Send an event once. A ValueError says that this one cannot be sent."""

    def send(self, event: Event) -> None:
        """Look into the store, which has the event by now."""
        self._news.set()

    def try_now(self) -> None:
        """Make what waits due, even of a receiver that asked to be left alone."""
        waits = "receiver = ?1 AND due IS NOT NULL"
        self._store.rows(f"UPDATE deliveries SET due = 0 WHERE {waits}", self.name)
        self._news.set()

    def leave(self) -> None:
        """Have the thread end, once nothing more is due."""
        self._closing.set()
        self._news.set()

    def close(self, timeout: float) -> None:
        """Deliver what waits, unless the receiver is down; the rest stays in the store."""
        self.leave()
        self._task.join(timeout)
        if self._task.is_alive():
            if self._poster is not None:
                self._poster.abort()
            self._task.join(ABORT_SECONDS)

    def stats(self) -> SinkStats:
        waiting = self._store.count_waiting(self.name)
        refused = self._store.number(f"SELECT count(*) {REFUSED}", self.name, None)
        return msgspec.structs.replace(super().stats(), waiting=waiting, refused=refused)

    def _run(self) -> None:
        while True:
            self._news.clear()
            wait: float | None = None
            if waiting := self._store.waiting(self.name, PROBES):
                wait = min(LONGEST_PAUSE, waiting[0].due - self._store.now())
                if wait <= 0:
                    self._deliver(waiting)
                    continue
            if self._closing.is_set():
                break
            self._news.wait(wait)
        if self._poster is not None:
            self._poster.close()

    def _deliver(self, waiting: list[Delivery]) -> None:
        """Have the first taken or refused, or due again later."""
        failed: list[Delivery] = []
        failure = LEFT
        for delivery in waiting:
            answer = self._answer(delivery)
            if failed and answer is LEFT:  # which does not say that the receiver works
                self._store.settle(self.name, delivery.event)
                continue
            if self._settled(delivery, answer):
                # Once more, since it may work only now: order matters less than loss.
                for poisoned in failed:
                    again = self._answer(poisoned)
                    if not self._settled(poisoned, again) and again.status not in BUSY:
                        self._refuse(poisoned, again.reason)
                return
            if delivery.error is not None and answer.status not in BUSY:  # as before: it had a try
                self._refuse(delivery, answer.reason)
                return
            failed.append(delivery._replace(attempts=delivery.attempts + 1))
            failure = answer
            if answer.status in BUSY or failed[-1].attempts < PATIENCE:
                break
        if not self._closing.is_set():
            self._trouble.begin(f"{self._where}: {failure.reason}; events wait")
        self._failures += 1
        longest: float = min(LONGEST_WAIT, self.first_wait * 2 ** min(waiting[0].attempts, 20))
        pause = max(failure.pause, longest * random.uniform(0.5, 1.0))
        for one in failed:
            due = self._store.now() + pause
            self._store.settle(self.name, one.event, one.error, one.attempts, due)

    def _settled(self, delivery: Delivery, answer: Answer) -> bool:
        """Whether this is the end of a delivery: it was taken, or refused."""
        if 200 <= answer.status < 300:
            self._trouble.end(f"{self._where}: receives again")
            self._delivered += answer is not LEFT
            self._store.settle(self.name, delivery.event)
        elif answer.status in REFUSALS:
            self._refuse(delivery, answer.reason)
        else:
            return False
        return True

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self._refusing.begin(f"{self._where}: an event is not taken: {reason}")
        self.dropped["refused"] += 1
        self._store.settle(self.name, delivery.event, reason, delivery.attempts + 1)

    def _answer(self, delivery: Delivery) -> Answer:
        try:
            return self.attempt(delivery)
        except ValueError as error:
            return Answer(400, f"it cannot be sent: {type(error).__name__}")
        except Exception as error:  # no event may end this thread
            return Answer(500, f"{type(error).__name__} while it was sent")
