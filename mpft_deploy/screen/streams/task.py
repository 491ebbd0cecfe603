"""Threads whose end is noticed: whatever ends one is logged, and kept for whoever supervises it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

HUNG = 10.0
"""Seconds without a turn after which a thread that never waits for long is taken for dead."""


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
        try:
            self._work()
        except BaseException as error:
            self.failure = error
            logger.exception("the thread %s failed", self.name)


def failure_of(parts: Iterable[object]) -> BaseException | None:
    """The first failure of some things, of those that have threads of their own."""
    found = (getattr(part, "failure", None) for part in parts)
    return next((failure for failure in found if failure is not None), None)
