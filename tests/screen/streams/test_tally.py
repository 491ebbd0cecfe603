"""What is counted of sources: rates, and whether a machine keeps up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.screen.streams.tally import REMIND, WINDOW, Load, Rate, Tally


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
    # Of streams that are gone nothing comes; between two pictures of slow ones nothing does either.
    now += WINDOW
    load.check([tally], now)
    assert load.reason
    load.check([tally], now + REMIND)
    assert not load.reason
