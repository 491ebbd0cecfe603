"""Sources that somebody elsewhere names: what of a [[source]] may come by page and API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.address import PORTS, parse
from mpft_deploy.screen.streams.config import Config, read_source
from mpft_deploy.screen.streams.settings import SourceSettings

LONGEST_NAME = 100

LONGEST_ADDRESS = 2000

_, _COMPONENTS = msgspec.json.schema_components([SourceSettings])

Table: TypeAlias = Annotated[
    dict[str, Any], msgspec.Meta(extra_json_schema=_COMPONENTS["SourceSettings"])
]
"""A [[source]] of cameras.toml."""


def read_added(table: Mapping[str, Any], config: Config) -> SourceSettings:
    """Settings of a source; [defaults] of the file hold for what they do not say.

    Nothing of the environment is put in, no program is run, and no file or device is read, unless
    [http] allows its kind.

    Raises:
        UsageError: it cannot be; says why, free of secrets.
    """
    http, address = config.tell.http, table.get("address")
    allowed = (*PORTS, *(http.local_sources if http is not None else ()))
    if isinstance(address, str) and (scheme := parse(address).scheme) not in allowed:
        raise UsageError(
            f"source: address: {scheme}: may stand in the configuration file alone; here are "
            + ", ".join(allowed)
        )
    if "ca_file" in table:
        raise UsageError("source: ca_file: may stand in the configuration file alone")
    settings = read_source(table, "source", config.defaults)
    name = settings.name
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise UsageError("source: name: give it one of printable characters")
    if name in (".", "..") or len(name) > LONGEST_NAME:
        raise UsageError(f"source: name: choose another, of {LONGEST_NAME} characters at most")
    if len(settings.address) > LONGEST_ADDRESS:
        raise UsageError(f"source: address: {LONGEST_ADDRESS} characters are the most")
    return settings
