"""Notifications through Apprise, to a real receiver."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telling import (
    HandClock,
    Receiver,
    eventually,
    frame_event,
    receiving,
    source_event,
    stream_event,
)

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.tell.config import Notify
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.notify import NotifySink
from mpft_deploy.views import Window

PLANTED = "Xq7PlantedPassword42"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


class Phone(Sinks):
    """A store whose notifications go to a receiver."""

    def __init__(self, receiver: Receiver, folder: Path | None = None, **table: Any) -> None:
        super().__init__()
        self.clock = HandClock()
        config = Notify(**{"urls": (f"json://user:{PLANTED}@127.0.0.1:{receiver.port}/",), **table})
        self.sink = NotifySink(config, 0, self.store, folder)
        self.sink.first_wait, self.sink.clock = 0.05, self.clock
        self.append(self.sink)
        self._receiver = receiver

    def told(self) -> list[tuple[str, str]]:
        """Title and text of what arrived, when all is done."""
        eventually(lambda: self.sink.stats().waiting == 0)
        said = [json.loads(body) for _, body in self._receiver.received]
        return [(one["title"], one["message"]) for one in said]


def test_a_verdict_with_its_picture(receiver: Receiver, tmp_path: Path) -> None:
    phone = Phone(receiver, tmp_path)
    looked_at = LookedAt(share=0.0544, windows=(Window(8, 16, 224, 224),))
    phone.send(stream_event(1, snapshot="shot.jpg", looked_at=looked_at))
    for event in (stream_event(2, verdict="no sign"), source_event(3), frame_event(4)):
        phone.send(event)
    time.sleep(0.2)
    assert not receiver.received  # it waits for the file
    (tmp_path / "shot.jpg").write_bytes(b"\xff\xd8\xff of a JPEG")
    [(title, text)] = phone.told()
    phone.close(1)
    assert title == "gate: generated"
    assert "GENERATED (was unsure: evidence; evidence +4.7 from 12 frames" in text
    assert text.endswith("\nJudged: 5.4% of the picture.")
    [attachment] = json.loads(receiver.received[0][1])["attachments"]
    assert base64.b64decode(attachment["base64"]) == b"\xff\xd8\xff of a JPEG"
    assert phone.sink.stats().delivered == 1


def test_a_camera_that_drifted(receiver: Receiver) -> None:
    phone = Phone(receiver, when=("drift",))
    phone.send(stream_event(1))
    phone.send(stream_event(2, verdict="unsure", previous="no sign", reason="reconnect"))
    phone.send(stream_event(3, verdict="unsure", previous="no sign", reason="drift"))
    [(title, text)] = phone.told()
    phone.close(1)
    assert title == "gate: camera drifted"
    assert text.endswith("the camera does not show what it was taught by: teach it again")


def test_not_too_often(receiver: Receiver) -> None:
    phone = Phone(receiver, interval=300, per_hour=3, when=("generated", "down"))
    for number in range(3):
        phone.send(stream_event(number))
    phone.send(source_event(3, source="yard", state="down"))
    assert [title for title, _ in phone.told()] == ["gate: generated", "yard: down"]
    assert phone.told()[1][1].endswith("2 more since the last notification: gate")
    phone.clock.now += 301
    phone.send(stream_event(4))
    phone.told()
    phone.send(stream_event(5, source="door"))  # the fourth of this hour
    assert len(phone.told()) == 3
    assert "more since" not in phone.told()[2][1]
    assert phone.sink.stats().dropped == {"rate": 3}
    assert phone.sink.stats().delivered == 3
    phone.clock.now += 3600
    phone.send(stream_event(6))
    assert phone.told()[3][1].endswith("1 more since the last notification: door")
    phone.close(1)


def test_not_at_night(receiver: Receiver) -> None:
    phone = Phone(receiver, quiet="22:00-07:00")
    phone.clock.date = time.mktime((2026, 11, 29, 23, 30, 0, 0, 0, -1))
    phone.send(stream_event(1))
    assert phone.told() == []
    assert phone.sink.stats().dropped == {"quiet": 1}
    phone.clock.date += 8 * 3600
    phone.send(stream_event(2))
    assert phone.told()[0][1].endswith("1 more since the last notification: gate")
    phone.close(1)


def test_a_service_that_is_away_is_tried_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    receiver.mode = "fail"
    phone = Phone(receiver)
    phone.send(stream_event(1))
    eventually(lambda: receiver.attempts >= 2)
    assert phone.sink.stats().waiting == 1
    receiver.mode = "ok"
    assert len(phone.told()) == 1
    phone.close(1)
    assert "notify json: the service did not take a notification" in caplog.text
    assert PLANTED not in caplog.text


def test_addresses(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text(f"json://127.0.0.1:{receiver.port}/\nnothing://{PLANTED}\n")
    config = Notify(urls_file=str(file))
    assert len(config.addresses()) == 2
    with pytest.raises(UsageError, match="address 2 is of no service") as caught:
        NotifySink(config, 1, Sinks().store, None)
    assert PLANTED not in str(caught.value)
    assert PLANTED not in repr(Notify(urls=(f"json://{PLANTED}",)))
    with pytest.raises(InputError, match="cannot be read"):
        Notify(urls_file=str(tmp_path / "none")).addresses()
    for table in ({}, {"urls": ("a",), "urls_file": "b"}, {"urls": ("a",), "quiet": "7-8"}):
        with pytest.raises(UsageError, match=r"\[notify\]"):
            Notify(**table)  # type: ignore[arg-type]
