"""Latency from capture to verdict of streams, from the frame events that screening writes."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from mpft_deploy.errors import InputError
from mpft_deploy.profile.measure import latency
from mpft_deploy.profile.records import Estimate
from mpft_deploy.spec import MALFORMED, Record


class StreamLatency(Record, frozen=True):
    """Age of a source's frames at their verdict, in milliseconds; see `records.Run.latency_ms`."""

    source: str
    frames: int
    latency_ms: dict[str, Estimate]


class _Event(msgspec.Struct):
    """Of an event, whatever else is in it: its kind."""

    event: str


class _Frame(msgspec.Struct):
    """Of a frame event, what is summed up; see `mpft_deploy.screen.streams.records`."""

    source: str
    age_ms: float


def read_events(lines: Iterable[bytes], name: str) -> list[StreamLatency]:
    """Sum up the frame events among JSON lines, source by source.

    Args:
        lines: of the events; those of other kinds are passed over.
        name: of where they come from, for errors.

    Raises:
        InputError: a line is no event, or none is of a frame.
    """
    ages: dict[str, list[float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if msgspec.json.decode(line, type=_Event).event != "frame":
                continue
            frame = msgspec.json.decode(line, type=_Frame)
        except MALFORMED as error:
            raise InputError(f"{name}, line {number}: no event of mpft screen ({error})") from None
        ages.setdefault(frame.source, []).append(frame.age_ms)
    if not ages:
        raise InputError(f"{name}: no frame events; write them with mpft screen SOURCE --json")
    return [
        StreamLatency(source=source, frames=len(found), latency_ms=latency(np.array(found)))
        for source, found in sorted(ages.items())
    ]
