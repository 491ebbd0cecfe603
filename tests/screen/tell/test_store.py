"""The store: pages of events, reviews, and a file that is only ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from telling import frame_event, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.screen.tell import database
from mpft_deploy.screen.tell.store import Precision, Store


@pytest.fixture
def store() -> Iterator[Store]:
    one = Store(None)
    yield one
    one.close()


def numbers(store: Store, **filters: object) -> list[int]:
    return [stored.id for stored in store.events(**filters)]  # type: ignore[arg-type]


def test_pages_newest_first(store: Store) -> None:
    for number in range(1, 121):
        assert store.add(stream_event(number)) == number
    first = store.events(limit=50)
    assert [stored.id for stored in first] == list(range(120, 70, -1))
    assert first[0].event == stream_event(120)
    assert numbers(store, before=71, limit=50) == list(range(70, 20, -1))
    assert numbers(store, before=21, limit=50) == list(range(20, 0, -1))


def test_filters(store: Store) -> None:
    store.add(stream_event(1, source="gate"))
    store.add(stream_event(2, source="yard", verdict="no sign"))
    store.add(source_event(3, source="gate"))
    store.add(frame_event(4, source="gate"))  # is not kept
    store.add(stream_event(5, source="gate", snapshot="shot.jpg"))
    store.review(1, "confirmed", "", "ada", 1.8e9)
    assert numbers(store) == [4, 3, 2, 1]
    assert numbers(store, source="gate") == [4, 3, 1]
    assert numbers(store, verdict="generated") == [4, 1]
    assert numbers(store, state="open") == [4, 2]
    assert numbers(store, since=1.7e9 + 2, until=1.7e9 + 5) == [3, 2]
    assert numbers(store, source="gate", state="confirmed", before=4) == [1]
    found = store.event(4)
    assert found is not None
    assert found.snapshot == "shot.jpg"
    assert store.event(5) is None


def test_reviews(store: Store) -> None:
    store.add(stream_event(1))
    store.add(source_event(2))
    store.add(stream_event(4, verdict="unsure", previous="generated"))
    before = store.event(1)
    assert before is not None
    assert (before.state, before.note, before.by, before.reviewed_at) == ("open", "", "", None)
    after = store.review(1, "dismissed", "a poster", "ada", 1.8e9)
    assert after == store.event(1)
    assert (after.state, after.note, after.by) == ("dismissed", "a poster", "ada")
    assert after.reviewed_at == 1.8e9
    assert after.event == before.event
    for number in (2, 3, 4):  # which have nothing to say that were right or wrong, or are not there
        with pytest.raises(KeyError):
            store.review(number, "confirmed", "", "ada", 1.8e9)


def test_precision_is_of_verdicts_generated(store: Store) -> None:
    states = ["confirmed", "confirmed", "dismissed", "unclear", "open"]
    for number, state in enumerate(states, 1):
        store.add(stream_event(number, source="gate" if number > 1 else "yard"))
        store.review(number, state, "", "ada", 1.8e9)  # type: ignore[arg-type]
    store.add(stream_event(6, verdict="no sign"))
    store.review(6, "dismissed", "", "ada", 1.8e9)
    assert store.precision() == Precision(confirmed=2, dismissed=1, unclear=1, open=1)
    assert store.precision("gate", 1.7e9 + 3) == Precision(dismissed=1, unclear=1, open=1)
    assert store.precision(until=1.7e9 + 3) == Precision(confirmed=2)
    assert store.precision("nobody") == Precision()
    assert store.sources() == ["gate", "yard"]


def test_it_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "screen.db"
    first = Store(path)
    first.add(stream_event(1))
    first.review(1, "confirmed", "", "ada", 1.8e9)
    first.close()
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    second = Store(path)
    assert second.add(stream_event(2)) == 2
    assert [stored.state for stored in second.events()] == ["open", "confirmed"]
    second.close()
    second.close()  # again is nothing
    second.settle("hook", 1)  # of a receiver that was slow
    assert second.waiting("hook", 1) == []


def test_settings_of_sources_are_kept_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = Store(path)
    store.set_setting("gate", "regions", b"one")
    store.set_setting("gate", "regions", b"two")
    store.set_setting("yard", "regions", b"three")
    store.set_setting("yard", "paused", b"true")
    store.close()
    store = Store(path)
    assert store.settings("regions") == {"gate": b"two", "yard": b"three"}
    store.set_setting("gate", "regions", None)
    assert store.settings("regions") == {"yard": b"three"}
    store.close()


def test_a_page_of_ten_thousand_is_read_by_index(tmp_path: Path) -> None:
    store = Store(None)
    for number in range(10_000):
        store.add(stream_event(number, source=f"camera {number % 8}"))
    began = time.process_time()
    for _ in range(10):
        assert len(store.events(before=5000, source="camera 3", verdict="generated")) == 50
    assert (time.process_time() - began) / 10 < 0.05
    store.close()


@pytest.mark.parametrize("version", range(database.FIRST, database.VERSION))
def test_a_store_of_an_earlier_version_is_brought_on(tmp_path: Path, version: int) -> None:
    path = tmp_path / "screen.db"
    old = sqlite3.connect(path)
    made = database._VERSIONS[: version + 1 - database.FIRST]
    old.executescript(f"{''.join(made)} PRAGMA user_version = {version}")
    row = (1, 0.0, 1.7e9, "gate", "generated", msgspec.json.encode(stream_event(1)))
    old.execute(
        "INSERT INTO events (id, at, time, source, verdict, body) VALUES (?,?,?,?,?,?)", row
    )
    old.execute("INSERT INTO deliveries VALUES ('hook', 1, NULL), ('other', 1, 'it answered 422')")
    old.commit()
    old.close()
    for _ in range(2):  # and is opened as it is then
        store = Store(path)
        assert [delivery.event for delivery in store.waiting("hook", 9)] == [1]
        assert store.waiting("other", 9) == []
        assert store.number("PRAGMA user_version") == database.VERSION
        store.close()


def test_attempts_are_kept_with_when_the_next_is_due(tmp_path: Path) -> None:
    path = tmp_path / "screen.db"
    store = Store(path)
    store.add(stream_event(1), ["hook"])
    due = store.now() + 60
    store.settle("hook", 1, attempts=3, due=due)
    assert store.count_waiting("hook") == 1
    store.close()
    store = Store(path)
    [delivery] = store.waiting("hook", 9)
    assert (delivery.attempts, delivery.due, delivery.error) == (3, due, None)
    store.settle("hook", 1, "it answered 422", 4)
    assert (store.waiting("hook", 9), store.count_waiting("hook")) == ([], 0)
    kept = store.rows("SELECT error, attempts, due FROM deliveries")
    assert kept == [("it answered 422", 4, None)]
    store.close()


def test_a_store_has_one_process(tmp_path: Path) -> None:
    path = tmp_path / "screen.db"
    store = Store(path)
    with pytest.raises(UsageError, match="used by another process"):
        Store(path)
    store.close()
    Store(path).close()


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database, but somebody's notes" * 50)
    with pytest.raises(InputError, match="move it away"):
        Store(path)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE photos (id)")
    other.close()
    with pytest.raises(InputError, match="another program"):
        Store(path)
    path.unlink()
    Store(path).close()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(InputError, match="version 99, and this mpft-deploy reads 2 to 4"):
        Store(path)
    with pytest.raises(EnvironmentLacksError, match=r"\[store\] path"):
        Store(path / "below" / "a.db")
