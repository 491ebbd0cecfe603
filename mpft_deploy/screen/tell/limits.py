"""The tables of a configuration file that say what is kept, how much of it, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mpft_deploy.screen.tell.table import Bytes, Days, Table, Text
from mpft_deploy.spec import StreamVerdict

EventClass = Literal["no sign", "generated", "unsure", "source"]
"""Of what is kept: changes to a stream's verdict, and of a source's state."""

Span = Annotated[float, Meta(ge=0, le=300)]


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
