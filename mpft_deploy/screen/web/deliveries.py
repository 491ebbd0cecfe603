"""What a receiver refused: to be sent again, or forgotten."""

from __future__ import annotations

import msgspec

from mpft_deploy.screen.tell.database import REFUSED
from mpft_deploy.screen.tell.deliver import Deliverer
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web.audit import Number
from mpft_deploy.screen.web.operations import MissingError, Note, operation

SHOWN = 200
"""Refused events of a receiver that are listed, at most."""


class Refused(msgspec.Struct, frozen=True):
    """An event that a receiver will not have.

    Attributes:
        event: its number.
        what: a verdict of a stream, or empty.
        error: why.
    """

    receiver: str
    event: int
    source: str
    time: float
    what: str
    error: str
    attempts: int


class Deliveries:
    """Of those sinks that deliver what waits in the store."""

    def __init__(self, sinks: Sinks) -> None:
        self._sinks, self._store = sinks, sinks.store

    @operation("GET", "/refused", role="admin")
    def refused(self) -> list[Refused]:
        """Events that a receiver refused for good, the newest of each."""
        told = "receiver, event, source, time, coalesce(verdict, ''), error, attempts"
        sql = f"SELECT {told} {REFUSED} ORDER BY event DESC LIMIT {SHOWN}"
        names = [sink.name for sink in self._deliverers()]
        return [Refused(*row) for name in names for row in self._store.rows(sql, name, None)]

    @operation("POST", "/refused", role="admin")
    def send_again(
        self, note: Note, receiver: str | None = None, event: Number | None = None
    ) -> int:
        """Send what was refused once more: all, or that of a receiver, or one event of it."""
        change = "UPDATE deliveries SET due = 0"
        changed = self._change(change, receiver, event, note, "sent again")
        for sink in changed:
            sink.try_now()
        return sum(changed.values())

    @operation("DELETE", "/refused", role="admin")
    def forget(self, note: Note, receiver: str | None = None, event: Number | None = None) -> int:
        """Have what was refused sent no more; the events stay. Chosen as at /refused."""
        change = "DELETE FROM deliveries"
        return sum(self._change(change, receiver, event, note, "gave up sending").values())

    def _change(
        self, change: str, receiver: str | None, event: int | None, note: Note, done: str
    ) -> dict[Deliverer, int]:
        """How many deliveries of whom were changed; a MissingError for none."""
        changed = {}
        for sink in self._deliverers():
            if receiver in (None, sink.name):
                count = self._store.number(f"SELECT count(*) {REFUSED}", sink.name, event)
                chosen = f"receiver = ?1 AND event IN (SELECT event {REFUSED})"
                self._store.rows(f"{change} WHERE {chosen}", sink.name, event)
                if count:
                    changed[sink] = count
                    what = f"event {event}" if event else f"{count} event{'s' * (count != 1)}"
                    note(done, f"{what} to {sink.name}")
        if not changed:
            raise MissingError("nothing like that was refused, or it was sent again already")
        return changed

    def _deliverers(self) -> list[Deliverer]:
        return [sink for sink in self._sinks if isinstance(sink, Deliverer)]
