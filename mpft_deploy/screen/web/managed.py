"""The API's part for admins: sources that are added, tried, paused and removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException

from mpft_deploy.screen.manage import Managed, Manager
from mpft_deploy.screen.streams.address import redact
from mpft_deploy.screen.streams.areas import Areas
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.doctor import Found
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.teach import Teacher
from mpft_deploy.screen.web.api import OfSource
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.operations import User, operation

T = TypeVar("T")

_, _COMPONENTS = msgspec.json.schema_components([SourceSettings])

Table = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_COMPONENTS["SourceSettings"])]
"""A [[source]] of cameras.toml."""


class Minutes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a camera is taught; an hour is good, ten minutes are the least."""

    minutes: Annotated[float, msgspec.Meta(ge=10, le=240)] = 60.0


class ManagedSources:
    """Answers by a manager and its teacher."""

    def __init__(self, manager: Manager, teacher: Teacher, audit: Audit) -> None:
        self._manager, self._teacher, self._note = manager, teacher, audit.note

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
        self._note(user, "added", added.source)
        return added

    @operation("POST", "/sources/test", role="admin")
    def test_new(self, body: Table, user: User) -> Found:
        """Connect to what may become a source, for a few seconds."""
        address = body.get("address")
        self._note(user, "tried", redact(address) if isinstance(address, str) else "")
        return self._manager.test(body)

    @operation("POST", "/sources/{source}/test", role="admin")
    def test(self, query: OfSource, user: User) -> Found:
        """Connect to a source once more, for a few seconds."""
        self._note(user, "tried", query.source)
        return _found(lambda: self._manager.test(query.source))

    @operation("POST", "/sources/{source}/pause", role="admin")
    def pause(self, query: OfSource, user: User) -> Managed:
        """Read a source no more, until it is resumed."""
        paused = _found(lambda: self._manager.pause(query.source, user.name or "the page"))
        self._note(user, "paused", query.source)
        return paused

    @operation("POST", "/sources/{source}/resume", role="admin")
    def resume(self, query: OfSource, user: User) -> Managed:
        """Read a paused source again."""
        resumed = _found(lambda: self._manager.resume(query.source))
        self._note(user, "resumed", query.source)
        return resumed

    @operation("POST", "/sources/{source}/lesson", role="admin")
    def teach(self, query: OfSource, body: Minutes, user: User) -> Managed:
        """Teach a camera what its known-real frames look like: gather them for a while.

        How far that is stands in /sources/settings.
        """
        taught = _found(lambda: self._manager.teach(query.source, body.minutes))
        self._note(user, "began to teach", query.source)
        return taught

    @operation("POST", "/sources/{source}/lesson/accept", role="admin")
    def accept(self, query: OfSource, user: User) -> Managed:
        """Have what a lesson taught count; it may have gone on for longer."""
        return self._learn(query, self._teacher.accept, user, "accepted what was taught of")

    @operation("DELETE", "/sources/{source}/lesson", role="admin")
    def discard(self, query: OfSource, user: User) -> Managed:
        """End a lesson, and forget what it taught."""
        return self._learn(query, self._teacher.discard, user, "discarded what was taught of")

    @operation("GET", "/sources/{source}/baselines", role="admin")
    def baselines(self, query: OfSource) -> list[Baseline]:
        """What was accepted of a source or of SOURCE/REGION, newest first."""
        return self._teacher.history(query.source)

    @operation("DELETE", "/sources/{source}/baseline", role="admin")
    def go_back(self, query: OfSource, user: User) -> Managed:
        """Take back what was accepted last: what was accepted before counts again."""
        changed = _found(lambda: self._manager.go_back(query.source))
        self._note(user, "took back what was taught of", query.source)
        return changed

    @operation("PUT", "/sources/{source}/regions", role="admin")
    def draw(self, query: OfSource, body: Areas, user: User) -> Managed:
        """Have regions of a source judged each by itself, and no masked part of it.

        This replaces those drawn before; without any the whole picture is judged. What the
        configuration file names cannot be replaced.
        """
        drawn = _found(lambda: self._manager.look_at(query.source, body))
        self._note(
            user, f"drew {len(body.regions)} regions, {len(body.masks)} masks of", query.source
        )
        return drawn

    # After what has a longer path: a source may be called by its address, slashes and all.
    @operation("DELETE", "/sources/{source}", role="admin")
    def remove(self, query: OfSource, user: User) -> None:
        """Screen a source no more that was added; its events stay."""
        _found(lambda: self._manager.remove(query.source))
        self._note(user, "removed", query.source)

    def _learn(
        self, query: OfSource, change: Callable[[str], None], user: User, what: str
    ) -> Managed:
        try:
            changed = self._manager.learn(query.source, change)
        except KeyError:
            raise HTTPException(404, "there is no such source, or no lesson of it") from None
        self._note(user, what, query.source)
        return changed


def _found(work: Callable[[], T]) -> T:
    try:
        return work()
    except KeyError:
        raise HTTPException(404, "there is no such source") from None
