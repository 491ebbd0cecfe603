"""What the store has not written yet: for a moment, or as long as the disk is full."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

CAPACITY = 1000
"""Events that wait in memory, and as many notes of what receivers took."""


class Delivery(NamedTuple):
    """An event that waits for a receiver: its number, and what is sent."""

    event: int
    body: bytes


@dataclass
class Added:
    """An event that was added.

    Attributes:
        at: since when it is kept.
        row: time, source, verdict, snapshot, package and state.
        receivers: who waits for it (None), or refused it, and why.
    """

    body: bytes
    at: float
    row: tuple[object, ...]
    receivers: dict[str, str | None]


class Pending:
    """Changes in their order; whoever calls has the store's lock."""

    def __init__(self) -> None:
        self._added: dict[int, Added] = {}
        self._settled: dict[tuple[str, int], str | None] = {}

    def __bool__(self) -> bool:
        return bool(self._added or self._settled)

    def __len__(self) -> int:
        return len(self._added)

    def add(self, number: int, added: Added) -> bool:
        """One more event; whether the oldest was lost for it."""
        self._added[number] = added
        return self._bound(self._added)

    def settle(self, receiver: str, event: int, error: str | None) -> None:
        """A receiver took an event, or refused it."""
        added = self._added.get(event)
        if added is None or receiver not in added.receivers:
            self._settled[receiver, event] = error
            self._bound(self._settled)  # a receiver will be told twice
        elif error is None:
            del added.receivers[receiver]
        else:
            added.receivers[receiver] = error

    def settled(self, receiver: str) -> Collection[int]:
        """Events of the file that this receiver took or refused meanwhile."""
        return {event for name, event in self._settled if name == receiver}

    def waiting(self, receiver: str) -> Iterator[Delivery]:
        """What waits for a receiver here; it comes after what waits in the file."""
        for number, added in self._added.items():
            if added.receivers.get(receiver, "") is None:
                yield Delivery(number, added.body)

    def write(self, db: sqlite3.Connection) -> None:
        """Write all; within a transaction."""
        for number, added in self._added.items():
            db.execute(
                "INSERT INTO events (id, at, body, time, source, verdict, snapshot, package, "
                "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, added.at, added.body, *added.row),
            )
            db.executemany(
                "INSERT INTO deliveries (receiver, event, error) VALUES (?, ?, ?)",
                [(who, number, why) for who, why in added.receivers.items()],
            )
        for (receiver, event), error in self._settled.items():
            if error is None:
                sql = "DELETE FROM deliveries WHERE receiver = ? AND event = ?"
                db.execute(sql, (receiver, event))
            else:
                sql = "UPDATE deliveries SET error = ? WHERE receiver = ? AND event = ?"
                db.execute(sql, (error, receiver, event))

    def clear(self) -> None:
        """All was written."""
        self._added.clear()
        self._settled.clear()

    @staticmethod
    def _bound(kept: dict[int, Added] | dict[tuple[str, int], str | None]) -> bool:
        if len(kept) <= CAPACITY:
            return False
        del kept[next(iter(kept))]  # type: ignore[arg-type]  # a key of its own
        return True
