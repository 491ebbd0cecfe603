"""Hours of the week."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.streams.config import read_source
from mpft_deploy.screen.streams.hours import are_hours, within

CLOCK = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def at(day: int, clock: str) -> time.struct_time:
    hour, minute = map(int, clock.split(":"))
    return time.struct_time((2026, 11, 30 + day, hour, minute, 0, day, 0, -1))


@pytest.mark.parametrize(
    ("text", "day", "clock", "inside"),
    [
        ("22:00-07:00", 3, "22:00", True),
        ("22:00-07:00", 3, "07:00", False),
        ("12:00-13:00", 3, "12:00", True),
        ("12:00-13:00", 3, "13:00", False),
        ("mon-fri 08:00-18:00", 4, "17:59", True),
        ("mon-fri 08:00-18:00", 5, "12:00", False),
        ("sat,sun 00:00-24:00", 6, "23:59", True),
        ("fri 22:00-06:00", 5, "05:59", True),  # it began on Friday
        ("fri 22:00-06:00", 4, "05:59", False),
        ("sat-mon,wed 10:00-11:00", 0, "10:30", True),
        ("sat-mon,wed 10:00-11:00", 1, "10:30", False),
        ("sun 23:00-01:00", 0, "00:30", True),
    ],
)
def test_when_it_is(text: str, day: int, clock: str, inside: bool) -> None:
    assert within([text], at(day, clock)) is inside
    assert not within([], at(day, clock))


@given(begin=CLOCK, end=CLOCK, now=CLOCK, day=st.integers(0, 6), of=st.sampled_from(DAYS))
def test_what_is_not_in_hours_is_in_the_others(
    begin: str, end: str, now: str, day: int, of: str
) -> None:
    if begin != end:
        times = [within([f"{a}-{b}"], at(day, now)) for a, b in ((begin, end), (end, begin))]
        assert sorted(times) == [False, True]
    each = [within([f"{one} {begin}-{end}"], at(day, now)) for one in DAYS]
    assert sum(each) == within([f"{begin}-{end}"], at(day, now))
    assert within([f"{of}-{of} {begin}-{end}"], at(day, now)) is each[DAYS.index(of)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "7-8", "25:00-26:00", "24:00-25:00", "mon", "mon 8:00-9:00", "mond 08:00-09:00"),
        *("mon- 08:00-09:00", "mon,  08:00-09:00", " 08:00-09:00", "08:00-09:00\n", "٠٨:00-09:00"),
    ],
)
def test_what_are_none(text: str) -> None:
    assert not are_hours(text)
    with pytest.raises(UsageError, match=r"hours .*mon-fri 08:00-18:00"):
        read_source({"address": "rtsp://192.0.2.1/", "hours": [text]}, "source 1", {})
