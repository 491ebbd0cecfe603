"""Events, their reviews, and the files that are kept of them."""

from __future__ import annotations

import contextlib
import re
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response, StreamingResponse

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.evidence.package import open_clip
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.kept import KeptFile
from mpft_deploy.screen.tell.store import Precision, ReviewState, StoredEvent
from mpft_deploy.screen.web.audit import Audit, Number, PageLength
from mpft_deploy.screen.web.board import Board, thumbnail
from mpft_deploy.screen.web.export import zipped
from mpft_deploy.screen.web.operations import MissingError, Note, User, operation
from mpft_deploy.spec import StreamVerdict

PAGE = 50

STAYS = {"Cache-Control": "private, max-age=86400, immutable"}
"""Of a snapshot: no other file ever gets its name."""


class Review(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """by: who says so; where visitors have names of their own, theirs goes first."""

    state: ReviewState
    note: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    by: Annotated[str, msgspec.Meta(max_length=100)] = ""


class Me(User, frozen=True):
    """manages: whether sources can be added here, by whoever asks; notifies: and devices."""

    manages: bool
    notifies: bool


class Planned(msgspec.Struct, frozen=True):
    """A package of evidence that will be there in so many seconds."""

    package: str
    seconds: float


class Events(msgspec.Struct, frozen=True):
    """Newest first; next: the parameter `before` of the next page, null on the last."""

    events: list[StoredEvent]
    next: int | None


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """A MissingError for a file that is damaged, or has grown too old a moment ago."""
    try:
        yield
    except (OSError, zipfile.BadZipFile):
        raise MissingError(f"{what} cannot be read") from None


class Api:
    """Answers from the store, and of files that are kept.

    Args:
        board: says what streams show, for evidence that is kept by hand.
        managed, notifies: whether sources, and devices to be notified, can be added.
    """

    def __init__(
        self, board: Board, sinks: Sinks, audit: Audit, *, managed: bool, notifies: bool
    ) -> None:
        self._board, self._audit, self._store = board, audit, sinks.store
        self._snapshots, self._evidence = sinks.snapshots, sinks.evidence
        self._managed, self._notifies = managed, notifies

    @operation("GET", "/me")
    async def me(self, user: User) -> Me:
        """Who asks: name and role; no name where no token is asked for."""
        manages = self._managed and user.role == "admin"
        return Me(user.name, user.role, manages, self._notifies)

    @operation("GET", "/events")
    def events(
        self,
        source: str | None = None,
        verdict: StreamVerdict | None = None,
        state: ReviewState | None = None,
        since: float | None = None,
        until: float | None = None,
        before: Number | None = None,
        limit: PageLength = PAGE,
    ) -> Events:
        """Events of streams and sources, newest first, page by page.

        `since` and `until` are seconds since the Unix epoch, from the one to just before the other;
        `before` is the number of an event: only what came before it.
        """
        found = self._store.events(
            source=source,
            verdict=verdict,
            state=state,
            since=since,
            until=until,
            before=before,
            limit=limit + 1,
        )
        return Events(found[:limit], found[limit - 1].id if len(found) > limit else None)

    @operation("GET", "/events/sources")
    def event_sources(self) -> list[str]:
        """Sources that there are events of, also those that are screened no more."""
        return self._store.sources()

    @operation("GET", "/events/{number}")
    def event(self, number: Number) -> StoredEvent:
        """One event."""
        found = self._store.event(number)
        if found is None:
            raise MissingError("there is no such event; it may have grown too old")
        return found

    @operation("PUT", "/events/{number}/review", role="reviewer")
    def review(self, number: Number, body: Review, user: User) -> StoredEvent:
        """Say what a stream's verdict was; this replaces what was said before."""
        by = user.name or body.by
        try:
            found = self._store.review(number, body.state, body.note, by, time.time())
        except KeyError:
            raise MissingError("there is no such verdict to review") from None
        what = f"event {number} of {found.event.source} as {body.state}"
        self._audit.note(User(by, user.role), "reviewed", what)
        return found

    @operation("GET", "/precision")
    def precision(
        self, source: str | None = None, since: float | None = None, until: float | None = None
    ) -> Precision:
        """How often reviewers confirmed and dismissed "generated"; chosen as at /events."""
        return self._store.precision(source, since, until)

    @operation("GET", "/snapshots/{name}", "image/jpeg")
    def snapshot(self, name: str, small: bool = False) -> Response:
        """The frame that decided, as it was kept; or a preview of 320 pixels."""
        path = self._snapshot(name)
        if path is None:
            raise MissingError("there is no such snapshot; it may have grown too old")
        if small:
            with _readable("this snapshot"):
                return Response(thumbnail(path), media_type="image/jpeg", headers=STAYS)
        return FileResponse(path, media_type="image/jpeg", headers=STAYS)

    @operation("POST", "/sources/{source}/evidence", role="reviewer", told="asked for evidence of")
    def keep_evidence(self, source: str, user: User) -> Planned:
        """Keep the video and judged pixels of now, as is done of a verdict "generated"."""
        if self._evidence is None:
            raise MissingError("none is kept here: write [evidence] into the configuration")
        verdict = {one.source: one.verdict for one in self._board.overview().sources}
        try:
            name = self._evidence.ask(source, verdict[source], user.name)
        except KeyError:  # or it was removed a moment ago
            raise MissingError("there is no such source") from None
        return Planned(name, self._evidence.after)

    @operation("GET", "/evidence/{name}", "application/zip")
    def package(self, name: str) -> Response:
        """A package of evidence, for `mpft evidence verify`."""
        path = self._package(name)
        return FileResponse(path, filename=name, media_type="application/zip", headers=STAYS)

    @operation("GET", "/evidence/{name}/clip", "video/mp4")
    def clip(self, name: str, headers: Headers) -> Response:
        """The video of a package, to be played in place; or a part of it (Range)."""
        with _readable("this package"):
            found = open_clip(self._package(name))
        if found is None:
            raise MissingError("there is no video in this package; it says why")
        media, size, read = found
        part = re.fullmatch(r"bytes=([0-9]{1,15})-([0-9]{0,15})", headers.get("range", ""))
        begin, end = (int(part[1]), min(size, int(part[2] or size) + 1)) if part else (0, size)
        if begin >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        told = {**STAYS, "Accept-Ranges": "bytes", "Content-Length": str(end - begin)}
        if part:
            told["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return StreamingResponse(read(begin, end), 206 if part else 200, told, media)

    @operation("GET", "/evidence")
    def packages(self) -> list[KeptFile]:
        """Packages of evidence that no event names, as those asked for by hand, newest first."""
        return [] if self._evidence is None else self._evidence.unnamed()

    @operation("DELETE", "/evidence/{name}", role="admin")
    def delete_package(self, name: str, note: Note) -> None:
        """Delete a package of evidence that no event names."""
        if self._evidence is None or name not in {one.name for one in self.packages()}:
            raise MissingError("there is no such package, or an event names it")
        try:
            self._evidence.delete(name)
        except OSError as error:
            raise EnvironmentLacksError(f"{name} cannot be deleted: {error.strerror}") from None
        note("deleted evidence", name)

    @operation("GET", "/export", "application/zip", told="exported reviewed frames")
    def export(
        self,
        source: str | None = None,
        verdict: StreamVerdict | None = None,
        state: ReviewState | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Response:
        """Reviewed frames as a labelled data set: manifest.csv and the images that it names.

        Confirmed verdicts have the label that they say, dismissed ones the other. Which events, is
        said as at /events.
        """
        wanted = partial(
            self._store.events,
            source=source,
            verdict=verdict,
            state=state,
            since=since,
            until=until,
        )
        name = {"Content-Disposition": 'attachment; filename="reviewed.zip"'}
        parts = zipped(wanted, self._snapshot)
        return StreamingResponse(parts, media_type="application/zip", headers=name)

    def _package(self, name: str) -> Path:
        path = self._evidence.find(name) if self._evidence is not None else None
        if path is None:
            raise MissingError("there is no such package: it is to come, or grew too old")
        return path

    def _snapshot(self, name: str) -> Path | None:
        """A file of the snapshots, and no other."""
        return self._snapshots.find(name) if self._snapshots is not None else None
