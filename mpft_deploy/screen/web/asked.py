"""What others tell, who may take long: asked in the background, while somebody looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

PERIOD = 1.0
"""Seconds between two questions."""

IDLE = 10.0
"""Seconds after the last look for which it is still asked."""

T = TypeVar("T")


class Asked(Generic[T]):
    """An answer that nobody waits for; from one event loop alone.

    Args:
        first: before there is one.
        ask: makes the next answer of the last.
        stays: whether the last is shown to whoever looks after a while, until there is a new one.
    """

    def __init__(self, first: T, ask: Callable[[T], Awaitable[T]], *, stays: bool) -> None:
        self._first = self._now = first
        self._ask, self._stays = ask, stays
        self._task: asyncio.Task[None] | None = None
        self._looked = 0.0

    def look(self) -> T:
        """What was told last."""
        self._looked = time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        return self._now

    async def _follow(self) -> None:
        while time.monotonic() - self._looked < IDLE:
            self._now = await self._ask(self._now)
            await asyncio.sleep(PERIOD)
        if not self._stays:
            self._now = self._first
