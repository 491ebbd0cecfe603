"""JSON lines: whole lines, in order, with a schema."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from telling import eventually, frame_event, source_event, stream_event

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.records import Event
from mpft_deploy.screen.tell import jsonl
from mpft_deploy.screen.tell.config import Jsonl
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.spec import record_schema

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = ROOT / "docs" / "events.schema.json"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_every_event_is_a_line_of_the_schema(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path)))
    events = [
        frame_event(1),
        stream_event(2, snapshot="x.jpg"),
        stream_event(3, reason="scene change"),
        source_event(4),
        source_event(5, state="down", previous="live", reason="time-out", retry_in=2.0),
    ]
    for event in events:
        sink.send(event)
    sink.close(5)
    for line, event in zip(lines(path), events, strict=True):
        validator.validate(line)
        assert msgspec.convert(line, Event) == event
    wrong = {**lines(path)[0], "verdict": "perhaps"}
    assert not validator.is_valid(wrong)


def test_the_schema_is_that_of_the_records() -> None:
    """Where events change, this writes it: MPFT_WRITE=1 pytest tests/screen/tell/test_jsonl.py"""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event of mpft screen",
        **record_schema(Event),
    }
    if os.environ.get("MPFT_WRITE"):
        SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")
    assert json.loads(SCHEMA.read_text()) == schema


def test_rotation_by_size(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path), max_bytes=4096, keep=2))
    for number in range(100):
        sink.send(stream_event(number))
    sink.close(5)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert all(file.stat().st_size <= 4096 for file in files)
    ids = [line["id"] for file in (files[2], files[1], files[0]) for line in lines(file)]
    assert ids == [f"e{number:06d}" for number in range(100 - len(ids), 100)]


def test_keeping_nothing_old(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path), max_bytes=4096, keep=0))
    for number in range(100):
        sink.send(stream_event(number))
    sink.close(5)
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]
    assert lines(path)[-1]["id"] == "e000099"


@pytest.mark.parametrize("keep", [0, 300])
def test_two_writers_rotate_one_file(tmp_path: Path, keep: int) -> None:
    config = Jsonl(path=str(tmp_path / "events.jsonl"), max_bytes=4096, keep=keep)
    sinks = [JsonLines(config), JsonLines(config)]
    for number in range(400):
        for sink, source in zip(sinks, ("gate", "yard"), strict=True):
            sink.send(stream_event(number, source))
    for sink in sinks:
        sink.close(20)
        assert sink.stats().dropped == {}
    files = [tmp_path / f"events.jsonl.{n}" for n in range(keep, 0, -1)]
    files = [*(file for file in files if file.exists()), tmp_path / "events.jsonl"]
    for source in ("gate", "yard"):
        found = [line["id"] for file in files for line in lines(file) if line["source"] == source]
        assert found == [f"e{number:06d}" for number in range(400)][-len(found) or 400 :]
        assert len(found) == 400 or not keep


def test_a_file_that_stays_locked_holds_up_nothing_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LOCK_SECONDS", 0.05)
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path)))
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        sink.send(stream_event(1))
        eventually(lambda: sink.stats().dropped == {"error": 1})
        with pytest.raises(EnvironmentLacksError, match="another process keeps it locked"):
            JsonLines(Jsonl(path=str(path)))
    sink.send(stream_event(2))
    sink.close(5)
    assert [line["id"] for line in lines(path)] == ["e000002"]


def test_what_is_no_file(tmp_path: Path) -> None:
    sink = JsonLines(Jsonl(path="/dev/null"))
    sink.send(stream_event(1))
    sink.close(5)
    assert sink.stats().delivered == 1


def test_a_file_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    """As logrotate does, with and without `create` and `copytruncate`."""
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path), max_bytes=4096))

    def tell(number: int) -> None:
        sink.send(stream_event(number))
        eventually(lambda: sink.stats().delivered == number)

    tell(1)
    path.rename(tmp_path / "moved")
    tell(2)
    path.rename(tmp_path / "again")
    path.touch()
    tell(3)
    os.truncate(path, 0)
    tell(4)
    assert sink.stats().disk_bytes == path.stat().st_size
    path.unlink()
    tell(5)
    sink.close(5)
    for name, number in (("moved", 1), ("again", 2), ("events.jsonl", 5)):
        assert [line["id"] for line in lines(tmp_path / name)] == [f"e{number:06d}"]


def test_half_a_line_of_a_killed_process_spoils_none(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":"stream","id"')
    sink = JsonLines(Jsonl(path=str(path)))
    sink.send(stream_event(1))
    sink.close(5)
    assert json.loads(path.read_text().splitlines()[-1])["id"] == "e000001"


def test_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonLines(Jsonl(path=str(path), events=("source",)))
    for event in (frame_event(1), stream_event(1), source_event(1)):
        sink.send(event)
    sink.close(5)
    assert [line["event"] for line in lines(path)] == ["source"]


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacksError, match=r"\[jsonl\] path"):
        JsonLines(Jsonl(path=str(tmp_path / "absent" / "events.jsonl")))


WRITER = """
import sys, time
from telling import stream_event
from mpft_deploy.screen.tell.config import Jsonl
from mpft_deploy.screen.tell.jsonl import JsonLines

sink = JsonLines(Jsonl())
began = time.monotonic()
for number in range(int(sys.argv[1])):
    sink.send(stream_event(number))
print(time.monotonic() - began < 20, file=sys.stderr)
if len(sys.argv) > 2:
    while not sink.stats().failures:
        time.sleep(0.01)
    print("left", file=sys.stderr)
sink.close(0.5)
print(sink.stats().dropped, file=sys.stderr)
"""


def run_writer(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "tests"), "PATH": ""},
        text=True,
    )


def test_standard_output() -> None:
    out, _ = run_writer("50").communicate(timeout=60)
    assert [json.loads(line)["id"] for line in out.splitlines()] == [
        f"e{number:06d}" for number in range(50)
    ]


def test_a_reader_that_stops_reading_stops_nobody() -> None:
    process = run_writer("20000")
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline() == "True\n"  # though nobody read
    assert int(process.stderr.readline().split("'queue': ")[1].split(",")[0].rstrip("}\n")) > 5000
    process.stdout.close()
    process.stderr.close()
    process.wait(60)


def test_a_reader_that_leaves_is_noticed() -> None:
    process = run_writer("5", "wait")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "left" in process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
