"""MQTT with a real broker, which goes away and comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from broker import PASSWORD, Broker, Subscriber, require_broker
from jinja2 import Environment
from telling import (
    Network,
    eventually,
    frame_event,
    source_event,
    source_status,
    stream_event,
)

from mpft_deploy.prepared import LookedAt
from mpft_deploy.screen.streams.records import RegionStatus, SourceStatus
from mpft_deploy.screen.tell import mqtt
from mpft_deploy.screen.tell.config import Mqtt
from mpft_deploy.screen.tell.discovery import device, slug
from mpft_deploy.screen.tell.mqtt import MqttSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.views import Window

MAIN = slug("Main street")


@pytest.fixture(autouse=True)
def _broker_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    require_broker()
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    one = Broker(tmp_path)
    yield one
    one.down()


def open_sink(
    broker: Broker,
    statuses: Sequence[SourceStatus] = (source_status(),),
    folder: Path | None = None,
    store: Store | None = None,
    **changes: Any,
) -> MqttSink:
    fields = {"host": "127.0.0.1", "port": broker.port, "interval": 0.0}
    config = Mqtt(**{**fields, **changes})
    return MqttSink(config, store or Store(None), lambda: statuses, folder)


def test_states_events_and_discovery(broker: Broker) -> None:
    statuses = [source_status()]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses)
    sink.send(source_event(1))
    eventually(lambda: '"unsure"' in listener.latest.get("mpft/gate/state", ""))
    statuses[0] = source_status(
        verdict="generated", evidence=4.70004, probability=0.12501, frame_age_ms=199.99
    )
    sink.send(frame_event(2))  # is not an event there
    sink.send(stream_event(3))
    eventually(lambda: '"generated"' in listener.latest.get("mpft/gate/state", ""))
    state = json.loads(listener.latest["mpft/gate/state"])
    assert state == {
        "source": "gate",
        "state": "live",
        "reason": "",
        "verdict": "generated",
        "evidence": 4.7,
        "probability": 0.125,
        "frame_age_ms": 200.0,
    }
    eventually(lambda: listener.latest.get("mpft/availability") == "online")
    assert listener.latest["mpft/gate/availability"] == "online"
    eventually(lambda: listener.ids("mpft/gate/event") == ["s000001", "e000003"])
    config = json.loads(listener.latest["homeassistant/device/mpft_gate/config"])
    assert config["state_topic"] == "mpft/gate/state"
    assert config["device"]["name"] == "gate"
    parts = {
        part["unique_id"].removeprefix("mpft_gate_"): part for part in config["components"].values()
    }
    assert len(parts) == 6
    assert all({"topic": "mpft/availability"} in part["availability"] for part in parts.values())
    # Without snapshots there is no picture to come.
    assert {part["platform"] for part in parts.values()} == {"binary_sensor", "sensor", "event"}
    assert parts["event"]["state_topic"] == "mpft/gate/event"
    # As Home Assistant, whose templates are Jinja's, reads what was told.
    jinja = Environment()
    jinja.filters["to_json"] = json.dumps
    events = [json.loads(text) for topic, text in listener.messages if topic == "mpft/gate/event"]
    template = jinja.from_string(parts["event"]["value_template"])
    read = [json.loads(template.render(value_json=event)) for event in events]
    assert [one["event_type"] for one in read] == ["live", "generated"]
    assert read[1]["evidence"] == 4.7
    assert {one["event_type"] for one in read} <= set(parts["event"]["event_types"])
    for key, wanted in {
        "generated": "ON", "verdict": "generated", "probability": "12.5", "frame_age": "200.0",
        "state": "live",
    }.items():  # fmt: skip
        template = jinja.from_string(parts[key]["value_template"])
        assert template.render(value_json=state) == wanted
        assert template.render(value_json={"verdict": "unsure"}) in ("None", "unsure", "connecting")
    eventually(lambda: sink.stats().waiting == 0)
    sink.close(2)
    eventually(lambda: listener.latest["mpft/availability"] == "offline")
    listener.close()


def test_a_dead_source_is_unavailable(broker: Broker) -> None:
    statuses = [source_status()]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses)
    eventually(lambda: listener.latest.get("mpft/gate/availability") == "online")
    statuses[0] = source_status(state="down", reason="connection refused")
    eventually(lambda: listener.latest.get("mpft/gate/availability") == "offline")  # by itself
    eventually(lambda: "connection refused" in listener.latest["mpft/gate/state"])
    sink.close(2)
    listener.close()


def test_a_state_that_stays_is_told_now_and_then(broker: Broker) -> None:
    statuses = [source_status()]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses, interval=3600.0)
    eventually(lambda: "mpft/gate/state" in listener.latest)
    for number in range(20):
        statuses[0] = source_status(evidence=float(number))
        sink.send(stream_event(number))
    statuses[0] = source_status(evidence=20.0, verdict="no sign")  # is told at once
    sink.send(stream_event(20))
    eventually(lambda: '"no sign"' in listener.latest["mpft/gate/state"])
    told = [text for topic, text in listener.messages if topic == "mpft/gate/state"]
    assert [json.loads(text)["evidence"] for text in told] == [0.0, 20.0]
    sink.close(2)
    listener.close()


def region(name: str, **changes: Any) -> RegionStatus:
    fields = {"verdict": "generated", "evidence": 4.7, "probability": 0.125}
    return RegionStatus(region=name, box=(0.0, 0.0, 0.5, 1.0), **{**fields, **changes})


def test_a_region_is_a_device_beside_its_source(broker: Broker) -> None:
    left, right = region("left screen"), region("right", verdict="unsure", evidence=0.0)
    whole = {"verdict": "generated", "region": "left screen"}
    statuses = [source_status(**whole, regions=(left, right))]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses)
    topic = f"mpft/{slug('gate/left screen')}"
    sink.send(stream_event(3, region="left screen", source_verdict="generated"))
    eventually(lambda: "mpft/gate_right" in " ".join(listener.latest))
    statuses[0] = source_status(**whole, regions=(left, right), state="down")
    sink.send(source_event(5, state="down", previous="live"))
    eventually(lambda: '"down"' in listener.latest.get(f"{topic}/state", ""))
    assert listener.latest[f"{topic}/availability"] == "offline"
    state = json.loads(listener.latest[f"{topic}/state"])
    assert (state["source"], state["part_of"]) == ("gate/left screen", "gate")
    assert (state["verdict"], state["probability"], state["state"]) == ("generated", 0.125, "down")
    eventually(lambda: '"down"' in listener.latest["mpft/gate/state"])
    assert json.loads(listener.latest["mpft/gate/state"])["verdict"] == "generated"
    assert listener.ids("mpft/gate/event") == ["e000003", "s000005"]
    names = {json.loads(m)["device"]["name"] for t, m in listener.latest.items() if "/config" in t}
    assert names == {"gate", "gate/left screen", "gate/right"}
    statuses[0] = source_status(**whole, regions=(right,))
    sink.send(source_event(6, state="removed", previous="down", region="left screen"))
    eventually(lambda: listener.latest[f"{topic}/state"] == "")
    assert listener.latest["mpft/gate/state"] != ""
    sink.close(2)
    listener.close()


def test_the_last_will_tells_of_a_process_that_died(broker: Broker) -> None:
    listener, sink = Subscriber(broker.port), open_sink(broker)
    eventually(lambda: listener.latest.get("mpft/availability") == "online")
    sink._client.socket().close()  # as the kernel does for a killed process: no goodbye
    eventually(lambda: ("mpft/availability", "offline") in listener.messages)
    sink.close(1)
    listener.close()


def test_a_network_that_was_cut_loses_no_event(broker: Broker) -> None:
    network, listener = Network(broker.port), Subscriber(broker.port)
    statuses = [source_status()]
    sink = open_sink(broker, statuses, port=network.port)
    sink.send(source_event(1))
    eventually(lambda: listener.latest.get("mpft/gate/availability") == "online")
    eventually(lambda: sink.stats().waiting == 0)  # or it would be repeated later
    network.cut()
    eventually(lambda: listener.latest["mpft/availability"] == "offline")  # the last will
    eventually(lambda: not sink._client.is_connected())
    listener.messages.clear()
    for number in range(60):
        sink.send(stream_event(number, verdict="generated" if number % 2 else "no sign"))
    sink.send(source_event(2, state="down", previous="live"))
    statuses[0] = source_status(state="down")
    network.join()
    eventually(lambda: listener.latest["mpft/availability"] == "online")
    eventually(lambda: sink.stats().waiting == 0)
    eventually(lambda: listener.latest["mpft/gate/availability"] == "offline")
    wanted = [f"e{number:06d}" for number in range(60)]
    assert list(dict.fromkeys(listener.ids("mpft/gate/event")))[:60] == wanted
    # What is retained was told after what was repeated: nothing older comes behind it.
    topics = [topic for topic, _ in listener.messages]
    assert topics.index("mpft/availability") > max(
        index for index, topic in enumerate(topics) if topic == "mpft/gate/event"
    )
    eventually(lambda: '"down"' in listener.latest["mpft/gate/state"])
    sink.close(2)
    listener.close()
    network.close()


def test_events_wait_for_a_broker_that_comes_late(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.down()
    sink = open_sink(broker)
    for number in range(5):
        sink.send(stream_event(number))
    eventually(lambda: sink.stats().failures >= 1)
    eventually(lambda: sink.stats().problem.startswith("mqtt 127.0.0.1: "))
    broker.up()
    eventually(lambda: sink.stats().waiting == 0 and sink.stats().delivered >= 5)
    assert sink.stats().problem == ""
    sink.close(1)
    broker.down()


def retained(broker: Broker) -> dict[str, str]:
    """What a newcomer is told."""
    listener = Subscriber(broker.port)
    listener.client.publish("end/of/retained", "x", qos=1)
    eventually(lambda: "end/of/retained" in listener.latest)
    listener.close()
    return {topic: text for topic, text in listener.latest.items() if topic != "end/of/retained"}


def test_a_source_that_is_removed_is_forgotten(broker: Broker) -> None:
    statuses = [source_status("gate"), source_status("Main street")]
    sink = open_sink(broker, statuses)
    eventually(lambda: len([t for t in retained(broker) if t.endswith("/state")]) == 2)
    listener = Subscriber(broker.port)
    del statuses[0]
    sink.send(source_event(3, state="removed", previous="live"))
    eventually(lambda: listener.ids("mpft/gate/event") == ["s000003"])
    eventually(lambda: "mpft/gate/state" not in retained(broker))
    left = retained(broker)
    assert not [topic for topic in left if "gate" in topic]
    assert [t for t in left if t.endswith("/config")] == [
        f"homeassistant/device/mpft_{MAIN}/config"
    ]
    # It may come back.
    statuses.append(source_status("gate"))
    eventually(lambda: "homeassistant/device/mpft_gate/config" in retained(broker))
    sink.close(2)
    listener.close()


def test_what_an_earlier_run_left_is_taken_back(broker: Broker, tmp_path: Path) -> None:
    store = Store(tmp_path / "screen.db")
    gate, yard, old = (source_status(name) for name in ("gate", "yard", "old"))
    sink = open_sink(broker, [gate, yard, old], store=store)
    neighbour = open_sink(broker, [old], prefix="mpft/attic")
    eventually(lambda: len([t for t in retained(broker) if t.endswith("/state")]) == 4)
    sink.close(2)
    before = retained(broker)
    store.close()
    store = Store(tmp_path / "screen.db")
    sink = open_sink(broker, [gate, yard], store=store)
    eventually(lambda: "mpft/old/state" not in retained(broker))
    eventually(lambda: sink.stats().waiting == 0)
    left = retained(broker)
    gone = {"mpft/old/state", "mpft/old/availability", "homeassistant/device/mpft_old/config"}
    assert before.keys() - left.keys() == gone  # and nothing that others told
    assert store.settings("mqtt").keys() == {"gate", "yard"}
    sink.close(2)
    store.close()
    neighbour.close(2)


def test_a_source_that_is_removed_while_the_broker_is_away(broker: Broker, tmp_path: Path) -> None:
    store, statuses = Store(tmp_path / "screen.db"), [source_status("gate"), source_status("yard")]
    sink = open_sink(broker, statuses, store=store)
    eventually(lambda: len([t for t in retained(broker) if t.endswith("/state")]) == 2)
    sink.close(2)
    store.forget_settings("gate")  # as who removes it
    del statuses[0]
    sink = open_sink(broker, statuses, store=store)
    eventually(lambda: not [topic for topic in retained(broker) if "gate" in topic])
    sink.close(2)
    store.close()


def test_nothing_is_taken_back_before_the_sources_are_known(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "screen.db")
    sink = open_sink(broker, store=store)
    eventually(lambda: "mpft/gate/state" in retained(broker))
    sink.close(2)
    listener, known = Subscriber(broker.port), []
    sink = MqttSink(Mqtt(host="127.0.0.1", port=broker.port), store, lambda: known or None)
    sink.send(source_event(7))
    eventually(lambda: listener.ids("mpft/gate/event") == ["s000007"])
    eventually(lambda: sink.stats().waiting == 0)
    known.append(source_status("yard"))
    eventually(lambda: "mpft/yard/state" in listener.latest)
    told = listener.messages
    event = [topic for topic, _ in told].index("mpft/gate/event")
    assert event < told.index(("mpft/gate/state", ""))
    assert not [one for one in caplog.records if one.levelname == "ERROR"]
    sink.close(2)
    store.close()
    listener.close()


def test_another_camera_of_that_name_is_introduced_anew(broker: Broker, tmp_path: Path) -> None:
    statuses = [source_status("gate")]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses, tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"of the old one")
    sink.send(stream_event(2, snapshot="a.jpg"))
    eventually(lambda: listener.latest.get("mpft/gate/picture") == "of the old one")
    sink.send(source_event(3, state="removed", previous="live"))
    eventually(lambda: listener.latest["mpft/gate/picture"] == "")
    device = "homeassistant/device/mpft_gate/config"
    eventually(lambda: [bool(m) for t, m in listener.messages if t == device][-2:] == [False, True])
    eventually(lambda: listener.latest["mpft/gate/state"] != "")
    sink.close(2)
    listener.close()


def test_a_broker_with_passwords(tmp_path: Path) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    broker = Broker(tmp_path, login=True)
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    listener = Subscriber(broker.port, ("screener", PASSWORD))
    sink = open_sink(broker, user="screener", password_file=str(secret))
    sink.send(source_event(1))
    eventually(lambda: "mpft/gate/state" in listener.latest)
    sink.close(1)
    secret.write_text("wrong\n")
    sink = open_sink(broker, user="screener", password_file=str(secret))
    eventually(lambda: sink.stats().failures >= 1)
    sink.close(1)
    assert not any(PASSWORD in text for _, text in listener.messages)
    listener.close()
    broker.down()


def test_names_as_topics_stay_apart() -> None:
    names = ["gate", "gate+", "gate#", "a/b", "a_b", "Tür", "", "gate ", "GATE"]
    slugs = {slug(name) for name in names}
    assert len(slugs) == len(names)
    assert all(not set(one) & set("+#/$ ") for one in slugs)


def test_discovery_of_two_screeners_stays_apart() -> None:
    first = device("mpft", "gate", region=False, pictures=True)
    second = device("attic/mpft", "gate", region=False, pictures=True)
    assert not first["components"].keys() & second["components"].keys()
    assert first["device"]["identifiers"] != second["device"]["identifiers"]


def test_the_frame_that_decided_is_told_and_taken_back(broker: Broker, tmp_path: Path) -> None:
    statuses = [source_status(regions=(region("left"),))]
    listener, sink = Subscriber(broker.port), open_sink(broker, statuses, tmp_path)
    sink.send(stream_event(2, snapshot="a.jpg"))
    seen = LookedAt(share=0.25, windows=(Window(8, 16, 24, 32),))
    named = {"snapshot": "b.jpg", "source_verdict": "generated", "looked_at": seen}
    sink.send(stream_event(3, region="left", **named))
    eventually(lambda: "e000003" in listener.ids("mpft/gate/event"))
    told = json.loads(listener.latest["mpft/gate/event"])  # what was judged of the picture
    assert told["looked_at"] == {"share": 0.25, "windows": [[8, 16, 24, 32]]}
    assert "mpft/gate/picture" not in listener.latest  # it is written by another thread
    (tmp_path / "b.jpg").write_bytes(b"a picture")
    left = slug("gate/left")
    for name in ("gate", left):
        eventually(lambda name=name: listener.latest.get(f"mpft/{name}/picture") == "a picture")
    [shown] = [
        part
        for part in json.loads(listener.latest["homeassistant/device/mpft_gate/config"])[
            "components"
        ].values()
        if part["platform"] == "image"
    ]
    assert shown["image_topic"] == "mpft/gate/picture"
    parts = json.loads(listener.latest[f"homeassistant/device/mpft_{left}/config"])["components"]
    assert "event" not in {
        part["platform"] for part in parts.values()
    }  # they are told of its source
    statuses.clear()
    eventually(lambda: "mpft/gate/picture" not in retained(broker))
    sink.close(2)
    listener.close()
