"""The API's part for everybody: browsers that are logged in, and how they are logged out."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException

from mpft_deploy.screen.web.access import Access
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.operations import Parameters, User, operation


class LoggedIn(msgspec.Struct, frozen=True):
    """A session, as people see it; id names it, and no cookie can be told from that."""

    id: str
    user: str
    began: float
    agent: str


class Ended(Parameters, frozen=True):
    id: str


class OwnSessions:
    """Operations: everybody's on one's own sessions, admins' on all."""

    def __init__(self, access: Access, audit: Audit) -> None:
        self._access, self._audit = access, audit

    @operation("GET", "/sessions")
    def listed(self, user: User) -> list[LoggedIn]:
        """Browsers that are logged in, newest first: one's own, and for admins all."""
        return [
            LoggedIn(one.id, one.user, one.began, one.agent)
            for one in self._access.sessions.all()
            if user.role == "admin" or user == self._access.whose(one)
        ]

    @operation("DELETE", "/sessions/{id}")
    def end(self, query: Ended, user: User) -> None:
        """Log a browser out: one's own, or for admins any."""
        found = next((one for one in self.listed(user) if one.id == query.id), None)
        if found is None:
            raise HTTPException(404, "there is no such session of yours")
        self._access.sessions.end(query.id)
        self._audit.note(user, "ended", f"a session of {found.user}")
