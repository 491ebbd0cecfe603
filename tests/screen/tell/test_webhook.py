"""Webhooks to a real receiver: nothing is lost, the order is kept, nobody waits."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from telling import (
    Hook,
    Mode,
    Receiver,
    eventually,
    frame_event,
    receiving,
    source_event,
    stream_event,
)

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.tell import deliver
from mpft_deploy.screen.tell.deliver import Answer
from mpft_deploy.screen.tell.post import Poster, signature
from mpft_deploy.screen.tell.stats import Trouble
from mpft_deploy.screen.tell.store import Delivery

SECRET = "a-secret-of-the-receiver"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def open_sink(receiver: Receiver, folder: Path, **changes: object) -> Hook:
    table = {"secret": SECRET, "timeout": 0.4, **changes}
    return Hook(receiver, folder / "screen.db", **table)


def names(start: int, stop: int) -> list[str]:
    return [f"e{number:06d}" for number in range(start, stop)]


def test_events_arrive_signed_and_in_order(receiver: Receiver, tmp_path: Path) -> None:
    sink = open_sink(receiver, tmp_path)
    for number in range(20):
        sink.send(stream_event(number))
        sink.send(frame_event(number))  # is for nobody else
    eventually(lambda: len(receiver.received) == 20)
    assert receiver.ids() == names(0, 20)
    headers, body = receiver.received[3]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert headers["webhook-id"] == "e000003"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30
    assert json.loads(body)["event"] == "stream"
    eventually(lambda: sink.stats().delivered == 20)
    sink.close(1)
    assert sink.stats().waiting == 0


def test_keys_of_standard_webhooks(receiver: Receiver, tmp_path: Path) -> None:
    key = bytes(range(24))
    secret = "whsec_" + base64.b64encode(key).decode()
    sink = open_sink(receiver, tmp_path, secret=secret)
    sink.send(stream_event(1))
    eventually(lambda: receiver.received)
    sink.close(1)
    headers, body = receiver.received[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    with pytest.raises(UsageError, match="base64"):
        open_sink(receiver, tmp_path, secret="whsec_%%%")


def test_a_key_can_be_changed(receiver: Receiver, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("the key of tomorrow\n\n  the key of today  \n")
    sink = open_sink(receiver, tmp_path, secret="", secret_file=str(keys))
    sink.send(stream_event(1))
    eventually(lambda: receiver.received)
    sink.close(1)
    headers, body = receiver.received[0]
    timestamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"].split(" ") == [
        signature(key, "e000001", timestamp, body)
        for key in (b"the key of tomorrow", b"the key of today")
    ]


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AAECAwQFBgcICQoLDA0O", "fifteen letters"])
def test_a_key_that_can_be_guessed_is_refused(
    receiver: Receiver, tmp_path: Path, secret: str
) -> None:
    with pytest.raises(UsageError, match="needs 16 or more"):
        open_sink(receiver, tmp_path, secret=secret)


def test_a_receiver_that_fails_now_and_then_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(logging.getLogger("test"))
    for _ in range(40):
        trouble.begin("it answered 503")
        trouble.begin("it answered 503")
        trouble.end("receives again")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("mode", ["fail", "hang", "dribble", "reset"])
def test_faults_lose_nothing(receiver: Receiver, tmp_path: Path, mode: Mode) -> None:
    sink = open_sink(receiver, tmp_path)
    for number in range(5):
        sink.send(stream_event(number))
    eventually(lambda: len(receiver.received) == 5)
    receiver.mode = mode
    before = receiver.attempts
    began = time.monotonic()
    for number in range(5, 25):
        sink.send(stream_event(number))
    waited = time.monotonic() - began
    eventually(lambda: receiver.attempts >= before + 2)
    assert sink.stats().waiting == 20
    receiver.mode = "ok"
    receiver.released.set()
    eventually(lambda: len(receiver.received) >= 25)
    assert receiver.ids() == names(0, 25)
    assert sink.stats().failures >= 1
    assert sink.stats().dropped == {}
    assert waited < 4  # sending waits for no delivery: twenty time-outs take eight seconds
    sink.close(1)


def test_what_is_not_delivered_outlives_the_process(receiver: Receiver, tmp_path: Path) -> None:
    receiver.down()
    sink = open_sink(receiver, tmp_path)
    for number in range(10):
        sink.send(stream_event(number))
    sink.close(0.5)
    receiver.up()
    sink = open_sink(receiver, tmp_path)
    sink.send(stream_event(10))
    eventually(lambda: len(receiver.received) == 11)
    assert receiver.ids() == names(0, 11)
    sink.close(1)


def test_an_event_that_is_refused_holds_up_no_other(receiver: Receiver, tmp_path: Path) -> None:
    receiver.mode = "refuse"
    sink = open_sink(receiver, tmp_path)
    sink.send(stream_event(0))
    eventually(lambda: sink.stats().dropped == {"refused": 1})
    receiver.mode = "ok"
    sink.send(stream_event(1))
    eventually(lambda: receiver.received)
    assert receiver.ids() == names(1, 2)
    sink.close(1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits between attempts."""
    monkeypatch.setattr(deliver, "LONGEST_WAIT", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [301, 404, 410, 500])
def test_an_event_that_the_receiver_fails_on_holds_up_no_other(
    receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.answers = dict.fromkeys(names(1, 3), status)  # two in a row
    sink = open_sink(receiver, tmp_path)
    for number in range(20):
        sink.send(stream_event(number))
    eventually(lambda: sink.stats().waiting == 0)
    assert receiver.ids() == names(0, 1) + names(3, 20)
    assert sink.stats().dropped == {"refused": 2}
    rows = sink.store._db.execute("SELECT event, error FROM deliveries").fetchall()
    assert rows == [(2, f"it answered {status}"), (3, f"it answered {status}")]
    sink.close(1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_receiver_that_fails_on_all_loses_nothing(
    receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.answers = dict.fromkeys(names(0, 20), status)
    sink = open_sink(receiver, tmp_path)
    for number in range(20):
        sink.send(stream_event(number))
    eventually(lambda: receiver.attempts > 60)
    assert sink.stats().waiting == 20
    receiver.answers = {}
    eventually(lambda: sink.stats().waiting == 0)
    assert sink.stats().dropped == {}
    assert set(receiver.ids()) == set(names(0, 20))
    if status == 503:  # says nothing of the event: none behind it is tried
        assert receiver.ids() == names(0, 20)
    sink.close(1)


def test_what_cannot_be_sent_holds_up_no_other(receiver: Receiver, tmp_path: Path) -> None:
    sink = open_sink(receiver, tmp_path)
    for event in (stream_event(1, id="é€"), stream_event(2, id="a\nb"), stream_event(3)):
        sink.send(event)
    sink.send(stream_event(4, evidence=float("nan")))  # not even kept
    sink.send(stream_event(5, source="\udcff"))
    sink.send(stream_event(6))
    eventually(lambda: len(receiver.received) == 2)
    assert receiver.ids() == ["e000003", "e000006"]
    assert sink.stats().dropped == {"refused": 2}
    assert sink.store.dropped == {"damaged": 2}
    sink.close(1)


def test_an_event_of_another_version_is_sent_as_it_stands(
    receiver: Receiver, tmp_path: Path
) -> None:
    sink = open_sink(receiver, tmp_path)
    body = b'{"event":"stream","id":"e000001","verdict":"of tomorrow","more":1}'
    assert sink.webhook.attempt(Delivery(1, body, 0, 0.0, None)).status == 204
    assert receiver.received[0][1] == body
    sink.close(1)


@pytest.mark.usefixtures("impatient")
def test_no_fault_of_a_library_ends_the_deliveries(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(receiver, tmp_path)
    post = Poster.post

    def sometimes(self: Poster, body: bytes, headers: Mapping[str, str]) -> Answer:
        if headers["webhook-id"] == "e000001":
            raise RuntimeError("a fault of a library")
        return post(self, body, headers)

    monkeypatch.setattr(Poster, "post", sometimes)
    for number in range(4):
        sink.send(stream_event(number))
    eventually(lambda: sink.stats().waiting == 0)
    assert receiver.ids() == ["e000000", "e000002", "e000003"]
    assert sink.failure is None
    sink.close(1)


def test_a_redirect_is_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    with receiving() as other:
        receiver.location = other.url
        receiver.answers = {"e000000": 307}
        sink = open_sink(receiver, tmp_path)
        sink.send(stream_event(0))
        eventually(lambda: receiver.attempts >= 2)
        sink.close(1)
        assert other.attempts == 0


def test_a_receiver_that_asks_to_be_left_alone_is_so_after_a_restart(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers, receiver.pause = {"e000000": 503}, 200
    sink = open_sink(receiver, tmp_path)
    sink.send(stream_event(0))
    eventually(lambda: sink.stats().failures == 1)
    sink.close(1)
    receiver.answers = {}
    sink = open_sink(receiver, tmp_path)
    [delivery] = sink.store.waiting("webhook", 1)
    assert delivery.attempts == 1
    assert 100 < delivery.due - sink.store.now() <= 200
    sink.send(stream_event(1))  # does not disturb it
    sink.close(1)
    assert receiver.attempts == 1


def test_closing_does_not_wait_for_a_receiver_that_hangs(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.mode = "hang"
    sink = open_sink(receiver, tmp_path, timeout=20.0)
    sink.send(stream_event(0))
    eventually(lambda: receiver.attempts == 1)
    began = time.monotonic()
    sink.close(0.5)
    assert time.monotonic() - began < 5  # far below the time-out
    assert not sink.webhook._task.is_alive()
    receiver.mode = "ok"
    sink = open_sink(receiver, tmp_path)
    eventually(lambda: receiver.received)
    assert receiver.ids() == names(0, 1)
    sink.close(1)


def test_an_idle_connection_that_was_closed_is_no_failure(
    receiver: Receiver, tmp_path: Path
) -> None:
    sink = open_sink(receiver, tmp_path)
    for number in range(3):
        sink.send(stream_event(number))
        eventually(lambda number=number: sink.stats().delivered == number + 1)
        receiver.hang_up()
    assert receiver.ids() == names(0, 3)
    assert sink.stats().failures == 0
    sink.close(1)


def test_without_a_key_nothing_is_signed(receiver: Receiver, tmp_path: Path) -> None:
    sink = open_sink(receiver, tmp_path, secret="")
    sink.send(source_event(1))
    eventually(lambda: receiver.received)
    sink.close(1)
    assert "webhook-signature" not in receiver.received[0][0]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import httpx2, anyio._backends._asyncio  # once, not in each child
from telling import Hook, stream_event

def send(number, out):
    sink = Hook(None, Path(sys.argv[2]), url=sys.argv[1])
    while True:
        sink.send(stream_event(number))
        os.write(out, b"%d\\n" % number)
        number += 1

chance = random.Random(1)
for round_ in range(int(sys.argv[3])):
    said, out = os.pipe()
    if (child := os.fork()) == 0:
        send(round_ * 10**5, out)
    os.close(out)
    first = b""
    if round_ % 3:  # else while it opens the store, or soon after
        first = os.read(said, 16)
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.write(1, first + os.read(said, 65536))
    os.close(said)
"""


KILLS = 100


def test_a_killed_process_loses_nothing(receiver: Receiver, tmp_path: Path) -> None:
    """kill -9 again and again, while it opens, adds and delivers: all that was added arrives."""
    path = tmp_path / "screen.db"
    said = subprocess.run(
        [sys.executable, "-c", KILLED, receiver.url, str(path), str(KILLS)],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""},
        text=True,
        timeout=300,
    )
    added = [f"e{int(number):06d}" for number in said.stdout.split()]
    assert len(added) >= KILLS // 3
    sink = open_sink(receiver, tmp_path)
    eventually(lambda: sink.stats().waiting == 0)
    kept = {stored.event.id for stored in sink.store.events(limit=10**6)}
    sink.close(1)
    firsts = list(dict.fromkeys(receiver.ids()))
    assert set(added) <= set(firsts)
    assert firsts == sorted(firsts, key=lambda name: int(name[1:]))
    assert kept == set(firsts)
    assert len(firsts) - len(added) <= KILLS  # killed after it was added, before it was said
    assert len(receiver.ids()) - len(firsts) <= KILLS  # and after it was delivered
