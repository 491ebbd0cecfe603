"""Hours of the week in local time: "22:00-07:00" of every day, "mon-fri,sun 08:00-18:30"."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = f"(?:{'|'.join(_DAYS)})"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_HOURS = re.compile(
    rf"(?:({_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) )?({_CLOCK})-({_CLOCK}|24:00)"
)


def are_hours(text: str) -> bool:
    """Whether a text names hours."""
    return _HOURS.fullmatch(text) is not None


def within(hours: Iterable[str], now: time.struct_time) -> bool:
    """Whether a local time is in one of these; what ends on the next day is of the first."""
    clock, today = f"{now.tm_hour:02}:{now.tm_min:02}", now.tm_wday
    for text in hours:
        found = _HOURS.fullmatch(text)
        assert found is not None
        days, begin, end = _days(found[1]), found[2], found[3]
        if begin < end and today in days and begin <= clock < end:
            return True
        if begin >= end and (
            (today in days and clock >= begin) or ((today - 1) % 7 in days and clock < end)
        ):
            return True
    return False


def _days(text: str | None) -> set[int]:
    """Numbers of days, 0 for Monday; "fri-mon" goes on over Sunday. None stands for all."""
    found = set()
    for part in (text or "mon-sun").split(","):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return found
