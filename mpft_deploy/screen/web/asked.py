"""What others tell, who may take long: asked in the background, and only while somebody looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

PERIOD = 1.0
"""Seconds between two questions, at least."""

T = TypeVar("T")


class Asked(Generic[T]):
    """An answer that nobody waits for; from one event loop alone.

    Args:
        first: before there is one.
        ask: makes the next answer of the last; must not raise.
        idle: seconds without a look after which the last is not shown as if it were new.
    """

    def __init__(
        self, first: T, ask: Callable[[T], Awaitable[T]], idle: float = float("inf")
    ) -> None:
        self._first = self._now = first
        self._ask, self._idle = ask, idle
        self._task: asyncio.Task[None] | None = None
        self._looked = self._next = float("-inf")

    def look(self) -> T:
        """The last answer; the next is asked for."""
        now = time.monotonic()
        if now - self._looked > self._idle:
            self._now = self._first
        self._looked = now
        if now >= self._next and (self._task is None or self._task.done()):
            self._next = now + PERIOD
            self._task = asyncio.create_task(self._follow())
        return self._now

    async def _follow(self) -> None:
        self._now = await self._ask(self._now)
