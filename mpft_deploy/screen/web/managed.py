"""The API's part for admins: sources that are added, tried, paused and removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException

from mpft_deploy.files import printable
from mpft_deploy.screen.manage import Managed, Manager
from mpft_deploy.screen.streams.doctor import Found
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.web.access import User
from mpft_deploy.screen.web.api import OfSource
from mpft_deploy.screen.web.operations import operation

logger = logging.getLogger(__name__)

T = TypeVar("T")

_, _COMPONENTS = msgspec.json.schema_components([SourceSettings])

Table = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_COMPONENTS["SourceSettings"])]
"""A [[source]] of cameras.toml."""


class ManagedSources:
    """Answers by a manager."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    @operation("GET", "/sources/settings", role="admin")
    def settings(self) -> list[Managed]:
        """Which sources are of the file, which were added, and which are paused."""
        return self._manager.sources()

    @operation("POST", "/sources", role="admin")
    def add(self, body: Table, user: User) -> Managed:
        """Screen another source.

        Its settings are kept, and never told: what is shown of its address is free of credentials.
        """
        added = self._manager.add(body)
        _log(user, "added", added.source)
        return added

    @operation("POST", "/sources/test", role="admin")
    def test_new(self, body: Table) -> Found:
        """Connect to what may become a source, for a few seconds."""
        return self._manager.test(body)

    @operation("POST", "/sources/{source}/test", role="admin")
    def test(self, query: OfSource) -> Found:
        """Connect to a source once more, for a few seconds."""
        return _found(lambda: self._manager.test(query.source))

    @operation("POST", "/sources/{source}/pause", role="admin")
    def pause(self, query: OfSource, user: User) -> Managed:
        """Read a source no more, until it is resumed."""
        paused = _found(lambda: self._manager.pause(query.source, user.name or "the page"))
        _log(user, "paused", query.source)
        return paused

    @operation("POST", "/sources/{source}/resume", role="admin")
    def resume(self, query: OfSource, user: User) -> Managed:
        """Read a paused source again."""
        resumed = _found(lambda: self._manager.resume(query.source))
        _log(user, "resumed", query.source)
        return resumed

    @operation("DELETE", "/sources/{source}", role="admin")
    def remove(self, query: OfSource, user: User) -> None:
        """Screen a source no more that was added; its events stay."""
        _found(lambda: self._manager.remove(query.source))
        _log(user, "removed", query.source)


def _found(work: Callable[[], T]) -> T:
    try:
        return work()
    except KeyError:
        raise HTTPException(404, "there is no such source") from None


def _log(user: User, what: str, source: str) -> None:
    logger.info("%s %s %s", printable(user.name or "somebody"), what, printable(source))
