"""Reading cameras.toml: every mistake is told with file, place and what is wrong there."""

from __future__ import annotations

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
from mpft_deploy.screen.tell.table import meant, read_table
from mpft_deploy.spec import Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same, for Python 3.10

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")


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
        config = _read(tables, environment)
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply") from None
    except UsageError as error:
        raise InputError(redact_text(f"{where}: {error}")) from None
    tell = config.tell
    if not tell.store.path:
        store = msgspec.structs.replace(tell.store, path=str(store_path(path)))
        tell = msgspec.structs.replace(tell, store=store)
    baselines = read_baselines(baselines_path(path))
    return msgspec.structs.replace(config, tell=tell, baselines=baselines, file=where)


def _read(tables: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """What a file's tables say; a UsageError names what is wrong there."""
    allowed = ("source", "defaults", "screen", "decision", *TABLES)
    for name in tables:
        if name not in allowed:
            raise UsageError(f"{printable(name)}: no such table{meant(name, allowed)}")
    sources = tables.get("source", [])
    defaults = tables.get("defaults", {})
    if not isinstance(sources, list) or not isinstance(defaults, dict):
        raise UsageError("write each source as a table headed [[source]]")
    if not sources and "http" not in tables:
        raise UsageError(
            "it names no source: add a table headed [[source]], or [http] to add them on the page"
        )
    for name in ("address", "name"):
        if name in defaults:
            raise UsageError(f"defaults.{name}: belongs to a [[source]], not to all")
    defaults = _expanded(defaults, "defaults", environment)
    given = []
    for number, entry in enumerate(sources, 1):
        place = f"source {number}"
        if not isinstance(entry, dict):
            raise UsageError(f"{place}: expected a table headed [[source]]")
        place += f" ({printable(str(entry['name']))})" if entry.get("name") else ""
        given.append(read_source(_expanded(entry, place, environment), place, defaults))
    of = {
        name: _expanded(tables[name], f"[{name}]", environment)
        for name in ("screen", "decision", *TABLES)
        if name in tables
    }
    return Config(
        sources=named(given),
        defaults=defaults,
        screen=read_table(of.pop("screen", {}), ScreenSettings, "[screen]"),
        decision=read_table(of.pop("decision", {}), DecisionSettings, "[decision]"),
        tell=parse_tables(of),
    )


def named(sources: Sequence[SourceSettings]) -> tuple[SourceSettings, ...]:
    """The sources with a name each: the given one, or the address without its secrets.

    Raises:
        UsageError: two have the same name, or a source and a region.
    """
    taken: set[str] = set()
    for source in sources:
        if source.name and source.name in taken:
            raise UsageError(f"two sources are called {source.name!r}: give each its own name")
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
                raise UsageError(f"a source and a region are both called {stream!r}")
    return tuple(result)


def short_name(address: str) -> str:
    """What a source is called if nobody names it."""
    target = parse(address)
    bare = target.shown.partition("://")[2].replace(f"{HIDDEN}@", "")
    return bare if bare and (target.network or target.scheme == "file") else target.shown


def read_source(
    table: Mapping[str, Any], where: str, defaults: Mapping[str, Any]
) -> SourceSettings:
    """A source by its table; a UsageError that names what is wrong there."""
    given = {**defaults, **table}
    if str(table.get("address")).partition(":")[0].lower() not in TLS and "ca_file" not in table:
        given.pop("ca_file", None)  # of [defaults] it is for those that show a certificate
    settings: SourceSettings = read_table(given, SourceSettings, f"{where}:")
    try:
        _ = settings.target
    except UsageError as error:
        raise UsageError(f"{where}: address: {error}") from None
    if settings.ca_file:
        from mpft_deploy.screen.streams.tls import trusting

        trusting(settings.ca_file, f"{where}: ca_file")
    return settings


def source_settings(address: str, **settings: object) -> SourceSettings:
    """A source's settings, checked; a UsageError that names what is wrong."""
    return read_source({"address": address, **settings}, "source settings", {})


def _expanded(value: Any, where: str, environment: Mapping[str, str]) -> Any:
    """With the environment's values in place of ${NAME}, in every text of a table."""
    if isinstance(value, dict):
        return {key: _expanded(item, where, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where, environment) for item in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:  # which no name of a file can hold
        raise UsageError(f"{where}: {printable(value)}: a text holds a NUL; leave it out")

    def variable(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise UsageError(f"{where}: ${{{found[1]}}}: no such variable in the environment")
        return environment[found[1]]

    return _VARIABLE.sub(variable, value)
