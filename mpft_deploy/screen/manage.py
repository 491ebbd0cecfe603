"""Sources of the configuration file and those that were added while it runs, as one configuration.

What is added, and which sources are paused, is kept in the store. Where the file and the store name
a source alike, the file's settings count, and the log and the page say so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from mpft_deploy.errors import MpftError, UsageError
from mpft_deploy.screen.streams.address import PORTS, parse, redact
from mpft_deploy.screen.streams.areas import Areas
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.config import Config, named, read_source
from mpft_deploy.screen.streams.doctor import Found, look
from mpft_deploy.screen.streams.settings import SourceSettings
from mpft_deploy.screen.streams.watch import Watch
from mpft_deploy.screen.teach import Lesson, Teacher
from mpft_deploy.screen.tell.store import Store

logger = logging.getLogger(__name__)

LONGEST_NAME = 100

LONGEST_ADDRESS = 2000

AT_ONCE = 2
"""Sources that are tried at a time."""


Origin = Literal["file", "store", "both"]


class Managed(msgspec.Struct, frozen=True):
    """What is set of a source.

    Attributes:
        address: without credentials.
        origin: who names it; "both": the file's settings count, and the store's wait.
        paused: whether it is, and not only for the moment.
        taught: when what counts of all its streams was learnt, seconds since the Unix epoch.
        kept: how often it was taught here, of what is kept; the last can be taken back.
        lesson: that is under way, or waits to be accepted.
        fixed: whether its settings name regions or masks: those count, and none can be drawn.
        problem: why the store's settings are not used; else empty.
    """

    source: str
    address: str
    origin: Origin
    paused: bool
    problem: str = ""
    taught: float | None = None
    kept: int = 0
    lesson: Lesson | None = None
    fixed: bool = False


class Manager:
    """Applies to a watch what file and store say together; from any thread.

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
        secrets: set[str] | None = None,
    ) -> None:
        self._watch, self._file, self._store, self.teacher = watch, config, store, teacher
        self._secrets = set() if secrets is None else secrets
        self._lock, self._trying = threading.RLock(), threading.Semaphore(AT_ONCE)
        self._problems: dict[str, str] = {}
        self._sources: tuple[SourceSettings, ...] = ()
        self._fixed: set[str] = set()
        self._baselines: dict[str, Baseline] = {}
        self._streams: dict[str, list[str]] = {}
        self._apply()

    def reload(self, config: Config) -> None:
        """Take another configuration of the file."""
        with self._lock:
            self._file = config
            self._apply()

    def sources(self) -> list[Managed]:
        """Those of the file, in its order, and then those of the store."""
        with self._lock:
            kept, paused = self._store.settings("source"), self._store.settings("paused")
            filed = {one.name: one.target.shown for one in self._file.sources}
            added = {
                name: redact(str(msgspec.json.decode(value).get("address")))
                for name, value in kept.items()
                if name not in filed
            }
            listed = []
            for name, address in {**filed, **added}.items():
                streams = self._streams.get(name, [])
                taught = [self._baselines[one].time for one in streams if one in self._baselines]
                origin: Origin = "store" if name in added else "both" if name in kept else "file"
                listed.append(
                    Managed(
                        source=name,
                        address=address,
                        origin=origin,
                        paused=name in paused,
                        problem=self._problems.get(name, ""),
                        taught=min(taught) if taught and len(taught) == len(streams) else None,
                        kept=max((len(self.teacher.history(one)) for one in streams), default=0),
                        lesson=self.teacher.lesson(name),
                        fixed=name in self._fixed,
                    )
                )
            return listed

    def add(self, table: Mapping[str, Any]) -> Managed:
        """Screen another source, from now on and after a restart.

        Args:
            table: as a [[source]] of cameras.toml; [defaults] hold for what it does not say.

        Raises:
            UsageError, InputError: it cannot be; says why, free of secrets.
        """
        settings = self._checked(table)
        with self._lock:
            if settings.name in {one.source for one in self.sources()}:
                raise UsageError(f"there is a source {settings.name!r} already: remove it first")
            named([*self._sources, settings], "source")
            self._store.set_setting(settings.name, "source", msgspec.json.encode(table))
            self._apply()
            return self._managed(settings.name)

    def remove(self, name: str) -> None:
        """Screen an added source no more, and forget what was set of it.

        Raises:
            KeyError: there is no such source.
            UsageError: it is of the file alone.
        """
        with self._lock:
            origin = self._managed(name).origin
            if origin == "file":
                raise UsageError(f"{name!r} is of the configuration file: remove it there")
            if origin == "both":  # the rest was set of the file's
                self._store.set_setting(name, "source", None)
            else:
                self._store.forget_settings(name)
            self._apply()

    def pause(self, name: str, by: str) -> Managed:
        """Read a source no more until it is resumed, after a restart either; a KeyError for none.

        Args:
            by: whom the state names.
        """
        return self._set_paused(name, msgspec.json.encode(f"by {by}"))

    def resume(self, name: str) -> Managed:
        """Read a paused source again; a KeyError for an unknown one."""
        return self._set_paused(name, None)

    def look_at(self, name: str, areas: Areas) -> Managed:
        """Look at regions of a source that were drawn, and at no masked part, after a restart too.

        Raises:
            KeyError: there is no such source.
            UsageError: its settings name others.
            InputError: a region is called as another source is.
        """
        with self._lock:
            if self._managed(name).fixed:
                raise UsageError(
                    f"the settings of {name!r} name its regions and masks, and they count: change "
                    "them there"
                )
            named([_looking_at(s, areas) if s.name == name else s for s in self._sources], "source")
            drawn = None if areas == Areas() else msgspec.json.encode(areas)
            self._store.set_setting(name, "areas", drawn)
            self._apply()
            return self._managed(name)

    def teach(self, name: str, minutes: float) -> Managed:
        """Begin a lesson of a source, in place of one that there is; a KeyError for no source."""
        with self._lock:
            self._managed(name)
            self.teacher.begin(name, self._streams[name], minutes)
            return self._managed(name)

    def learn(self, name: str, change: Callable[[str], None]) -> Managed:
        """Have a method of the teacher accept or discard a lesson, and what that makes count.

        Raises:
            KeyError: there is no such source, or no lesson of it.
            InputError: there is nothing to accept yet.
        """
        with self._lock:
            self._managed(name)
            change(name)
            self._apply()
            return self._managed(name)

    def go_back(self, name: str) -> Managed:
        """Take back what a source was taught last; a KeyError for no source, or a UsageError."""
        return self.learn(name, lambda name: self.teacher.go_back(self._streams[name]))

    def test(self, source: str | Mapping[str, Any]) -> Found:
        """Connect to a source for a few seconds, and say what is there.

        Args:
            source: name of one that there is, or a table as for `add`.

        Raises:
            KeyError: there is none of that name.
            UsageError, InputError: it is none, or cannot be read; says why, free of secrets.
        """
        if not isinstance(source, str):
            settings = self._checked({"name": "a source", **source})
        else:
            with self._lock:
                settings = {one.name: one for one in self._sources}[source]
        if not self._trying.acquire(blocking=False):
            raise UsageError(f"{AT_ONCE} sources are being tried already: wait a few seconds")
        try:
            return look(settings)
        finally:
            self._trying.release()

    def _set_paused(self, name: str, value: bytes | None) -> Managed:
        with self._lock:
            self._managed(name)
            self._store.set_setting(name, "paused", value)
            self._apply()
            return self._managed(name)

    def _managed(self, name: str) -> Managed:
        found = {one.source: one for one in self.sources()}
        return found[name]

    def _checked(self, table: Mapping[str, Any]) -> SourceSettings:
        """Settings of a source that somebody elsewhere names.

        Nothing of the environment is put in, no program is run, and no file or device is read,
        unless [http] allows its kind.
        """
        http, address = self._file.tell.http, table.get("address")
        allowed = (*PORTS, *(http.local_sources if http is not None else ()))
        if isinstance(address, str) and (scheme := parse(address).scheme) not in allowed:
            raise UsageError(
                f"source: address: {scheme}: may stand in the configuration file alone; here are "
                + ", ".join(allowed)
            )
        settings = read_source({**self._file.defaults, **table}, "source")
        self._secrets.update(settings.target.secrets)
        name = settings.name
        if not name.strip() or name != name.strip() or not name.isprintable():
            raise UsageError("source: name: give it one of printable characters")
        if name in (".", "..") or len(name) > LONGEST_NAME:
            raise UsageError(f"source: name: choose another, of {LONGEST_NAME} characters at most")
        if len(settings.address) > LONGEST_ADDRESS:
            raise UsageError(f"source: address: {LONGEST_ADDRESS} characters are the most")
        return settings

    def _apply(self) -> None:
        """Under the lock: have the watch do what file and store say."""
        names = {one.name for one in self._file.sources}
        drawn = self._store.settings("areas")
        self._problems, self._fixed = {}, set()
        self._sources = tuple(self._with_areas(one, drawn) for one in self._file.sources)
        for name, value in self._store.settings("source").items():
            if name in names:
                logger.warning("%s: added on the page, but the configuration's counts", name)
                continue
            try:
                added = self._with_areas(self._checked(msgspec.json.decode(value)), drawn)
                self._sources = named([*self._sources, added], "source")
            except MpftError as error:
                self._problems[name] = str(error)
                logger.error("%s: added on the page, but not screened: %s", name, error)
        paused = self._store.settings("paused")
        self._streams = {one.name: one.streams for one in self._sources}
        self._baselines = self.teacher.baselines(self._file.baselines)
        self._watch.reload(
            msgspec.structs.replace(
                self._file,
                sources=self._sources,
                baselines=self._baselines,
                paused={name: msgspec.json.decode(by) for name, by in paused.items()},
            )
        )

    def _with_areas(self, settings: SourceSettings, drawn: Mapping[str, bytes]) -> SourceSettings:
        """A source as it is looked at: areas of its settings count, then those that were drawn."""
        name = settings.name
        if settings.areas != Areas():
            self._fixed.add(name)
            if name in drawn:
                logger.warning("%s: regions were drawn, but those of its settings count", name)
        elif name in drawn:
            return _looking_at(settings, msgspec.json.decode(drawn[name], type=Areas))
        return settings


def _looking_at(settings: SourceSettings, areas: Areas) -> SourceSettings:
    return msgspec.structs.replace(settings, region=areas.regions, mask=areas.masks)
