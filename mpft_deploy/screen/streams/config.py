"""Reading cameras.toml: every mistake is told with file, place and what is wrong there."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, printable, read_small
from mpft_deploy.screen.streams.address import HIDDEN, TLS, parse, redact_text
from mpft_deploy.screen.streams.baseline import Baseline, baselines_path, read_baselines
from mpft_deploy.screen.streams.settings import DecisionSettings, ScreenSettings, SourceSettings
from mpft_deploy.screen.tell.config import TABLES, TellConfig, parse_tables, store_path
from mpft_deploy.spec import Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same, for Python 3.10

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_UNKNOWN = re.compile(r"(?s)unknown field `(.*?)`")


class Config(Record, frozen=True):
    """A whole configuration.

    Attributes:
        sources: with unique names, in order.
        tell: whom to tell of events, and where to show them.
        baselines: what cameras were taught, by the name of their source; of a file beside this one.
        defaults: keys that hold for every source which says nothing else.
        paused: why a source is not read, by its name.
        file: that it was read from, as it is shown; "" for none.
    """

    sources: tuple[SourceSettings, ...]
    screen: ScreenSettings = ScreenSettings()
    decision: DecisionSettings = DecisionSettings()
    tell: TellConfig = TellConfig()
    baselines: dict[str, Baseline] = msgspec.field(default_factory=dict)
    defaults: dict[str, Any] = msgspec.field(default_factory=dict)
    paused: dict[str, str] = msgspec.field(default_factory=dict)
    file: str = ""


def read_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a cameras.toml.

    Raises:
        InputError: it cannot be read or is not valid; the message says where.
    """
    where = display(path)
    try:
        tables = tomllib.loads(read_small(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply") from None
    allowed = ("source", "defaults", "screen", "decision", *TABLES)
    for name in tables:
        if name not in allowed:
            raise InputError(f"{where}: {printable(name)}: no such table{_meant(name, allowed)}")
    sources = tables.get("source", [])
    defaults = tables.get("defaults", {})
    if not isinstance(sources, list) or not isinstance(defaults, dict):
        raise InputError(f"{where}: write each source as a table headed [[source]]")
    if not sources and "http" not in tables:
        raise InputError(
            f"{where}: it names no source: add a table headed [[source]], or [http] to add them "
            "on the page"
        )
    for name in ("address", "name"):
        if name in defaults:
            raise InputError(f"{where}: defaults.{name}: belongs to a [[source]], not to all")
    defaults = _expanded(defaults, f"{where}: defaults", environment)
    given = []
    for number, entry in enumerate(sources, 1):
        place = f"{where}: source {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: expected a table headed [[source]]")
        place += f" ({printable(str(entry['name']))})" if entry.get("name") else ""
        given.append(read_source(_expanded(entry, place, environment), place, defaults))
    screen, decision = (
        _expanded(tables.get(name, {}), f"{where}: {name}", environment)
        for name in ("screen", "decision")
    )
    return Config(
        sources=named(given, where),
        defaults=defaults,
        screen=_table(screen, ScreenSettings, f"{where}: screen"),
        decision=_table(decision, DecisionSettings, f"{where}: decision"),
        tell=_tell(tables, path, environment),
        baselines=read_baselines(baselines_path(path)),
        file=where,
    )


def named(sources: Sequence[SourceSettings], where: str) -> tuple[SourceSettings, ...]:
    """The sources with a name each: the given one, or the address without its secrets."""
    taken: set[str] = set()
    for source in sources:
        if source.name and source.name in taken:
            raise InputError(
                f"{where}: two sources are called {source.name!r}: give each its own name"
            )
        taken.add(source.name)
    result = []
    for source in sources:
        name = base = source.name or short_name(source.address)
        number = 2
        while not source.name and name in taken:
            name, number = f"{base} {number}", number + 1
        taken.add(name)
        result.append(msgspec.structs.replace(source, name=name))
    for source in result:
        for stream in source.boxes:
            if source.region and stream in taken:
                raise InputError(f"{where}: a source and a region are both called {stream!r}")
    return tuple(result)


def short_name(address: str) -> str:
    """What a source is called if nobody names it."""
    target = parse(address)
    bare = target.shown.partition("://")[2].replace(f"{HIDDEN}@", "")
    return bare if bare and (target.network or target.scheme == "file") else target.shown


def read_source(
    table: Mapping[str, Any], where: str, defaults: Mapping[str, Any]
) -> SourceSettings:
    """A source by its table; an InputError that names what is wrong there."""
    given = {**defaults, **table}
    if str(table.get("address")).partition(":")[0].lower() not in TLS and "ca_file" not in table:
        given.pop("ca_file", None)  # of [defaults] it is for those that show a certificate
    settings: SourceSettings = _table(given, SourceSettings, where)
    try:
        _ = settings.target
    except UsageError as error:
        raise InputError(f"{where}: address: {error}") from None
    if settings.ca_file:
        from mpft_deploy.screen.streams.tls import trusting

        trusting(settings.ca_file, f"{where}: ca_file")
    return settings


def _tell(tables: Mapping[str, Any], path: Path, environment: Mapping[str, str]) -> TellConfig:
    where = display(path)
    given = {
        name: _expanded(tables[name], f"{where}: [{name}]", environment)
        for name in TABLES
        if name in tables
    }
    try:
        tell = parse_tables(given)
    except UsageError as error:
        raise InputError(f"{where}: {error}") from None
    if tell.store.path:
        return tell
    store = msgspec.structs.replace(tell.store, path=str(store_path(path)))
    return msgspec.structs.replace(tell, store=store)


def _table(value: Any, kind: type[Any], where: str) -> Any:
    """Convert a table to its record."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # "… - at `$.decode`": the place first, as in every other message here.
        reason, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".")
        if found := _UNKNOWN.search(reason):
            fields = [field.name for field in msgspec.structs.fields(kind)]
            reason = f"no such key{_meant(found[1], fields)}"
            place = printable(found[1])
        raise InputError(redact_text(f"{where}: {place}: {reason}".replace(": :", ":"))) from None


def _expanded(value: Any, where: str, environment: Mapping[str, str]) -> Any:
    """With the environment's values in place of ${NAME}, in every text of a table."""
    if isinstance(value, dict):
        return {key: _expanded(item, where, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where, environment) for item in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:  # which no name of a file can hold
        raise InputError(f"{where}: {printable(value)}: a text holds a NUL; leave it out")

    def variable(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise InputError(f"{where}: ${{{found[1]}}}: no such variable in the environment")
        return environment[found[1]]

    return _VARIABLE.sub(variable, value)


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
