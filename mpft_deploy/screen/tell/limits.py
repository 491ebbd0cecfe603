"""The tables of a configuration file that say what is kept, how much of it, and for how long."""

from __future__ import annotations

from typing import Literal

import msgspec

from mpft_deploy.screen.tell.table import Table, check
from mpft_deploy.spec import StreamVerdict

EventClass = Literal["no sign", "generated", "unsure", "source"]
"""Of what is kept: changes to a stream's verdict, and of a source's state."""


class Limits(Table, frozen=True, kw_only=True):
    """How much is kept.

    Attributes:
        max_bytes: in all; the oldest go first.
        max_age_days: for how long.
        days: the same for single classes.
    """

    max_bytes: int
    max_age_days: float
    days: dict[EventClass, float] = msgspec.field(default_factory=dict)

    def check(self, table: str) -> None:
        """A UsageError for a limit that nothing can be kept within."""
        check(table, "max_bytes", self.max_bytes >= 1024**2, "must be 1048576 or more")
        check(table, "max_age_days", self.max_age_days > 0, "must be above 0")
        check(table, "days", all(d > 0 for d in self.days.values()), "must be above 0")


class KeptLimits(Limits, frozen=True, kw_only=True):
    """Of files that are kept of verdicts.

    Attributes:
        folder: that they are in.
        when: stream verdicts of which one is kept.
    """

    folder: str
    when: tuple[StreamVerdict, ...] = ("generated",)

    def check(self, table: str) -> None:
        """A UsageError for what no file can be kept within."""
        check(table, "folder", bool(self.folder), "name a folder")
        super().check(table)
        check(table, "when", bool(self.when), "name at least one verdict")


class Storage(Limits, frozen=True, kw_only=True):
    """`[store]`: the file of events, reviews and deliveries that wait.

    Attributes:
        path: "" for a file beside the configuration, or in systemd's folder for the service.
    """

    path: str = ""
    max_bytes: int = 256 * 1024**2
    max_age_days: float = 90.0

    def __post_init__(self) -> None:
        self.check("store")


class Snapshots(KeptLimits, frozen=True, kw_only=True):
    """`[snapshots]`: JPEG files of the frames that decided."""

    max_bytes: int = 1024**3
    max_age_days: float = 30.0

    def __post_init__(self) -> None:
        self.check("snapshots")


class Evidence(KeptLimits, frozen=True, kw_only=True):
    """`[evidence]`: packages of video, judged pixels and logits around verdicts.

    Attributes:
        before, after: seconds of a package around its verdict.
        memory: bytes of coded video that are kept of a source meanwhile, and as many of judged
            pixels, at most.
        key_file: a private key that packages are signed with (extra `sign`); "" for none.
    """

    before: float = 10.0
    after: float = 5.0
    memory: int = 32 * 1024**2
    max_bytes: int = 4 * 1024**3
    max_age_days: float = 90.0
    key_file: str = ""

    def __post_init__(self) -> None:
        self.check("evidence")
        for key in ("before", "after"):
            check("evidence", key, 0 <= getattr(self, key) <= 300, "must be 0 to 300 seconds")
        check("evidence", "memory", self.memory >= 1024**2, "must be 1048576 or more")
