"""What the store tells of an event, and of all."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mpft_deploy.screen.streams.records import SourceEvent, StreamEvent

ReviewState = Literal["open", "confirmed", "dismissed", "unclear"]

BODY = msgspec.json.Decoder(StreamEvent | SourceEvent)

COLUMNS = "id, body, state, note, reviewer, reviewed_at, snapshot, package"
"""Of the table `events`, for `read_row`."""


class StoredEvent(msgspec.Struct, frozen=True):
    """An event, and what became of it.

    Attributes:
        id: counts up in the order of events; not the `id` that the event itself carries.
        state: of its review; None where there is nothing to review, as of a stream turned unsure.
        by, reviewed_at: who said so, and when, in seconds since the Unix epoch; None if nobody did.
        snapshot, package: files of the frame that decided and of the evidence, as long as they are
            kept.
    """

    id: int
    event: StreamEvent | SourceEvent
    state: ReviewState | None
    note: str
    by: str
    reviewed_at: float | None
    snapshot: str | None
    package: str | None


class Precision(msgspec.Struct, frozen=True):
    """What reviewers said of verdicts "generated"."""

    confirmed: int = 0
    dismissed: int = 0
    unclear: int = 0
    open: int = 0


def read_row(row: tuple[Any, ...]) -> StoredEvent:
    """A row of the table."""
    number, body, *rest = row
    return StoredEvent(number, BODY.decode(body), *rest)
