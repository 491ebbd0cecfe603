"""Events on disk: order, bounds, damage."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.screen.tell.spool import Spool

LIMIT = 65536


def event(number: int, padding: int = 0) -> bytes:
    return json.dumps({"id": f"{number:06d}", "padding": "x" * padding}).encode()


def drain(spool: Spool) -> list[int]:
    """Numbers of everything that is left, delivered now."""
    numbers = []
    while (body := spool.peek()) is not None:
        numbers.append(int(json.loads(body)["id"]))
        spool.advance()
    return numbers


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.events"))


def test_first_in_first_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", LIMIT)
    for number in range(500):
        spool.append(event(number))
    assert spool.waiting()[0] == 500
    assert drain(spool) == list(range(500))
    assert spool.waiting()[0] == 0
    assert len(segments(tmp_path / "spool")) <= 1  # what was delivered takes no space
    spool.close()


def test_reading_and_writing_in_turns(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    got = []
    for number in range(300):
        spool.append(event(number, padding=number % 97))
        if number % 3 == 0:
            got += drain(spool)
    assert got + drain(spool) == list(range(300))
    spool.close()


def test_peek_without_advance_gives_the_same_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    spool.append(event(1))
    spool.append(event(2))
    assert spool.peek() == spool.peek() == event(1)
    spool.release()
    assert drain(spool) == [1, 2]
    spool.close()


def test_a_later_process_goes_on_where_one_stopped(tmp_path: Path) -> None:
    first = Spool(tmp_path, LIMIT)
    for number in range(10):
        first.append(event(number))
    for _ in range(4):
        first.peek()
        first.advance()
    first.close()
    second = Spool(tmp_path, LIMIT)
    assert second.waiting()[0] == 6
    second.append(event(10))
    assert drain(second) == list(range(4, 11))
    second.close()
    third = Spool(tmp_path, LIMIT)
    assert drain(third) == []
    third.close()
    # Everything was delivered and its files are gone: a number used again would be skipped.
    assert segments(tmp_path) == []
    fourth = Spool(tmp_path, LIMIT)
    fourth.append(event(11))
    fourth.close()
    fifth = Spool(tmp_path, LIMIT)
    assert drain(fifth) == [11]
    fifth.close()


def test_a_closed_spool_is_left_alone(tmp_path: Path) -> None:
    """A reader that hangs in a request may come back after the end."""
    spool = Spool(tmp_path, LIMIT)
    spool.append(event(1))
    assert spool.peek() is not None
    spool.close()
    spool.advance()
    spool.release()
    assert spool.peek() is None
    spool.append(event(2))
    assert spool.dropped == {"closed": 1}
    later = Spool(tmp_path, LIMIT)
    assert drain(later) == [1]
    later.close()


def test_the_oldest_go_when_the_limit_is_reached(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(3000):
        spool.append(event(number, padding=50))
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= LIMIT
    left = drain(spool)
    assert left == list(range(left[0], 3000))
    assert spool.dropped == {"spool limit": left[0]}
    spool.close()


def test_a_spool_has_one_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    with pytest.raises(UsageError, match="used by another process"):
        Spool(tmp_path, LIMIT)
    spool.close()
    Spool(tmp_path, LIMIT).close()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLacksError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool", LIMIT)


def test_events_are_for_their_owner(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", LIMIT)
    spool.append(event(1))
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert segments(tmp_path / "spool")[0].stat().st_mode & 0o077 == 0
    spool.close()


@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_a_torn_last_line_is_skipped(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(3):
        spool.append(event(number))
    spool.close()
    path = segments(tmp_path)[0]
    os.truncate(path, path.stat().st_size - cut)
    spool = Spool(tmp_path, LIMIT)
    spool.append(event(3))
    assert drain(spool) == [0, 1, 3]
    assert spool.dropped == {"damaged": 1}
    spool.close()


def test_files_that_someone_removed_meanwhile(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMIT)
    for number in range(400):
        spool.append(event(number, padding=50))
    for path in segments(tmp_path)[:3]:
        path.unlink()
    left = drain(spool)
    assert left[-1] == 399
    assert left == sorted(left)
    assert spool.dropped["damaged"] == 400 - len(left)
    spool.close()


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_to_the_files_what_is_whole_is_delivered(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = Spool(folder, LIMIT)
        for number in range(120):
            spool.append(event(number, padding=60))
        for _ in range(data.draw(st.integers(0, 40), "delivered")):
            spool.peek()
            spool.advance()
        spool.close()
        hurt = data.draw(st.sampled_from([*segments(folder), folder / "cursor"]), "file")
        content = hurt.read_bytes() if hurt.exists() else b""
        start = data.draw(st.integers(0, len(content)), "start")
        end = data.draw(st.integers(start, min(len(content), start + 300)), "end")
        garbage = data.draw(st.binary(max_size=300), "garbage")
        hurt.write_bytes(content[:start] + garbage + content[end:])
        spool = Spool(folder, LIMIT)
        spool.append(event(120))
        left = drain(spool)
        assert left[-1] == 120
        assert left == sorted(set(left))
        lost = set(range(120)) - set(left)
        assert len(lost) <= 40 + 300 // 60 + 2
        assert spool.waiting()[0] == 0
        spool.close()


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=2000), max_size=4))
def test_a_folder_full_of_garbage(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, content in enumerate(contents, 1):
            (folder / f"{number:012d}.events").write_bytes(content)
        (folder / "notes.events").write_text("not ours")
        spool = Spool(folder, LIMIT)
        spool.append(event(7))
        assert drain(spool) == [7]
        assert spool.waiting()[0] == 0
        spool.close()
        assert (folder / "notes.events").exists()
