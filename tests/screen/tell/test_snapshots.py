"""Pictures of the frames that decided."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from telling import HandClock, eventually, frame_event, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell.config import Snapshots, parse_tables
from mpft_deploy.screen.tell.fanout import open_sinks
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.views import Window


def noise(event: StreamEvent, side: int = 400) -> Picture:
    """A picture that no JPEG makes small."""
    pixels = np.random.default_rng(len(event.source)).integers(0, 256, (side, side, 3), np.uint8)
    return Picture(pixels, 1.7e9, [(0, 0, 16)])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_frame_that_decided_is_kept(tmp_path: Path) -> None:
    pixels = np.full((60, 80, 3), (200, 40, 10), np.uint8)
    config = Snapshots(folder=str(tmp_path / "shots"))
    sink = SnapshotSink(config, lambda event: Picture(pixels, 1.7e9, []), Store(None))
    seen = LookedAt(share=0.25, windows=(Window(0, 0, 30, 40),))
    event = sink.attach(stream_event(1, source="gate 1/../x", looked_at=seen))
    assert isinstance(event, StreamEvent)
    sink.close(5)
    assert files(tmp_path / "shots") == [event.snapshot]
    for path in (tmp_path / "shots", tmp_path / "shots" / event.snapshot):
        assert path.stat().st_mode & 0o007 == 0  # it may show people
    assert sink.find(event.snapshot) == tmp_path / "shots" / event.snapshot
    with Image.open(tmp_path / "shots" / event.snapshot) as image:
        assert image.size == (80, 60)
        assert np.abs(np.asarray(image).astype(int) - (200, 40, 10)).max() < 8
        told = json.loads(image.info["comment"])
        assert (told["id"], told["looked_at"]["windows"]) == (event.id, [[0, 0, 30, 40]])
    assert sink.stats().delivered == 1
    assert sink.stats().disk_bytes == (tmp_path / "shots" / event.snapshot).stat().st_size


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    left, new, other = (tmp_path / name for name in (".mpft-1a.tmp", ".mpft-2b.tmp", "mine.tmp"))
    for path in (left, new, other):
        path.write_bytes(b"x")
    for path in (left, other):
        os.utime(path, (0, 0))
    SnapshotSink(Snapshots(folder=str(tmp_path)), noise, Store(None)).close(1)
    assert [path.exists() for path in (left, new, other)] == [False, True, True]


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), noise, Store(None))
    for event in (stream_event(1, verdict="no sign"), frame_event(2), source_event(3)):
        assert sink.attach(event) is event
    sink.close(5)
    assert files(tmp_path) == []


def test_a_source_without_a_picture(tmp_path: Path) -> None:
    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), lambda event: None, Store(None))
    event = stream_event(1, source="new")
    assert sink.attach(event) is event
    sink.close(5)


def test_the_size_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x" * 1000)  # not ours
    sink = SnapshotSink(Snapshots(folder=str(tmp_path), max_bytes=1024**2), noise, Store(None))
    names = []
    for number in range(12):
        event = sink.attach(stream_event(number))
        assert isinstance(event, StreamEvent)
        names.append(event.snapshot)
        eventually(lambda number=number: sink.stats().delivered == number + 1)
    sink.close(5)
    kept = [name for name in files(tmp_path) if name != "holiday.jpg"]
    size = sum((tmp_path / name).stat().st_size for name in kept)
    assert size == sink.stats().disk_bytes <= 1024**2
    assert kept == sorted(names)[-len(kept) :]
    assert 0 < len(kept) < 12


DAY = 86400.0


def shot(folder: Path, number: int, date: float) -> Path:
    """A snapshot that an earlier process left."""
    path = folder / f"20240101T000000Z-generated-gate-e{number:06d}.jpg"
    path.write_bytes(b"x" * 1000)
    os.utime(path, (date, date))
    return path


class Pruned:
    """A sink of a folder, with a clock that the test moves."""

    def __init__(self, folder: Path, **limits: object) -> None:
        self.clock = HandClock()
        self.store = Store(None, clock=self.clock)
        config = Snapshots(folder=str(folder), **limits)  # type: ignore[arg-type]
        self.sink = SnapshotSink(config, lambda event: noise(event, 40), self.store)
        self._count = 1000

    def __enter__(self) -> Pruned:
        return self

    def __exit__(self, *_: object) -> None:
        self.sink.close(5)

    def after(self, seconds: float, step: float = 0.0) -> int:
        """Files that are left when another snapshot comes so much later, and a clock was set."""
        self.clock.now += seconds
        self.clock.date += seconds + step
        self.sink.attach(stream_event(self._count))
        self._count += 1
        eventually(lambda: self.sink.stats().delivered == self._count - 1000)
        return len(files(self.sink.folder))


def test_the_age_is_bounded(tmp_path: Path) -> None:
    other = tmp_path / "holiday.jpg"
    other.write_bytes(b"x")
    os.utime(other, (0, 0))
    for number in range(5):
        shot(tmp_path, number, 1.7e9 - number * DAY)
    with Pruned(tmp_path) as pruned:
        assert pruned.after(29 * DAY) == 7  # what was found begins to age when it is
        assert pruned.after(2 * DAY) == 8 - 5
        assert pruned.after(29 * DAY) == 4 - 1
        assert pruned.after(100 * DAY) == 2  # the newest, whatever its age
        assert other.exists()


@pytest.mark.parametrize("step", [40 * DAY, -40 * DAY, 500 * DAY, -1.7e9])
def test_a_clock_that_is_set_costs_no_snapshot(tmp_path: Path, step: float) -> None:
    for number in range(5):
        shot(tmp_path, number, 1.7e9 - number * DAY)
    with Pruned(tmp_path) as pruned:
        assert pruned.after(2 * DAY) == 6
        assert pruned.after(60, step) == 7
        assert pruned.after(27 * DAY, -step) == 8
        assert pruned.after(2 * DAY) == 9 - 5  # now they are old


def test_confirmed_ones_stay_and_count(tmp_path: Path) -> None:
    """By age and by size, though they are the oldest; what is gone is named by no event."""
    with Pruned(tmp_path, max_bytes=1024**2) as pruned:
        for number in range(4):
            event = pruned.sink.attach(stream_event(number))
            pruned.store.add(event)
        pruned.store.review(2, "confirmed", "", "ada", 1.8e9)
        eventually(lambda: pruned.sink.stats().delivered == 4)
        pruned._count += 4
        assert pruned.after(31 * DAY) == 2
        named = [stored.snapshot is not None for stored in pruned.store.events()]
        assert named == [False, False, True, False]
        pruned.store.rows("UPDATE files SET bytes = 1048576 WHERE name LIKE '%e000001%'")
        assert pruned.after(0) == 2  # the newest and what was confirmed, though that is all


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o640)])
def test_who_may_read_snapshots(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        sink = SnapshotSink(Snapshots(folder=str(tmp_path / "shots")), noise, Store(None))
        event = sink.attach(stream_event(1))
        sink.close(5)
    finally:
        os.umask(before)
    assert isinstance(event, StreamEvent)
    assert (tmp_path / "shots" / event.snapshot).stat().st_mode & 0o777 == mode
    assert (tmp_path / "shots").stat().st_mode & 0o007 == 0


def test_a_burst_costs_pictures_not_memory(tmp_path: Path) -> None:
    sink = SnapshotSink(
        Snapshots(folder=str(tmp_path)), lambda event: noise(event, 600), Store(None)
    )
    for number in range(60):
        sink.send(stream_event(number))
        assert sink.stats().waiting <= 16
    sink.close(30)
    stats = sink.stats()
    assert stats.delivered + stats.dropped.get("queue", 0) == 60


def test_a_folder_that_is_not_mounted_costs_nothing(tmp_path: Path) -> None:
    folder, store = tmp_path / "shots", Store(None)
    sink = SnapshotSink(Snapshots(folder=str(folder)), noise, store)
    for number in (1, 2):
        store.add(sink.attach(stream_event(number)))
    sink.close(5)
    first, second = sorted(files(folder))
    folder.rename(tmp_path / "mounted")
    for _ in range(2):  # without the folder, and with an empty one
        SnapshotSink(Snapshots(folder=str(folder)), noise, store).close(5)
        assert [one.snapshot for one in store.events()] == [second, first]
    (folder / "lost+found").touch()  # what else lies in it tells nothing
    SnapshotSink(Snapshots(folder=str(folder)), noise, store).close(5)
    assert [one.snapshot for one in store.events()] == [second, first]
    shutil.rmtree(folder)
    (tmp_path / "mounted").rename(folder)
    (folder / first).unlink()
    SnapshotSink(Snapshots(folder=str(folder)), noise, store).close(5)
    assert [one.snapshot for one in store.events()] == [second, None]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLacksError, match=r"\[snapshots\] folder"):
        SnapshotSink(Snapshots(folder=str(tmp_path / "file" / "x")), noise, Store(None))


def test_every_other_sink_hears_the_name(tmp_path: Path) -> None:
    tables = {"snapshots": {"folder": str(tmp_path)}, "jsonl": {"path": str(tmp_path / "e.jsonl")}}
    sinks = open_sinks(parse_tables(tables), noise, list)
    heard: list[Event] = []

    class Broken:
        name = "broken"

        def send(self, event: Event) -> None:
            raise RuntimeError("a fault of one sink")

        def close(self, timeout: float) -> None:
            pass

    class Listening(Broken):
        def send(self, event: Event) -> None:
            heard.append(event)

    sinks.append(Broken())
    sinks.append(Listening())
    sinks.send(stream_event(1))
    sinks.close(5)
    line = json.loads((tmp_path / "e.jsonl").read_text())
    assert isinstance(heard[0], StreamEvent)
    assert line["snapshot"] == heard[0].snapshot
    assert (tmp_path / line["snapshot"]).exists()
    assert [sink.name for sink in sinks][:3] == ["snapshots", "store", "jsonl"]
