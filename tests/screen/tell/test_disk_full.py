"""A disk that is full: counted, never raised, and over when there is room again."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from telling import Hook, eventually, fill, receiving, stream_event

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.tell.config import Jsonl, Snapshots
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.store import CAPACITY, Store


def drain(store: Store) -> list[str]:
    """Ids of everything that waits for the receiver, delivered now."""
    names: list[str] = []
    while (waiting := store.waiting("hook", 50)) and len(names) < 5 * CAPACITY:
        for delivery in waiting:
            names.append(json.loads(delivery.body)["id"])
            store.settle("hook", delivery.event)
    return names


def names(start: int, stop: int) -> list[str]:
    return [f"e{number:06d}" for number in range(start, stop)]


def full_disk(store: Store, folder: Path) -> Callable[[], object]:
    ballast = fill(folder)
    return ballast.unlink


def full_file(store: Store, folder: Path) -> Callable[[], object]:
    """SQLite's own bound; needs no root."""
    store._db.execute("PRAGMA max_page_count = 1")  # no page more than there are
    return lambda: store._db.execute("PRAGMA max_page_count = 1000000")


def full_quota(store: Store, folder: Path) -> Callable[[], object]:
    """The file system has room, the file has none."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


WAYS = pytest.mark.parametrize("fill_up", [full_disk, full_file, full_quota])
LARGE = pytest.mark.parametrize("small_disk", ["8m"], indirect=True)


@LARGE
@WAYS
def test_events_wait_in_memory_and_go_back_to_the_file(
    small_disk: Path, fill_up: Callable[[Store, Path], Callable[[], object]]
) -> None:
    store = Store(small_disk / "screen.db")
    for number in range(20):
        store.add(stream_event(number), ["hook"])
    make_room = fill_up(store, small_disk)
    try:
        for number in range(20, 600):
            store.add(stream_event(number, source="x" * 100), ["hook"])
        assert store.count_waiting("hook") == 600
        assert store.stats().waiting > 0
        # What is in memory is delivered, and a reviewer is told at once.
        first = store.waiting("hook", 1)[0]
        store.settle("hook", first.event)
        last = store.waiting("hook", 1000)[-1]
        store.settle("hook", last.event)
        with pytest.raises(EnvironmentLacksError, match=r"screen\.db: "):
            store.review(1, "confirmed", "x" * 10**6, "ada", 1.8e9)
    finally:
        make_room()
    eventually(lambda: store.stats().waiting == 0)
    assert drain(store) == names(1, 599)
    assert store.dropped == {}
    store.close()
    store = Store(small_disk / "screen.db")
    assert len(store.events(limit=1000)) == 600
    assert drain(store) == []
    store.close()


@pytest.mark.parametrize("fill_up", [full_file, full_quota])
def test_a_disk_that_stays_full_costs_the_oldest(
    tmp_path: Path, fill_up: Callable[[Store, Path], Callable[[], object]]
) -> None:
    store = Store(tmp_path / "screen.db")
    make_room = fill_up(store, tmp_path)
    try:
        for number in range(CAPACITY + 500):
            store.add(stream_event(number), ["hook"])
        left = drain(store)
        assert left[-CAPACITY:] == names(500, CAPACITY + 500)
        assert left == sorted(left)
        assert store.dropped == {"disk full": CAPACITY + 500 - len(left)}
    finally:
        make_room()
    store.close()


def test_what_was_delivered_on_a_full_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpft_deploy.screen.tell.store.CAPACITY", 50)
    store = Store(tmp_path / "screen.db")
    many = 100
    for number in range(many):
        store.add(stream_event(number), ["hook"])
    make_room = full_file(store, tmp_path)
    while not store.stats().waiting:
        store.add(stream_event(many), ["hook"])
        many += 1
    assert drain(store) == names(0, many)
    assert store.changes == many - 1
    for number in range(many, many + 100):
        store.settle("hook", store.add(stream_event(number), ["hook"]))
    # Notes are kept of what is in the file, and of what is in memory.
    assert store.number("SELECT count(*) FROM tried") <= many + 50
    make_room()
    eventually(lambda: store.stats().waiting == 0)
    assert store.changes == len(store.events(limit=3 * many)) == many - 1 + 50
    assert drain(store) == []
    store.close()


def test_a_store_opens_on_a_full_disk(small_disk: Path) -> None:
    """A service that starts again must screen, whatever filled the disk."""
    Store(small_disk / "screen.db").close()
    fill(small_disk)
    store = Store(small_disk / "screen.db")
    store.add(stream_event(1), ["hook"])
    assert drain(store) == names(1, 2)
    store.close()


def test_snapshots_that_a_full_store_does_not_know_end_no_start(
    small_disk: Path, tmp_path: Path
) -> None:
    name = "20240101T000000Z-generated-gate-e000001.jpg"
    (tmp_path / name).write_bytes(b"x")
    store = Store(small_disk / "screen.db")
    ballast = fill(small_disk)
    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), lambda event: None, store)
    assert (sink.find(name), sink.unnamed()) == (tmp_path / name, [])
    ballast.unlink()
    sink._look_after()  # as each hour
    assert [one.name for one in sink.unnamed()] == [name]
    sink.close(1)
    store.close()


@LARGE
def test_events_are_delivered_while_the_disk_is_full(small_disk: Path) -> None:
    with receiving() as receiver:
        sink = Hook(receiver, small_disk / "screen.db")
        fill(small_disk)
        for number in range(30):
            sink.send(stream_event(number))
        eventually(lambda: len(receiver.received) == 30)
        assert receiver.ids() == names(0, 30)
        sink.close(2)
        assert sink.stats().dropped == {}


def test_lines_stay_whole(small_disk: Path) -> None:
    path = small_disk / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path)))
    sink.send(stream_event(1))
    eventually(lambda: sink.stats().delivered == 1)
    ballast = fill(small_disk)
    for number in range(2, 60):
        sink.send(stream_event(number))
    eventually(lambda: sink.stats().delivered + sink.stats().failures == 59)
    ballast.unlink()
    sink.send(stream_event(60))
    sink.close(5)
    found = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert found[0] == "e000001"
    assert found[-1] == "e000060"
    assert sink.stats().dropped["error"] == 60 - len(found) > 0
