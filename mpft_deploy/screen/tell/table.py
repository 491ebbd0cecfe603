"""What the tables of a configuration file have in common: limits, checks, secrets."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, printable, read_small
from mpft_deploy.screen.streams.address import redact_text
from mpft_deploy.screen.streams.hours import are_hours
from mpft_deploy.spec import Record, StreamVerdict

Text = Annotated[str, Meta(min_length=1)]
Days = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1024**2)]
Clients = Annotated[int, Meta(ge=2, le=1000)]

Worth = StreamVerdict | Literal["drift", "down", "live"]
EventClass = Literal["no sign", "generated", "unsure", "source"]
"""Of what is kept: changes to a stream's verdict, and of a source's state."""

MIN_TOKEN = 16
"""Characters that a dashboard token has at least."""

SECRET_KEYS = frozenset({"secret", "token", "url", "urls"})
"""Keys whose values never show in a repr; a webhook's address may carry a token."""


class Table(Record, frozen=True):
    """Base of a table; its repr keeps secrets to itself."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'<secret>' if name in SECRET_KEYS and value else repr(value)}"
            for name, value in ((name, getattr(self, name)) for name in self.__struct_fields__)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Limits(Table, frozen=True, kw_only=True):
    """How much is kept.

    Attributes:
        max_bytes: in all; the oldest go first.
        max_age_days: for how long.
        days: the same for single classes.
    """

    max_bytes: Bytes
    max_age_days: Days
    days: dict[EventClass, Days] = msgspec.field(default_factory=dict)

    def days_of(self, kind: EventClass) -> float:
        """For how long what is of a class is kept."""
        return self.days.get(kind, self.max_age_days)


class KeptLimits(Limits, frozen=True, kw_only=True):
    """Of files that are kept of verdicts.

    Attributes:
        folder: that they are in.
        when: stream verdicts of which one is kept.
    """

    folder: Text
    when: Annotated[tuple[StreamVerdict, ...], Meta(min_length=1)] = ("generated",)


class Alerts(Table, frozen=True, kw_only=True):
    """When people are told, and how often.

    Attributes:
        when: verdicts of streams, cameras' drift, or states of sources, that are worth it.
        interval: seconds between two notifications of one source, at least.
        per_hour: notifications of one address or device, at most.
        quiet: local time in which nobody is told, such as "22:00-07:00"; see `hours`.
    """

    when: Annotated[tuple[Worth, ...], Meta(min_length=1)] = ("generated",)
    interval: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    per_hour: Annotated[int, Meta(ge=1, le=1000)] = 20
    quiet: str = ""

    def __post_init__(self) -> None:
        good = not self.quiet or are_hours(self.quiet)
        wanted = 'write from when to when, for example "22:00-07:00"'
        check(type(self).__name__.lower(), "quiet", good, wanted)


class Served(Table, frozen=True, kw_only=True):
    """Something that listens at HOST:PORT."""

    address: str

    def bind(self) -> tuple[str, int]:
        """Host and port; a UsageError unless it is HOST:PORT."""
        host, colon, port = self.address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        good = colon == ":" and bool(host) and port.isascii() and port.isdecimal()
        table = type(self).__name__.lower()
        check(table, "address", good, "write HOST:PORT, for example 127.0.0.1:8088")
        check(table, "address", int(port) <= 65535, "the port must be 0 to 65535")
        return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_network(text: str) -> bool:
    """Whether a text is an IP address or network, or empty."""
    try:
        return not text or bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def read_secret(table: str, key: str, value: str, file: str) -> str:
    """The first of `read_secrets`; "" for none."""
    return (read_secrets(table, key, value, file) or [""])[0]


def read_secrets(table: str, key: str, value: str, file: str) -> list[str]:
    """A secret given directly, or the lines of a file.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if not file:
        return [value] if value else []
    try:
        text = read_small(Path(file), f"[{table}] {key}_file:").decode()
    except UnicodeDecodeError:
        raise InputError(f"[{table}] {key}_file: {display(file)} is not UTF-8 text") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"[{table}] {key}_file: {display(file)} is empty; write the {key} into it")
    return lines


def names_host(text: str) -> bool:
    """Whether a text can be the name of a host."""
    try:
        plain = ":" not in text or bool(ipaddress.ip_address(text))  # no port behind it
        return plain and bool(text.encode("idna")) and not set(text) & set("/ \t\r\n\0")
    except ValueError:
        return False


def is_web_address(url: str, *, plain: bool = False) -> bool:
    """Whether a text is http or https and a host; plain: without user and password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and names_host(parts.hostname or "")
        _ = parts.port
    except ValueError:
        return False
    return good and (not plain or re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", parts.netloc) is not None)


def check(table: str, key: str, good: bool, wanted: str) -> None:
    """A UsageError that names table and key, unless it is good."""
    if not good:
        raise UsageError(f"[{table}] {key}: {wanted}")


def check_token(table: str, token: str, file: str) -> None:
    """A UsageError for one that can be guessed."""
    check_one_secret(table, "token", token, file)
    long = not token or len(token) >= MIN_TOKEN
    check(table, "token", long, f"must have at least {MIN_TOKEN} characters")


def check_one_secret(table: str, key: str, value: str, file: str) -> None:
    """A UsageError for a secret that is given twice."""
    check(table, key, not (value and file), f"give {key} or {key}_file, not both")


def read_table(value: object, kind: Any, where: str) -> Any:
    """A table as its record; a UsageError, free of secrets, that says where what is wrong.

    Args:
        where: the table stands, as "[http]".
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
    place = path.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
    if found := re.search(r"(?s)(unknown|missing required) field `(.*?)`", reason):
        for part in re.findall(r"[a-z]\w*", place):
            kind = table_in(get_type_hints(kind)[part])
        known = kind.__struct_fields__
        reason = f"no such key{meant(found[2], known)}" if found[1] == "unknown" else "is missing"
        place = ".".join(filter(None, (place, found[2])))
    whole = f"{where} {place}".rstrip(" :")
    raise UsageError(redact_text(f"{printable(whole)}: {printable(reason)}"))


def meant(name: str, known: Sequence[str]) -> str:
    """What may be there instead of what is not known, for the end of a message."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def table_in(kind: Any) -> type[Record] | None:
    """The table in a type such as `Http | None` or `tuple[User, ...]`."""
    if parts := get_args(kind):
        return next(filter(None, map(table_in, parts)), None)
    return kind if isinstance(kind, type) and issubclass(kind, Record) else None
