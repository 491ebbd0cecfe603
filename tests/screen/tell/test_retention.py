"""What is deleted: by age, size and class, never what was confirmed, and never for a clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import HandClock, source_event, stream_event

from mpft_deploy.screen.tell.config import Storage
from mpft_deploy.screen.tell.database import DAY
from mpft_deploy.screen.tell.store import AT_ONCE, Store
from mpft_deploy.screen.web.audit import Audit
from mpft_deploy.screen.web.operations import User


class Aging:
    """A store, with a clock that the test moves."""

    def __init__(self, **limits: object) -> None:
        self.clock = HandClock()
        self.store = Store(None, Storage(**limits), self.clock)  # type: ignore[arg-type]

    def after(self, days: float, step: float = 0.0) -> list[int]:
        """Events that are left so much later, when the clock was set by so many days."""
        self.clock.now += days * DAY
        self.clock.date += (days + step) * DAY
        self.store.keep_limits()
        return [stored.id for stored in reversed(self.store.events(limit=10**6))]


def test_old_events_go_by_their_class() -> None:
    aging = Aging(max_age_days=10, days={"generated": 100, "source": 2})
    for event in (stream_event(1), stream_event(2, verdict="no sign"), source_event(3)):
        aging.store.add(event)
    assert aging.after(1.5) == [1, 2, 3]
    assert aging.after(1) == [1, 2]
    assert aging.after(7) == [1, 2]
    assert aging.after(1) == [1]
    assert aging.after(89) == [1]
    assert aging.after(1) == []


def test_who_did_what_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    aging = Aging()
    audit = Audit(aging.store)
    for number in range(9):
        audit.note(User("Ann", "admin"), "added", str(number))
    monkeypatch.setattr("mpft_deploy.screen.tell.store.AUDITED", 4)
    aging.after(0)
    assert [entry.object for entry in audit.audit().entries] == ["8", "7", "6", "5"]


def test_what_was_confirmed_stays() -> None:
    aging = Aging(max_age_days=10, max_bytes=1024**2)
    for number in range(1, 4):
        aging.store.add(stream_event(number))
    aging.store.review(2, "confirmed", "", "ada", 1.8e9)
    assert aging.after(1000) == [2]
    for number in range(4, 4000):
        aging.store.add(stream_event(number, source="x" * 300))
    left = aging.after(0)
    assert left[0] == 2
    assert left[1:] == list(range(left[1], 4000))
    assert left[1] > 4
    assert aging.store.stats().disk_bytes <= 1024**2


def test_a_store_of_confirmed_events_alone_ends_in_peace() -> None:
    aging = Aging(max_bytes=1024**2)
    for number in range(1, 800):
        aging.store.add(stream_event(number, source="x" * 2000))
        aging.store.review(number, "confirmed", "", "ada", 1.8e9)
    assert len(aging.after(500)) == 799


def test_deliveries_go_with_the_oldest_events() -> None:
    aging = Aging(max_bytes=1024**2)
    for number in range(1, 4000):
        aging.store.add(stream_event(number, source="x" * 200), ["hook"])
    aging.store.settle("hook", 2, "refused")
    left = aging.after(0)
    waiting = [json.loads(one.body)["id"] for one in aging.store.waiting("hook", 10**6)]
    assert waiting == [f"e{number:06d}" for number in left]
    assert aging.store.dropped == {"limit": 3998 - len(left)}  # what was refused was not waiting
    assert aging.store.rows("SELECT count(*) FROM deliveries") == [(len(left),)]
    assert aging.store.stats().disk_bytes <= 1024**2


def test_deliveries_that_nobody_took_are_counted() -> None:
    aging = Aging(max_age_days=10, days={"source": 2})
    for number in range(1, 4):
        aging.store.add(stream_event(number), ["hook"])
    aging.store.add(source_event(4), ["hook"])
    aging.after(1)
    assert aging.store.count_waiting("hook") == 4
    aging.after(8)
    assert aging.store.count_waiting("hook") == 3
    aging.after(2)
    assert aging.store.count_waiting("hook") == 0
    assert aging.store.dropped == {"limit": 4}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(-30000, 30000)), max_size=6))
def test_no_clock_that_is_set_makes_an_event_older(steps: list[tuple[float, float]]) -> None:
    """However it is set: what is younger than the limit stays, deliveries too; and goes later."""
    aging = Aging(max_age_days=20)
    try:
        aging.store.add(stream_event(1), ["hook"])
        for days, step in steps:  # 18 days at most
            assert aging.after(days, step) == [1]
        assert len(aging.store.waiting("hook", 1)) == 1
        assert aging.after(20.1) == []
    finally:
        aging.store.close()


@pytest.mark.parametrize("dates", [(0, 1.7e9, 0, 1.7e9), (1.7e9, 4e9, 1.7e9, 1.7e9), (1.7e9,) * 4])
def test_a_restart_makes_nothing_older_by_more_than_a_day(
    tmp_path: Path, dates: tuple[float, ...]
) -> None:
    """Whatever the date is then: of a board without a battery, or set far ahead."""
    clock, limits = HandClock(), Storage(max_age_days=4)
    for number, date in enumerate(dates):
        clock.now, clock.date = 5.0, date  # the machine was off
        store = Store(tmp_path / "screen.db", limits, clock)
        if number == 0:
            store.add(stream_event(1))
        clock.now += 0.2 * DAY
        clock.date += 0.2 * DAY
        store.keep_limits()
        assert len(store.events()) == 1
        store.close()
    store = Store(tmp_path / "screen.db", limits, clock)
    clock.now += 4 * DAY
    store.keep_limits()
    assert store.events() == []
    store.close()


def test_time_that_a_store_is_closed_counts(tmp_path: Path) -> None:
    clock, limits = HandClock(), Storage(max_age_days=4)
    left = []
    for _ in range(8):
        store = Store(tmp_path / "screen.db", limits, clock)
        if not left:
            store.add(stream_event(1))
        clock.now += 0.3 * DAY
        clock.date += 0.3 * DAY
        store.keep_limits()
        left.append(len(store.events()))
        store.close()
        clock.date += 0.7 * DAY
    assert left == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("rows", [3 * AT_ONCE])
def test_many_old_rows_go_over_some_minutes(rows: int) -> None:
    aging = Aging(max_age_days=5)
    for number in range(rows):
        aging.store.add(stream_event(number))
    assert len(aging.after(6)) == rows - AT_ONCE
    aging.after(0)
    assert aging.after(0) == []
