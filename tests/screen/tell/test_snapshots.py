"""Pictures of the frames that decided."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from telling import eventually, frame_event, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.records import Event, Picture, StreamEvent
from mpft_deploy.screen.tell import open_sinks, parse_tables
from mpft_deploy.screen.tell.config import Snapshots
from mpft_deploy.screen.tell.snapshots import NAME, SnapshotSink


def noise(source: str, side: int = 400) -> Picture:
    """A picture that no JPEG makes small."""
    pixels = np.random.default_rng(len(source)).integers(0, 256, (side, side, 3), np.uint8)
    return Picture(pixels, 1.7e9, [(0, 0, 16)])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_frame_that_decided_is_kept(tmp_path: Path) -> None:
    pixels = np.full((60, 80, 3), (200, 40, 10), np.uint8)
    sink = SnapshotSink(
        Snapshots(folder=str(tmp_path / "shots")), lambda source: Picture(pixels, 1.7e9, [])
    )
    event = sink.attach(stream_event(1, source="gate 1/../x"))
    assert isinstance(event, StreamEvent)
    sink.close(5)
    assert files(tmp_path / "shots") == [event.snapshot]
    assert NAME.fullmatch(event.snapshot)
    with Image.open(tmp_path / "shots" / event.snapshot) as image:
        assert image.size == (80, 60)
        assert np.abs(np.asarray(image).astype(int) - (200, 40, 10)).max() < 8
        assert json.loads(image.info["comment"])["id"] == event.id
    assert sink.stats().delivered == 1
    assert sink.stats().disk_bytes == (tmp_path / "shots" / event.snapshot).stat().st_size


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), noise)
    for event in (stream_event(1, verdict="real"), frame_event(2), source_event(3)):
        assert sink.attach(event) is event
    sink.close(5)
    assert files(tmp_path) == []


def test_a_source_without_a_picture(tmp_path: Path) -> None:
    def picture(source: str) -> Picture | None:
        if source == "gone":
            raise KeyError(source)
        return None

    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), picture)
    for source in ("gone", "new"):
        event = stream_event(1, source=source)
        assert sink.attach(event) is event
    sink.close(5)


def test_size_and_age_are_bounded(tmp_path: Path) -> None:
    old = tmp_path / "20200101T000000Z-generated-gate-e1.jpg"
    other = tmp_path / "holiday.jpg"
    for path in (old, other):
        path.write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    sink = SnapshotSink(Snapshots(folder=str(tmp_path), max_bytes=1024**2), noise)
    assert files(tmp_path) == ["holiday.jpg"]  # too old, and not ours
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


def test_a_burst_costs_pictures_not_memory(tmp_path: Path) -> None:
    sink = SnapshotSink(Snapshots(folder=str(tmp_path)), lambda source: noise(source, 600))
    for number in range(60):
        sink.send(stream_event(number))
        assert sink.stats().waiting <= 16
    sink.close(30)
    stats = sink.stats()
    assert stats.delivered + stats.dropped.get("queue", 0) == 60


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLacksError, match=r"\[snapshots\] folder"):
        SnapshotSink(Snapshots(folder=str(tmp_path / "file" / "x")), noise)


def test_every_other_sink_hears_the_name(tmp_path: Path) -> None:
    tables = {"snapshots": {"folder": str(tmp_path)}, "jsonl": {"path": str(tmp_path / "e.jsonl")}}
    sinks = open_sinks(parse_tables(tables), noise)
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
    assert [sink.name for sink in sinks][:2] == ["snapshots", "jsonl"]
