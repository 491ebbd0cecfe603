"""What a sink tells of itself, and the queue that most of them stand behind."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.task import Task

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class SinkStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and sizes now.

    Attributes:
        delivered: events, or files, that arrived.
        failures: attempts that failed.
        dropped: events that are lost, by cause.
        waiting: events in memory or on disk that are still to be delivered.
        refused: events that the receiver will not have; kept, and not sent again by themselves.
        disk_bytes: that they, or the files kept, take.
        problem: what fails, in words without secrets; empty while nothing does.
        since: when that began, seconds since the Unix epoch.
    """

    delivered: int = 0
    failures: int = 0
    dropped: Mapping[str, int] = {}
    waiting: int = 0
    refused: int = 0
    disk_bytes: int = 0
    problem: str = ""
    since: float | None = None


QUIET = 60.0
"""Seconds between two complaints of one kind, at least."""


class Trouble:
    """Says that something fails, and that it works again: once an outage, and once a minute.

    What fails for moments, again and again, would fill the log otherwise; all is counted anyway.

    Attributes:
        now: `problem` and `since` as in `SinkStats`, while something fails.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._told, self._next = logger, False, float("-inf")
        self.now: dict[str, Any] = {}

    def begin(self, what: str) -> None:
        self.now = {"problem": what, "since": self.now.get("since") or time.time()}
        now = time.monotonic()
        if not self._told and now >= self._next:
            self._told, self._next = True, now + QUIET
            self._logger.warning("%s", what)

    def end(self, what: str) -> None:
        self.now = {}
        if self._told:
            self._told = False
            self._logger.info("%s", what)


class Counted:
    """A sink that counts what it does, in a thread without which it does nothing.

    Attributes:
        dropped: events that are lost, by cause.
    """

    _task: Task

    def __init__(self, name: str, logger: logging.Logger) -> None:
        self.name, self._trouble = name, Trouble(logger)
        self.dropped: Counter[str] = Counter()
        self._delivered = self._failures = 0

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread before its time."""
        return self._task.failure

    def stats(self) -> SinkStats:
        """From any thread."""
        return SinkStats(
            delivered=self._delivered,
            failures=self._failures,
            dropped=dict(self.dropped),
            **self._trouble.now,
        )


class Worker(Counted, Generic[Item]):
    """A thread that handles items in order, from a queue that drops its oldest when it is full.

    Most sinks are one.

    Args:
        handle: called for each item. An OSError or EnvironmentLacksError is counted as a failure
            and costs that item; anything else does too and is logged with its traceback.
        capacity: items that wait, at most.
        idle: called every `period` seconds while there is nothing to do.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Item], None],
        capacity: int,
        *,
        idle: Callable[[], None] | None = None,
        period: float = 3600.0,
    ) -> None:
        super().__init__(name, logger)
        self._handle, self._capacity, self._closing = handle, capacity, False
        self._idle, self._period = idle, period if idle is not None else None
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._task = Task(name, self._run)
        self._task.start()

    def put(self, item: Item) -> None:
        """Queue an item; never waits."""
        with self._changed:
            if self._closing:
                self.dropped["closed"] += 1
                return
            if len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped["queue"] += 1
            self._items.append(item)
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Handle what is queued, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._task.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            if self._items:
                self.dropped["closed"] += len(self._items)
                self._items.clear()

    @property
    def disk_bytes(self) -> int:
        """Of what it keeps in files."""
        return 0

    def stats(self) -> SinkStats:
        sizes = {"waiting": len(self._items), "disk_bytes": self.disk_bytes}
        return msgspec.structs.replace(super().stats(), **sizes)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._items and not self._closing:
                    self._changed.wait(self._period)
                items = [self._items.popleft()] if self._items else []
                if not items and self._closing:
                    return
            for item in items:
                self._work(item)
            if not items and self._idle is not None:
                try:
                    self._idle()
                except Exception:
                    logger.exception("%s: upkeep failed", self.name)

    def _work(self, item: Item) -> None:
        try:
            self._handle(item)
        except (OSError, EnvironmentLacksError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._trouble.begin(f"{self.name}: {why}; what it costs is counted")
        except Exception:
            logger.exception("%s: an event was lost", self.name)
        else:
            self._trouble.end(f"{self.name}: works again")
            self._delivered += 1
            return
        self._failures += 1
        self.dropped["error"] += 1
