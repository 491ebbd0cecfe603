"""Events on their way: numbered, in order, never waited for.

Whoever makes an event leaves it in a queue of bounded length; one thread hands it to the sink. When
that is too slow the oldest pictures and frame verdicts are lost first, and these are counted.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from typing import Any, TypeVar

from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.records import Event, FrameEvent, Picture, Sink
from mpft_deploy.screen.streams.task import HUNG, Task, failure_of

logger = logging.getLogger(__name__)

CAPACITY = 10_000
"""Events that wait, at most; a minute of a busy machine."""

PICTURES = 16
"""Of these, the newest that keep their pictures; each is a whole frame in memory."""

E = TypeVar("E", bound=Event)


class Emitter:
    """Numbers events and hands them to a sink, from one thread, in order."""

    def __init__(self, sink: Sink | None, clock: Clock, capacity: int = CAPACITY) -> None:
        self._clock, self._capacity = clock, capacity
        self.sink = sink
        """Who is told; another one before the start alone."""
        # Ids of a later process sort after those of an earlier one, as long as the clock is right;
        # processes that start at once differ by chance.
        self._prefix = f"{int(clock.time() * 1000):012x}-{secrets.token_hex(4)}"
        self._count = 0
        self._queue: deque[Event] = deque()
        self._pictures: dict[str, Picture] = {}  # that wait, by their events' ids, in order
        self._changed = threading.Condition()
        self._closing = False
        self._failed = self._unpictured = False  # told already
        self.lost = 0
        self.picture: Picture | None = None
        """That came with the event which the sink is being told; for the sink."""
        self._sending: float | None = None  # since when a sink has had an event
        self._task = Task("tell", self._run)

    @property
    def failure(self) -> BaseException | None:
        """What ended its thread, or one of the sink's."""
        return self._task.failure or failure_of([self.sink])

    def alive(self, now: float) -> bool:
        """Whether events go on: sinks never wait, so none may keep one for long."""
        sending = self._sending
        return self.failure is None and (sending is None or now - sending < HUNG)

    def start(self) -> None:
        self._task.start()

    def emit(self, kind: type[E], picture: Picture | None = None, **fields: Any) -> E:
        """Make an event of that kind, queue it, and return it; from any thread.

        Args:
            picture: that goes with it, unless it waits behind too many.
        """
        with self._changed:
            self._count += 1
            event = kind(id=f"{self._prefix}-{self._count:010x}", time=self._clock.time(), **fields)
            if len(self._queue) >= self._capacity:
                self._make_room()
            self._queue.append(event)
            if picture is not None:
                self._pictures[event.id] = picture
                if len(self._pictures) > PICTURES:
                    self._drop_picture()
            self._changed.notify()
        return event

    def close(self, timeout: float) -> None:
        """Hand on what waits and close the sink, within that many seconds in all."""
        end = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._task.is_alive():
            self._task.join(max(0.0, end - time.monotonic()))
        if self.sink is not None:
            self.sink.close(max(0.0, end - time.monotonic()))

    def _drop_picture(self) -> None:
        if not self._unpictured:
            logger.warning("events wait too long to keep all their pictures: the oldest are lost")
        self._unpictured = True
        del self._pictures[next(iter(self._pictures))]

    def _make_room(self) -> None:
        """Drop the oldest frame verdict, or the oldest event of all."""
        if not self.lost:
            logger.warning("events come faster than they are taken: the oldest are lost; counted")
        self.lost += 1
        for index, event in enumerate(self._queue):
            if isinstance(event, FrameEvent):
                del self._queue[index]
                return
        self._pictures.pop(self._queue.popleft().id, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return
                event = self._queue.popleft()
                self.picture = self._pictures.pop(event.id, None)
            if self.sink is not None:
                self._sending = self._clock.monotonic()
                self._send(self.sink, event)
                self._sending = None

    def _send(self, sink: Sink, event: Event) -> None:
        try:
            sink.send(event)
        except Exception:
            # A fault of whoever is told must not end the telling; said once, not each time.
            if not self._failed:
                self._failed = True
                logger.exception("%s failed to take an event", sink.name)
