"""Webhooks to a real receiver: nothing is lost, the order is kept, nobody waits."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from telling import (
    Mode,
    Receiver,
    eventually,
    frame_event,
    receiving,
    source_event,
    stream_event,
)

from mpft_deploy.errors import UsageError
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.stats import Trouble
from mpft_deploy.screen.tell.webhook import WebhookSink

SECRET = "a-secret-of-the-receiver"
SOON = 0.05


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def open_sink(receiver: Receiver, spool: Path, **changes: object) -> WebhookSink:
    options = {"url": receiver.url, "secret": SECRET, "spool": str(spool), "timeout": 0.4}
    return WebhookSink(Webhook(**{**options, **changes}), first_wait=SOON)  # type: ignore[arg-type]


def names(start: int, stop: int) -> list[str]:
    return [f"e{number:06d}" for number in range(start, stop)]


def test_events_arrive_signed_and_in_order(receiver: Receiver, tmp_path: Path) -> None:
    sink = open_sink(receiver, tmp_path)
    for number in range(20):
        sink.send(stream_event(number))
        sink.send(frame_event(number))  # not asked for
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
    assert not sink._task.is_alive()
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


def test_the_kinds_that_are_asked_for(receiver: Receiver, tmp_path: Path) -> None:
    sink = open_sink(receiver, tmp_path, events=("frame",), secret="")
    for event in (source_event(1), frame_event(1), stream_event(1)):
        sink.send(event)
    eventually(lambda: receiver.received)
    sink.close(1)
    assert receiver.ids() == ["f000001"]
    assert "webhook-signature" not in receiver.received[0][0]


SENDER = """
import sys, time
from telling import stream_event
from mpft_deploy.screen.tell.config import Webhook
from mpft_deploy.screen.tell.stats import Trouble
from mpft_deploy.screen.tell.webhook import WebhookSink

sink = WebhookSink(Webhook(url=sys.argv[1], spool=sys.argv[2]), first_wait=0.05)
for number in range(int(sys.argv[3]), 10**6):
    sink.send(stream_event(number))
    print(number, flush=True)
    time.sleep(0.002)
"""


def test_a_killed_process_loses_nothing(receiver: Receiver, tmp_path: Path) -> None:
    """kill -9 again and again, the receiver now up, now failing: all that was sent arrives."""
    tests = Path(__file__).resolve().parents[2]
    sent = -1
    for round_ in range(3):
        receiver.mode = "fail" if round_ == 1 else "ok"
        process = subprocess.Popen(
            [sys.executable, "-c", SENDER, receiver.url, str(tmp_path), str(sent + 1)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(tests), "PATH": ""},
            text=True,
        )
        assert process.stdout is not None
        for _ in range(80):
            sent = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().splitlines():
            sent = int(line)
        process.wait()
        process.stdout.close()
    sink = open_sink(receiver, tmp_path)
    wanted = names(0, sent + 1)
    eventually(lambda: receiver.received and receiver.ids()[-1] >= wanted[-1])
    sink.close(1)
    firsts = list(dict.fromkeys(receiver.ids()))
    # The last line may have been cut off with its number: one more than was printed is fine.
    assert firsts[: len(wanted)] == wanted
    assert len(firsts) <= len(wanted) + 3
