"""Threads whose end is noticed: whatever ends one is logged, and kept for whoever supervises it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Protocol, TypeVar, runtime_checkable

logger = logging.getLogger(__name__)

HUNG = 10.0
"""Seconds without a turn after which a thread that never waits for long is taken for dead."""

PATIENCE = 5.0
"""Seconds that others wait for a thread to do something for them."""

T = TypeVar("T")


class Task(threading.Thread):
    """A worker's thread.

    Attributes:
        failure: what ended it before its time.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=f"mpft-{name}"[:15], daemon=True)
        self._work = work
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work; by the thread alone."""
        try:
            self._work()
        except BaseException as error:
            self.failure = error
            logger.exception("the thread %s failed", self.name)


class Inbox:
    """What other threads have a task's thread do, between what it does anyway.

    Args:
        wake: is set for it when there is something.
    """

    def __init__(self, task: Task, wake: threading.Event) -> None:
        self._task, self._wake = task, wake
        self._waiting: deque[Callable[[], None]] = deque()

    def ask(self, work: Callable[[], T]) -> T:
        """Have it done, and what came of it.

        Raises:
            TimeoutError: the thread did not come to it in PATIENCE seconds.
        """
        if self._task.ident is None:
            return work()  # it has not begun
        future = Future[T]()

        def turn() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

        self._waiting.append(turn)
        self._wake.set()
        try:
            return future.result(PATIENCE)
        except FutureTimeout:
            future.cancel()
            raise TimeoutError from None

    def answer(self) -> None:
        """Do what waits; by the thread alone."""
        while self._waiting:
            self._waiting.popleft()()


@runtime_checkable
class Supervised(Protocol):
    """Something with threads of its own, without which it does nothing."""

    @property
    def failure(self) -> BaseException | None:
        """What ended one of them before its time."""


def failure_of(parts: Iterable[object]) -> BaseException | None:
    """The first failure of some things, of those that are supervised."""
    found = (part.failure for part in parts if isinstance(part, Supervised))
    return next((failure for failure in found if failure is not None), None)
