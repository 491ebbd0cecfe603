"""Who did what by page and API: in the log at once, and in the store."""

from __future__ import annotations

import logging
import time
from typing import Annotated, TypeAlias

import msgspec

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.files import printable
from mpft_deploy.screen.tell.config import Role
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web.operations import User, operation

logger = logging.getLogger(__name__)

PageLength: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=200)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Of an event or entry, as the store counts them."""


class Entry(msgspec.Struct, frozen=True):
    """Something that was done; time in seconds since the Unix epoch."""

    id: int
    time: float
    user: str
    role: Role
    action: str
    object: str


class Entries(msgspec.Struct, frozen=True):
    """Newest first; next: the parameter `before` of the next page, null on the last."""

    entries: list[Entry]
    next: int | None


class Audit:
    """Keeps it in a store, the last hundred thousand."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, user: User, action: str, thing: str = "") -> None:
        """Somebody did something; that it cannot be kept is told in the log."""
        who = user.name or "somebody"
        logger.info("%s %s %s", printable(who), action, printable(thing))
        row = (time.time(), who, user.role, action, thing)
        sql = "INSERT INTO audit (time, user, role, action, object) VALUES (?, ?, ?, ?, ?)"
        try:
            self._store.rows(sql, *row)
        except EnvironmentLacksError as error:
            logger.error("who did that stands in this log alone: %s", error)

    @operation("GET", "/audit", role="admin")
    def audit(self, before: Number | None = None, limit: PageLength = 50) -> Entries:
        """Who changed what, logged in and out, tried sources and took exports.

        `before` is the number of an entry: only what came before it.
        """
        rows = self._store.rows(
            "SELECT id, time, user, role, action, object FROM audit WHERE ?1 IS NULL OR id < ?1 "
            "ORDER BY id DESC LIMIT ?2",
            before,
            limit + 1,
        )
        found = [Entry(*row) for row in rows[:limit]]
        return Entries(found, found[-1].id if len(rows) > limit else None)
