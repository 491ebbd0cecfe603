"""A disk that is full: counted, never raised, and over when there is room again."""

from __future__ import annotations

import json
import resource
from pathlib import Path

from telling import eventually, fill, receiving, stream_event

from mpft_deploy.screen.tell.config import Jsonl, Webhook
from mpft_deploy.screen.tell.jsonl import JsonLines
from mpft_deploy.screen.tell.spool import Spool
from mpft_deploy.screen.tell.webhook import WebhookSink


def ids(spool: Spool) -> list[int]:
    numbers = []
    while (body := spool.peek()) is not None:
        numbers.append(int(json.loads(body)["n"]))
        spool.advance()
    return numbers


def test_a_spool_waits_in_memory_and_goes_back_to_disk(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 1024**2)
    for number in range(20):
        spool.append(b'{"n":%d}' % number)
    ballast = fill(small_disk)
    for number in range(20, 600):
        spool.append(b'{"n":%d,"padding":"%b"}' % (number, b"x" * 100))
    assert spool.waiting()[0] == 600
    ballast.unlink()
    spool.append(b'{"n":600}')
    assert not spool._memory
    assert ids(spool) == list(range(601))
    assert not spool.dropped
    spool.close()


def test_what_waits_in_memory_is_written_while_the_receiver_is_down(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 1024**2)
    ballast = fill(small_disk)
    spool.append(b'{"n":0}')
    assert spool.peek() is not None  # on its way
    ballast.unlink()
    assert spool.waiting()[1] == 0
    spool.release()  # in vain
    assert spool.waiting()[1] > 0
    spool.close()
    spool = Spool(small_disk / "spool", 1024**2)
    assert ids(spool) == [0]
    spool.close()


def test_a_spool_that_stays_full_drops_its_oldest(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 1024**2, memory=100)
    for number in range(3000):
        spool.append(b'{"n":%d,"padding":"%b"}' % (number, b"x" * 200))
    left = ids(spool)
    assert left == list(range(left[0], 3000))
    assert left[0] > 0
    assert spool.dropped["disk full"] == left[0]
    spool.close()


def test_events_are_delivered_while_the_disk_is_full(small_disk: Path) -> None:
    with receiving() as receiver:
        config = Webhook(url=receiver.url, spool=str(small_disk / "spool"))
        sink = WebhookSink(config, first_wait=0.05)
        fill(small_disk)
        for number in range(30):
            sink.send(stream_event(number))
        eventually(lambda: len(receiver.received) == 30)
        assert receiver.ids() == [f"e{number:06d}" for number in range(30)]
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


def test_a_limit_on_file_size_is_no_different(tmp_path: Path) -> None:
    """As a quota: the file system has room, the file has none. Needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool(tmp_path, 1024**2)
    spool.append(b'{"n":0}')
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for number in range(1, 40):
            spool.append(b'{"n":%d}' % number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert spool.waiting()[0] == 40
    assert ids(spool) == list(range(40))
    assert not spool.dropped
    spool.close()
