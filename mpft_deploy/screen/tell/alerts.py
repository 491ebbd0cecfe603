"""The tables of a configuration file that say which people are told, when, and how often."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from mpft_deploy.screen.streams.hours import are_hours
from mpft_deploy.screen.tell.table import Table, check, is_web_address, read_secrets
from mpft_deploy.spec import StreamVerdict

Worth = StreamVerdict | Literal["drift", "down", "live"]


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
