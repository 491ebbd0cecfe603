"""Sources of the configuration file and those that were added while it runs, as one configuration.

What is added, and which sources are paused, is kept in the store. Where the file and the store name
a source alike, the file's settings count, and the log and the page say so.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from mpft_deploy.errors import MpftError, UsageError
from mpft_deploy.screen.added import Table, read_added
from mpft_deploy.screen.streams.address import redact
from mpft_deploy.screen.streams.areas import Areas
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.config import Config, named
from mpft_deploy.screen.streams.doctor import Found, look
from mpft_deploy.screen.streams.hours import within
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.watch import Watch
from mpft_deploy.screen.teach import Lesson, Teacher
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web.operations import MissingError, Note, User, at_most, operation

logger = logging.getLogger(__name__)

AT_ONCE = 2
"""Sources that are tried at a time."""

RESTS = "not in its hours"
"""Why a source is paused that has some."""

SHOWN = ("decode", "hours", "group")
"""Settings that the page shows."""


class Minutes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a camera is taught; an hour is good, ten minutes are the least."""

    minutes: Annotated[float, msgspec.Meta(ge=10, le=240)] = 60.0


class Managed(msgspec.Struct, frozen=True):
    """What is set of a source.

    Attributes:
        address: without credentials.
        origin: who names it; "both": the file's settings count, and the store's wait.
        paused: whether it is, and not only for the moment.
        taught: when what counts of all its streams was learnt, seconds since the Unix epoch.
        accepted: whether something that was taught here can be taken back.
        lesson: that is under way, or waits to be accepted.
        fixed: whether its settings name regions or masks: those count, and none can be drawn.
        problem: why the store's settings are not used; else empty.
        decode, hours, group: as its settings say.
    """

    source: str
    address: str
    origin: Literal["file", "store", "both"]
    paused: bool
    problem: str = ""
    taught: float | None = None
    accepted: bool = False
    lesson: Lesson | None = None
    fixed: bool = False
    decode: str | float = ""
    hours: tuple[str, ...] = ()
    group: str = ""


class Manager:
    """Applies to a watch what file and store say together; from any thread, and through the API.

    Methods that take a source's name raise a MissingError where there is none of that name.

    Args:
        watch: not started yet, or already.
        config: of the file.
        secrets: is added to, for a log that hides them.
        teacher: is told of all events.

    Attributes:
        teacher: the same.
    """

    def __init__(
        self,
        watch: Watch,
        config: Config,
        store: Store,
        teacher: Teacher,
        secrets: set[str],
    ) -> None:
        self._watch, self._file, self._store, self.teacher = watch, config, store, teacher
        self._secrets, self._lock = secrets, threading.RLock()
        self._trying = threading.Semaphore(AT_ONCE)
        self._problems: dict[str, str] = {}
        self._sources: dict[str, SourceSettings] = {}
        self._fixed: set[str] = set()
        self._rested: set[str] = set()
        self._baselines: dict[str, Baseline] = {}
        self._apply()

    def tick(self) -> None:
        """Pause and resume what has hours; to be called every second or so."""
        with self._lock:
            resting = self._resting()
            if resting != self._rested:
                try:
                    self._apply()
                except MpftError as error:
                    self._rested = resting  # the next time that it changes
                    logger.error("sources with hours go on as they are: %s", error)

    def reload(self, config: Config) -> None:
        """Take another configuration of the file."""
        with self._lock:
            before, self._file = self._file, config
            try:
                self._apply()
            except MpftError:  # of the store
                self._file = before
                raise

    @operation("GET", "/sources/settings", role="admin")
    def sources(self) -> list[Managed]:
        """Which sources are of the file, which were added, and which are paused."""
        with self._lock:
            kept, paused = self._store.settings("source"), self._store.settings("paused")
            accepted = self._store.settings("baselines").keys()
            filed = {one.name: one for one in self._file.sources}
            tables = {name: msgspec.json.decode(table) for name, table in kept.items()}
            listed = []
            for name in dict.fromkeys([*filed, *tables]):
                one, used = filed.get(name), self._sources.get(name)
                streams = used.boxes if used is not None else {}
                said = tables[name] if one is None else msgspec.structs.asdict(one)
                taught = [self._baselines[s].time for s in streams if s in self._baselines]
                listed.append(
                    Managed(
                        source=name,
                        address=one.target.shown if one else redact(str(said.get("address"))),
                        origin="store" if one is None else "both" if name in kept else "file",
                        paused=name in paused,
                        problem=self._problems.get(name, ""),
                        taught=min(taught) if taught and len(taught) == len(streams) else None,
                        accepted=not accepted.isdisjoint(streams),
                        lesson=self.teacher.lesson(name),
                        fixed=name in self._fixed,
                        **{key: said[key] for key in SHOWN if key in said},
                    )
                )
            return listed

    def groups(self) -> dict[str, str]:
        """Of the sources that are in one."""
        return {name: one.group for name, one in self._sources.items() if one.group}

    @operation("POST", "/sources", role="admin", told="added")
    def add(self, body: Table) -> Managed:
        """Screen another source, from now on and after a restart.

        [defaults] hold for what is not said. Its settings are kept, and never told: what is shown
        of its address is free of credentials.

        Raises:
            UsageError: it cannot be; says why, free of secrets.
        """
        settings = self._checked(body)
        with self._lock:
            if settings.name in {one.source for one in self.sources()}:
                raise UsageError(f"there is a source {settings.name!r} already: remove it first")
            return self._put(settings, "source", msgspec.json.encode(body))

    @operation("POST", "/sources/test", role="admin")
    def test_new(self, body: Table, note: Note) -> Found:
        """Connect to what may become a source, for a few seconds.

        Raises:
            UsageError, InputError: it cannot be, or be read; says why, free of secrets.
        """
        address = body.get("address")
        note("tried", redact(address) if isinstance(address, str) else "")
        return self._look(self._checked({"name": "a source", **body}))

    @operation("POST", "/sources/{source}/test", role="admin")
    def test(self, source: str, note: Note) -> Found:
        """Connect to a source once more, for a few seconds; an InputError if it cannot be read."""
        note("tried", source)
        with self._lock:
            settings = self._used(source)
        return self._look(settings)

    @operation("POST", "/sources/{source}/pause", role="admin", told="paused")
    def pause(self, source: str, user: User) -> Managed:
        """Read a source no more, until it is resumed; after a restart neither."""
        by = msgspec.json.encode(f"by {user.name or 'the page'}")
        return self._change(source, lambda: self._store.set_setting(source, "paused", by))

    @operation("POST", "/sources/{source}/resume", role="admin", told="resumed")
    def resume(self, source: str) -> Managed:
        """Read a paused source again."""
        return self._change(source, lambda: self._store.set_setting(source, "paused", None))

    @operation("POST", "/sources/{source}/lesson", role="admin", told="began to teach")
    def teach(self, source: str, body: Minutes) -> Managed:
        """Teach a camera what its known-real frames look like: gather them for a while.

        This is in place of a lesson that there is. How far it is stands in /sources/settings.
        """
        with self._lock:
            self.teacher.begin(source, self._used(source).boxes, body.minutes)
            return self._managed(source)

    @operation(
        "POST", "/sources/{source}/lesson/accept", role="admin", told="accepted what was taught of"
    )
    def accept(self, source: str) -> Managed:
        """Have what a lesson taught count; it may have gone on for longer.

        Raises:
            InputError: there is nothing to accept yet.
        """
        return self._change(source, lambda: self.teacher.accept(source))

    @operation(
        "DELETE", "/sources/{source}/lesson", role="admin", told="discarded what was taught of"
    )
    def discard(self, source: str) -> Managed:
        """End a lesson, and forget what it taught."""
        return self._change(source, lambda: self.teacher.discard(source))

    @operation(
        "DELETE", "/sources/{source}/baseline", role="admin", told="took back what was taught of"
    )
    def go_back(self, source: str) -> Managed:
        """Take back what was accepted last: what was accepted before counts again.

        Raises:
            UsageError: nothing was accepted.
        """
        return self._change(source, lambda: self.teacher.go_back(self._used(source).boxes))

    @operation("PUT", "/sources/{source}/regions", role="admin", told="drew regions and masks of")
    def look_at(self, source: str, body: Areas) -> Managed:
        """Have regions of a source judged each by itself, and no masked part of it.

        This replaces those drawn before; without any the whole picture is judged. What the
        configuration file names cannot be replaced.

        Raises:
            UsageError: its settings name others, or a region is called as another source is.
        """
        with self._lock:
            if self._managed(source).fixed:
                raise UsageError(
                    f"the settings of {source!r} name its regions and masks, and they count: "
                    "change them there"
                )
            if body == Areas():  # also where what was drawn is why it is not screened
                return self._change(source, lambda: self._store.set_setting(source, "areas", None))
            areas = {"region": body.regions, "mask": body.masks}
            settings = msgspec.structs.replace(self._used(source), **areas)
            return self._put(settings, "areas", msgspec.json.encode(body))

    @operation("PATCH", "/sources/{source}", role="admin", told="changed")
    def change(self, source: str, body: Table) -> Managed:
        """Change settings of a source that was added: what is said; null takes a setting back.

        Raises:
            UsageError: it is of the file, or it cannot be; says why, free of secrets.
        """
        with self._lock:
            if self._managed(source).origin == "file":
                raise UsageError(f"{source!r} is of the configuration file: change it there")
            kept = msgspec.json.decode(self._store.settings("source")[source])
            table = {k: v for k, v in {**kept, **body}.items() if v is not None}
            settings = self._checked(table)
            if settings.name != source:
                raise UsageError("source: name: it stays; add another source")
            return self._put(settings, "source", msgspec.json.encode(table))

    # After what has a longer path: a source may be called by its address, slashes and all.
    @operation("DELETE", "/sources/{source}", role="admin", told="removed")
    def remove(self, source: str) -> None:
        """Screen a source no more that was added; its events stay, what was set of it goes.

        Raises:
            UsageError: it is of the file alone.
        """
        with self._lock:
            origin = self._managed(source).origin
            if origin == "file":
                raise UsageError(f"{source!r} is of the configuration file: remove it there")
            if origin == "both":  # the rest was set of the file's
                self._store.set_setting(source, "source", None)
            else:
                self._store.forget_settings(source)
                stay = {s for n, one in self._sources.items() if n != source for s in one.boxes}
                self.teacher.forget(source, stay)
            self._apply()

    def _change(self, name: str, change: Callable[[], None]) -> Managed:
        with self._lock:
            self._managed(name)
            try:
                change()
            except KeyError:
                raise MissingError("there is no lesson of this source") from None
            self._apply()
            return self._managed(name)

    def _look(self, settings: SourceSettings) -> Found:
        busy = f"{AT_ONCE} sources are being tried already: wait a few seconds"
        with at_most(self._trying, busy):
            return look(settings, self._watch.processes)

    def _put(self, settings: SourceSettings, key: str, value: bytes | None) -> Managed:
        """Under the lock: set what gives a source these settings; a UsageError for taken names."""
        named([*{**self._sources, settings.name: settings}.values()])
        self._store.set_setting(settings.name, key, value)
        self._apply()
        return self._managed(settings.name)

    def _managed(self, name: str) -> Managed:
        for one in self.sources():
            if one.source == name:
                return one
        raise MissingError("there is no such source")

    def _used(self, name: str) -> SourceSettings:
        """Settings that a source is screened by; a UsageError where those added cannot be used."""
        self._managed(name)
        if name not in self._sources:
            raise UsageError(f"{name!r} is not screened: {self._problems[name]}")
        return self._sources[name]

    def _checked(self, table: Mapping[str, Any]) -> SourceSettings:
        settings = read_added(table, self._file)
        self._secrets.update(settings.target.secrets)
        return settings

    def _apply(self) -> None:
        """Under the lock: have the watch do what file and store say."""
        drawn, before = self._store.settings("areas"), self._sources
        self._problems, self._fixed = {}, set()
        sources = {one.name: one for one in self._file.sources}
        for one in self._file.sources:
            try:
                looked_at = {**sources, one.name: self._with_areas(one, drawn)}
                named([*looked_at.values()])
                sources = looked_at
            except MpftError as error:  # noqa: PERF203, each by itself
                logger.error("%s: regions were drawn, but do not count: %s", one.name, error)
        for name, value in self._store.settings("source").items():
            if name in sources:
                logger.warning("%s: added on the page, but the configuration's counts", name)
                continue
            try:
                added = self._with_areas(self._checked(msgspec.json.decode(value)), drawn)
                named([*sources.values(), added])
                sources[name] = added
            except MpftError as error:
                self._problems[name] = str(error)
                logger.error("%s: added on the page, but not screened: %s", name, error)
        self._sources = sources
        self._rested = self._resting()
        paused = dict.fromkeys(self._rested, RESTS)
        for name, by in self._store.settings("paused").items():
            paused[name] = msgspec.json.decode(by)
        for name, one in sources.items():
            if name in before and one.boxes != before[name].boxes:
                with contextlib.suppress(KeyError):
                    self.teacher.discard(name)  # it would mix what two places show
        boxes = {name: box for one in sources.values() for name, box in one.boxes.items()}
        self._baselines = self.teacher.baselines(self._file.baselines, boxes)
        config = msgspec.structs.replace(
            self._file, sources=tuple(sources.values()), baselines=self._baselines, paused=paused
        )
        self._watch.reload(config)

    def _resting(self) -> set[str]:
        """Sources whose hours it is not."""
        now = time.localtime()
        sources = self._sources.items()
        return {name for name, one in sources if one.hours and not within(one.hours, now)}

    def _with_areas(self, settings: SourceSettings, drawn: Mapping[str, bytes]) -> SourceSettings:
        """A source as it is looked at: areas of its settings count, then those that were drawn."""
        name = settings.name
        if settings.areas != Areas():
            self._fixed.add(name)
            if name in drawn:
                logger.warning("%s: regions were drawn, but those of its settings count", name)
        elif name in drawn:
            areas = msgspec.json.decode(drawn[name], type=Areas)
            return msgspec.structs.replace(settings, region=areas.regions, mask=areas.masks)
        return settings
