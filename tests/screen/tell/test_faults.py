"""The fault table's rows of receivers, brokers and disks: what is lost, and how soon all is well.

Each test writes what it measured to build/faults.json; docs/streams.md shows it. `make faults` has
receivers and brokers down for a minute.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Broker, Subscriber, require_broker
from telling import (
    Hook,
    Network,
    eventually,
    fill,
    receiving,
    source_event,
    source_status,
    stream_event,
)

from mpft_deploy.screen.streams.records import Event, Picture
from mpft_deploy.screen.tell.config import Mqtt, Snapshots
from mpft_deploy.screen.tell.deliver import FIRST_WAIT
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.mqtt import MqttSink
from mpft_deploy.screen.tell.store import Store

Faults = dict[str, dict[str, Any]]

DOWN = float(os.environ.get("MPFT_DOWN_SECONDS", "2"))
"""Seconds that a receiver or a broker is away."""

WAITED = 60.0
"""Seconds within which it must be noticed that one is back: waits grow to 15 s."""


def send_for(seconds: float, send: Callable[[Event], None], first: int) -> int:
    """Send ten events a second, numbered from `first`, now real, now generated; the next number."""
    number, end = first, time.monotonic() + seconds
    while time.monotonic() < end:
        send(stream_event(number, verdict="generated" if number % 2 else "no sign"))
        number += 1
        time.sleep(0.1)
    return number


def names(count: int) -> list[str]:
    return [f"e{number:06d}" for number in range(count)]


def test_the_receiver_is_down_for_a_minute(tmp_path: Path, faults: Faults) -> None:
    with receiving() as receiver:
        sink = Hook(receiver, tmp_path / "screen.db", FIRST_WAIT)
        count = send_for(0.5, sink.send, 0)
        eventually(lambda: len(receiver.received) == count)
        receiver.down()
        receiver.hang_up()
        down = time.monotonic()
        before, count = count, send_for(DOWN, sink.send, count)
        assert sink.stats().waiting == count - before
        away = time.monotonic() - down
        receiver.up()
        back = time.monotonic()
        eventually(lambda: len(receiver.received) >= count, WAITED)
        seconds = time.monotonic() - back
        assert receiver.ids() == names(count)
        assert sink.stats().dropped == {}
        assert sink.stats().failures >= 1
        sink.close(1)
    faults["webhook receiver down"] = {
        "recovered_s": seconds,
        "down_s": away,
        "note": f"{count - before} events, none lost, in order",
    }


def test_the_broker_restarts(tmp_path: Path, faults: Faults) -> None:
    require_broker()
    broker = Broker(tmp_path)
    # Through a way that is cut meanwhile, so that a subscriber is there before the sink is.
    network = Network(broker.port)
    statuses = [source_status()]
    config = Mqtt(host="127.0.0.1", port=network.port, interval=0.0)
    sink = MqttSink(config, Store(None), lambda: statuses)
    sink.send(source_event(1))
    eventually(lambda: sink.stats().delivered >= 4 and sink.stats().waiting == 0)
    broker.down()
    network.cut()
    down = time.monotonic()
    eventually(lambda: not sink._client.is_connected())
    count = send_for(DOWN, sink.send, 0)
    eventually(lambda: sink.stats().waiting >= count)
    away = time.monotonic() - down
    statuses[0] = source_status(verdict="no sign")
    broker.up()
    subscriber = Subscriber(broker.port)
    network.join()
    back = time.monotonic()
    # A broker that forgot everything is told every event, in order, and then the newest state.
    topic = "mpft/gate/event"
    eventually(lambda: len(set(subscriber.ids(topic))) >= count, WAITED)
    seconds = time.monotonic() - back
    assert list(dict.fromkeys(subscriber.ids(topic))) == names(count)
    eventually(lambda: sink.stats().waiting == 0)
    eventually(lambda: "mpft/gate/state" in subscriber.latest)
    eventually(lambda: json.loads(subscriber.latest["mpft/gate/state"])["verdict"] == "no sign")
    assert subscriber.latest["mpft/availability"] == "online"
    assert sum(topic.endswith("/config") for topic in subscriber.latest) == 1
    assert sink.stats().failures >= 1
    assert sink.stats().dropped == {}
    sink.close(2)
    subscriber.close()
    network.close()
    broker.down()
    faults["MQTT broker restarted"] = {
        "recovered_s": seconds,
        "down_s": away,
        "note": f"{count} events, none lost, in order",
    }


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_the_disk_of_the_store_is_full(small_disk: Path, faults: Faults) -> None:
    """The receiver is down too: events wait in memory, and are written when there is room."""
    with receiving() as receiver:
        receiver.down()
        sink = Hook(receiver, small_disk / "screen.db", FIRST_WAIT)
        sink.send(stream_event(0))
        eventually(lambda: sink.stats().failures >= 1)
        ballast = fill(small_disk)
        for number in range(1, 900):
            sink.send(stream_event(number))
        assert sink.stats().waiting == 900
        assert sink.store.stats().waiting > 0
        ballast.unlink()
        room = time.monotonic()
        eventually(lambda: sink.store.stats().waiting == 0, WAITED)
        seconds = time.monotonic() - room
        receiver.up()
        eventually(lambda: len(receiver.received) >= 900, WAITED)
        assert receiver.ids() == names(900)
        assert sink.stats().dropped == {}
        sink.close(1)
    faults["disk of the store full, receiver down"] = {
        "recovered_s": seconds,
        "note": "900 events waited in memory, none lost, in order",
    }


def test_the_disk_of_snapshots_is_full(small_disk: Path, faults: Faults) -> None:
    folder = small_disk / "shots"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    config = Snapshots(folder=str(folder))
    sink = SnapshotSink(config, lambda event: Picture(pixels, 1.7e9, []), Store(None))

    def handled() -> int:
        return sink.stats().delivered + sink.stats().failures

    for number in range(6):
        sink.send(stream_event(number))
        eventually(lambda number=number: handled() == number + 1)
    stats = sink.stats()
    assert stats.delivered >= 1
    assert stats.dropped["error"] == stats.failures == 6 - stats.delivered >= 1
    for path in folder.iterdir():
        path.unlink()
    room = time.monotonic()
    sink.send(stream_event(7))
    eventually(lambda: handled() == 7)
    seconds = time.monotonic() - room
    sink.close(5)
    assert sink.stats().delivered == stats.delivered + 1
    assert [path.suffix for path in folder.iterdir()] == [".jpg"]  # no rest of what failed
    faults["disk of snapshots full"] = {
        "recovered_s": seconds,
        "note": f"{stats.failures} snapshots missing, each counted",
    }
