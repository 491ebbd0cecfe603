"""The tables of a configuration file: whom to tell, and what is kept; errors name table and key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_type_hints
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from mpft_deploy.errors import UsageError
from mpft_deploy.files import printable
from mpft_deploy.screen.tell.table import (
    MIN_TOKEN,
    Alerts,
    Bytes,
    Clients,
    Days,
    KeptLimits,
    Limits,
    Served,
    Table,
    Text,
    check,
    check_one_secret,
    check_token,
    is_loopback,
    is_network,
    is_web_address,
    names_host,
    read_secret,
    read_secrets,
    read_table,
    table_in,
)
from mpft_deploy.spec import Record

EventName = Literal["frame", "stream", "source"]
Role = Literal["viewer", "reviewer", "admin"]
Span = Annotated[float, Meta(ge=0, le=300)]


class Storage(Limits, frozen=True, kw_only=True):
    """`[store]`: the file of events, reviews and deliveries that wait.

    Attributes:
        path: "" for a file beside the configuration, or in systemd's folder for the service.
    """

    path: str = ""
    max_bytes: Bytes = 256 * 1024**2
    max_age_days: Days = 90.0


class Snapshots(KeptLimits, frozen=True, kw_only=True):
    """`[snapshots]`: JPEG files of the frames that decided."""

    max_bytes: Bytes = 1024**3
    max_age_days: Days = 30.0


class Evidence(KeptLimits, frozen=True, kw_only=True):
    """`[evidence]`: packages of video, judged pixels and logits around verdicts.

    Attributes:
        before, after: seconds of a package around its verdict.
        memory: bytes of coded video that are kept of a source meanwhile, and as many of judged
            pixels, at most.
        key_file: a private key that packages are signed with (extra `sign`); "" for none.
    """

    before: Span = 10.0
    after: Span = 5.0
    memory: Bytes = 32 * 1024**2
    max_bytes: Bytes = 4 * 1024**3
    max_age_days: Days = 90.0
    key_file: str = ""


class Notify(Alerts, frozen=True, kw_only=True):
    """`[notify]`: people, by Apprise's services (extra `notify`).

    Attributes:
        urls, urls_file: Apprise's addresses, which hold secrets, or a file with one a line.
        picture: whether the snapshot comes along, where `[snapshots]` keeps one.
    """

    urls: tuple[str, ...] = ()
    urls_file: str = ""
    picture: bool = True

    def __post_init__(self) -> None:
        check("notify", "urls", bool(self.urls) != bool(self.urls_file), "give urls or urls_file")
        super().__post_init__()

    def addresses(self) -> list[str]:
        """Apprise's addresses. An InputError if their file cannot be read."""
        return list(self.urls) or read_secrets("notify", "urls", "", self.urls_file)


class Push(Alerts, frozen=True, kw_only=True):
    """`[push]`: browsers of whoever asked for it on the page (extra `push`).

    Attributes:
        contact: whom a push service may ask about what it is sent; it is told with each message.
        local: whether devices may be reached by services in local networks, too, and on this
            machine without TLS.
    """

    contact: str
    local: bool = False

    def __post_init__(self) -> None:
        mail = re.fullmatch(r"mailto:[^\s@]+@[^\s@]+\.[^\s@]+", self.contact) is not None
        page = self.contact.startswith("https://") and is_web_address(self.contact, plain=True)
        check("push", "contact", mail or page, "write mailto: and an address, or an https:// page")
        super().__post_init__()


class Webhook(Table, frozen=True):
    """`[webhook]`: where events are posted (extra `webhook`).

    Attributes:
        url: http or https.
        secret, secret_file: the signing key itself, or a file that holds it, or several while
            one is changed; neither for none.
        timeout: seconds that one delivery may take.
    """

    url: str
    secret: str = ""
    secret_file: str = ""
    timeout: Annotated[float, Meta(gt=0, le=300)] = 10.0

    def __post_init__(self) -> None:
        wanted = "write http:// or https:// and a host"
        check("webhook", "url", is_web_address(self.url), wanted)
        check_one_secret("webhook", "secret", self.secret, self.secret_file)


class Mqtt(Table, frozen=True):
    """`[mqtt]`: the broker that gets states and events (extra `mqtt`).

    Attributes:
        port: 0 for 1883, or 8883 with `tls`.
        user, password_file: both or neither.
        prefix: first part of the topics.
        discovery_prefix: of Home Assistant's discovery messages; "" for none.
        tls, ca_file: encrypt; trust this authority instead of the system's.
        interval: seconds between two states of a source whose verdict stays.
    """

    host: str
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    user: str = ""
    password_file: str = ""
    prefix: str = "mpft"
    discovery_prefix: str = "homeassistant"
    tls: bool = False
    ca_file: str = ""
    interval: Annotated[float, Meta(ge=0, le=3600)] = 10.0

    def __post_init__(self) -> None:
        check("mqtt", "host", names_host(self.host), "name a host alone; port has a key")
        check("mqtt", "user", bool(self.user) or not self.password_file, "is missing")
        for key, topic in (("prefix", self.prefix), ("discovery_prefix", self.discovery_prefix)):
            empty = topic == "" and key == "discovery_prefix"
            good = empty or re.fullmatch(r"[^+#\0/$][^+#\0]{0,999}(?<!/)", topic) is not None
            wanted = "write a topic without wildcards, such as mpft or home/mpft"
            check("mqtt", key, good, f"{wanted}, of 1000 characters at most")
        check("mqtt", "ca_file", self.tls or not self.ca_file, "needs tls = true")


class Jsonl(Table, frozen=True):
    """`[jsonl]`: events as JSON lines.

    Attributes:
        path: a file, or "-" for standard output.
        max_bytes, keep: a larger file becomes PATH.1, and so on up to PATH.keep.
    """

    path: Text = "-"
    events: Annotated[tuple[EventName, ...], Meta(min_length=1)] = ("frame", "stream", "source")
    max_bytes: Annotated[int, Meta(ge=4096)] = 64 * 1024 * 1024
    keep: Annotated[int, Meta(ge=0, le=1000)] = 3


class User(Table, frozen=True):
    """`[[http.users]]`: somebody with a token of their own.

    Attributes:
        name: by which reviews are signed.
        role: viewers only look, reviewers review.
        token, token_file: one of them, at least 16 characters; neither where a proxy names users.
    """

    name: str
    role: Role = "reviewer"
    token: str = ""
    token_file: str = ""

    def __post_init__(self) -> None:
        check("http.users", "name", bool(self.name.strip()), "write who it is")
        check_token("http.users", self.token, self.token_file)


class Node(Table, frozen=True):
    """`[[http.nodes]]`: another `mpft screen`, whose sources this page shows too.

    Attributes:
        url: of its page.
        token, token_file: of a user there, a viewer is enough; neither where it asks for none.
    """

    name: str
    url: str
    token: str = ""
    token_file: str = ""

    def __post_init__(self) -> None:
        check("http.nodes", "name", bool(self.name.strip()), "write what it is called")
        wanted = "write http:// or https:// and a host, without user and password"
        check("http.nodes", "url", is_web_address(self.url, plain=True), wanted)
        check_token("http.nodes", self.token, self.token_file)


class Http(Served, frozen=True):
    """`[http]`: dashboard and metrics (extra `dashboard`).

    Attributes:
        address: HOST:PORT, port 0 for any free one; needs a token unless it is a loopback address.
        token, token_file: what a visitor must show, at least 16 characters; its role is admin.
        users: with tokens of their own.
        hosts: names the page may be asked for by, besides localhost and plain IP addresses.
        clients: connections at a time; further ones are told to come back.
        local_sources: kinds of addresses that the page may add besides those of a network. "gst"
            runs what a pipeline says, and "file" reads what the service may read.
        trusted_proxy: address or network of a reverse proxy that says who its visitors are.
        user_header: by which it says so, such as "X-Forwarded-User"; users that have no role here
            are viewers.
        nodes: others whose sources are shown, too (extra `webhook`).
    """

    address: str = "127.0.0.1:8088"
    token: str = ""
    token_file: str = ""
    users: tuple[User, ...] = ()
    hosts: tuple[str, ...] = ()
    clients: Clients = 64
    local_sources: tuple[Literal["file", "v4l2", "csi", "gst"], ...] = ()
    trusted_proxy: str = ""
    user_header: str = ""
    nodes: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        host, _ = self.bind()
        check_token("http", self.token, self.token_file)
        check(
            "http",
            "trusted_proxy",
            is_network(self.trusted_proxy),
            "write an IP address or a network",
        )
        named = bool(self.trusted_proxy) or not self.user_header
        check("http", "trusted_proxy", named, "is missing: who may send user_header?")
        header = re.fullmatch(r"[A-Za-z0-9-]*", self.user_header, re.ASCII) is not None
        check("http", "user_header", header, "write a header's name, such as X-Forwarded-User")
        own = all(user.token or user.token_file for user in self.users)
        check("http.users", "token_file", own or bool(self.user_header), "is missing")
        asked = self.token or self.token_file or self.users or self.user_header
        if not asked and not is_loopback(host):
            raise UsageError(
                f"[http] address: {printable(self.address)} can be reached from other machines, so "
                "it needs a token: set [http] token_file, or use 127.0.0.1"
            )
        names = {node.name for node in self.nodes}
        check("http.nodes", "name", len(names) == len(self.nodes), "give each its own")

    def tokens(self) -> dict[str, tuple[str, Role]]:
        """Name and role by token; empty where none is asked for.

        Raises:
            UsageError: two have the same token, or a file holds a short one.
            InputError: a file cannot be read.
        """
        own: tuple[str, Role, str, str] = ("admin", "admin", self.token, self.token_file)
        users = [(user.name, user.role, user.token, user.token_file) for user in self.users]
        found: dict[str, tuple[str, Role]] = {}
        for name, role, token, file in (own, *users):
            if secret := read_secret("http", "token", token, file):
                long = len(secret) >= MIN_TOKEN
                check("http", "token_file", long, f"must hold at least {MIN_TOKEN} characters")
                check("http.users", name, secret not in found, "has somebody else's token")
                found[secret] = (name, role)
        return found


class Live(Table, frozen=True):
    """`[live]`: a server that shows streams as they are, such as go2rtc or MediaMTX.

    Attributes:
        url: of the page of a source; {source} stands for its name.
    """

    url: str

    def __post_init__(self) -> None:
        wanted = "write http:// or https://, a host without user and password, and a path"
        check("live", "url", is_web_address(self.url, plain=True), wanted)
        whole = "{" not in self.url.replace("{source}", "")
        check("live", "url", whole, "only {source} is replaced by something")

    @property
    def origin(self) -> str:
        """Whose pages ours may frame."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def page(self, source: str) -> str:
        """Of a source."""
        return self.url.replace("{source}", quote(source, safe=""))


class Health(Served, frozen=True):
    """`[health]`: /livez and /readyz for whoever looks after the service (extra `dashboard`).

    They have a port of their own, where nothing keeps them waiting, and ask for no token.

    Attributes:
        address: HOST:PORT, port 0 for any free one.
        clients: connections at a time; who has asked for nothing makes room for the next.
    """

    address: str = "127.0.0.1:8089"
    clients: Clients = 64

    def __post_init__(self) -> None:
        self.bind()


class TellConfig(Record, frozen=True):
    """Everything about telling; a table that is absent tells nobody, but events can be kept."""

    store: Storage = msgspec.field(default_factory=Storage)
    webhook: Webhook | None = None
    mqtt: Mqtt | None = None
    notify: Notify | None = None
    push: Push | None = None
    snapshots: Snapshots | None = None
    evidence: Evidence | None = None
    jsonl: Jsonl | None = None
    http: Http | None = None
    live: Live | None = None
    health: Health | None = None

    def __post_init__(self) -> None:
        there = self.push is None or self.http is not None
        check("push", "contact", there, "needs [http]: devices are added on its page")


TABLES = TellConfig.__struct_fields__
"""Names of the tables that this module reads."""


def parse_tables(tables: Mapping[str, object]) -> TellConfig:
    """Read the tables named in TABLES, as `tomllib` gives them.

    Raises:
        UsageError: a key is unknown, missing or has a bad value; the message names table and key.
    """
    kinds = get_type_hints(TellConfig)
    given = {
        name: read_table(table, table_in(kinds[name]), f"[{name}]")
        for name, table in tables.items()
    }
    return TellConfig(**given)


def store_path(config: Path) -> Path:
    """Where a configuration's store is by default: beside it, or in systemd's folder."""
    name = config.with_suffix(".db").name
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) / name if state else config.with_name(name)
