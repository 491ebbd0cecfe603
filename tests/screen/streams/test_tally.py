"""What is counted of sources: rates, grades, and whether a machine keeps up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams.load import WINDOW, Load
from mpft_deploy.screen.streams.tally import Rate, Tally


@given(times=st.lists(st.floats(0, 100), max_size=200))
def test_rates(times: list[float]) -> None:
    rate = Rate()
    for now in sorted(times):
        rate.add(now)
    last = max(times, default=0.0)
    assert 0 <= rate.per_second(last) <= len(times)
    assert rate.per_second(last + 100) == 0


def test_a_rate_is_of_whole_seconds() -> None:
    rate = Rate()
    for index in range(250):
        rate.add(7.3 + index / 25)
        if index > 25:
            assert rate.per_second(7.3 + index / 25) == pytest.approx(25, abs=9)
    assert rate.per_second(17.2) == 25


def test_grades() -> None:
    tally = Tally()
    assert tally.grade("connecting", 0.0) == "down"
    tally.connect(0.0)
    for index in range(250):
        tally.receive(index / 25)
    assert tally.grade("live", 10.0) == "good"
    assert tally.grade("frozen", 10.0) == "poor"
    assert tally.grade("down", 10.0) == "down"
    tally.connect(10.0)
    assert tally.grade("live", 10.0) == "fair"
    assert tally.reconnects == 1
    tally.connect(10.0)
    tally.connect(10.0)
    assert tally.grade("live", 10.0) == "poor"
    for index in range(100 * 25):
        tally.receive(10 + index / 25)
    assert tally.grade("live", 110.0) == "good"
    for index in range(10 * 16):
        tally.receive(110 + index / 16)
    assert tally.grade("live", 120.0) == "fair"
    assert tally.grade("live", 123.0) == "poor"


def test_overload_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    load, tally, now = Load(), Tally(), 0.0
    load.check([tally], now)

    def period(screened: int, lost: int) -> int:
        nonlocal now
        for _ in range(screened):
            tally.screen(now)
        tally.drop("superseded", lost)
        tally.drop("rate", 1000)
        now += WINDOW
        caplog.clear()
        load.check([tally], now)
        return len(caplog.records)

    assert period(100, 0) == 0
    assert period(100, 5) == 0
    assert period(50, 50) == 1
    assert "overloaded: 10.0 of 20.0 frames a second" in caplog.text
    assert period(50, 50) == 0
    assert period(100, 5) == 0
    assert period(100, 0) == 1
    assert "no longer overloaded" in caplog.text
    for _ in range(2):
        period(50, 50)
    assert load.reason


def test_a_camera_that_sends_less_than_it_did_is_not_poor_for_ever() -> None:
    """Cameras send fewer frames at night than by day, and than they promise."""
    tally = Tally()
    tally.connect(0.0)
    for index in range(25 * 400):
        tally.receive(index / 25)
    for index in range(10 * 400):
        tally.receive(400 + index / 10)
        if index == 200:
            assert tally.grade("live", 420.0) == "poor"
    assert tally.grade("live", 800.0) == "good"
