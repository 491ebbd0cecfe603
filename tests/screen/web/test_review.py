"""The API of events and reviews, and the data set that reviews make."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from dashboard_demo import DemoMonitor, demo_sources
from telling import source_event, stream_event

from mpft_deploy.dataset import drop_unreadable, find_samples
from mpft_deploy.screen.streams.records import Picture
from mpft_deploy.screen.tell.config import Http, Snapshots
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.screen.web.server import Dashboard


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Dashboard]:
    """With snapshots of whatever is decided."""
    monitor = DemoMonitor(demo_sources(1, generated=0, down=0))
    rng = np.random.default_rng(0)

    def picture(event: object) -> Picture:
        return Picture(rng.integers(0, 256, (300, 400, 3), np.uint8), 1.0, [])

    config = Snapshots(folder=str(tmp_path / "shots"), when=("generated", "no sign"))
    store = Store(None)
    sinks = Sinks(snapshots=SnapshotSink(config, picture, store), store=store)
    one = serve(monitor, Http(address="127.0.0.1:0"), sinks)
    for number in range(12):
        sinks.send(stream_event(number, verdict="generated" if number % 3 else "no sign"))
        sinks.send(source_event(number))
    assert sinks.snapshots is not None
    sinks.snapshots.close(10)
    yield one
    one.sinks.close(1)


def ask(server: Dashboard, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{server.url}api/v1{path}", data, method="GET" if data is None else "PUT")
    with urlopen(request) as answer:
        return json.loads(answer.read())


def test_pages_hold_each_event_once(server: Dashboard) -> None:
    found: list[int] = []
    page = ask(server, "/events?limit=5")
    while True:
        found += [event["id"] for event in page["events"]]
        server.sinks.send(source_event(100 + len(found)))  # comes while somebody reads
        if page["next"] is None:
            break
        page = ask(server, f"/events?limit=5&before={page['next']}")
    assert found == list(range(24, 0, -1))


def test_a_full_last_page_leads_to_no_other(server: Dashboard) -> None:
    whole = ask(server, "/events?limit=24")
    assert (len(whole["events"]), whole["next"]) == (24, None)
    assert ask(server, "/events?limit=23")["next"] == whole["events"][22]["id"]


def test_what_is_selected(server: Dashboard) -> None:
    verdicts = ask(server, "/events?verdict=no+sign&since=1700000001&until=1700000009")["events"]
    assert [one["event"]["id"] for one in verdicts] == ["e000006", "e000003"]
    assert ask(server, "/events?source=nobody") == {"events": [], "next": None}
    number = verdicts[0]["id"]
    said = ask(server, f"/events/{number}/review", {"state": "unclear", "by": "Ann"})
    assert ask(server, "/events?state=unclear")["events"] == [said]
    assert ask(server, f"/events/{number}") == said


def test_reviews_become_a_data_set(
    server: Dashboard, tmp_path: Path, bundle: Path, mpft: Callable[..., tuple[int, str, str]]
) -> None:
    events = ask(server, "/events?verdict=generated")["events"]
    events += ask(server, "/events?verdict=no+sign")["events"]
    states = ["confirmed", "dismissed", "unclear", "confirmed", "dismissed"]
    wanted = {}
    for event, state in zip(events[-6:-1], states, strict=True):
        ask(server, f"/events/{event['id']}/review", {"state": state, "note": 'a, "b"'})
        generated = (event["event"]["verdict"] == "generated") == (state == "confirmed")
        if state != "unclear":
            wanted[event["snapshot"]] = int(generated)
    (tmp_path / "shots" / events[-2]["snapshot"]).unlink()  # grew too old
    del wanted[events[-2]["snapshot"]]
    with urlopen(f"{server.url}api/v1/export") as answer:
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    archive.extractall(tmp_path / "set")
    samples = find_samples([tmp_path / "set" / "manifest.csv"])
    assert {sample.path.name: sample.label for sample in samples} == wanted
    assert {(sample.set, sample.source) for sample in samples} == {("reviewed", "gate")}
    assert len(drop_unreadable(samples, print)) == len(wanted)
    out = tmp_path / "eval"
    code, told, said = mpft(
        "eval", bundle, tmp_path / "set" / "manifest.csv", "--out", out, "--json"
    )
    assert code == 0, said
    assert json.loads(told)["header"]["images"] == len(wanted)
    with urlopen(f"{server.url}api/v1/export?source=nobody") as answer:
        assert zipfile.ZipFile(io.BytesIO(answer.read())).namelist() == ["manifest.csv"]


def test_snapshots_from_before_1980_are_exported(server: Dashboard) -> None:
    """A board without a battery begins in 1970, and ZIP in 1980."""
    for stored in ask(server, "/events?verdict=generated")["events"]:
        ask(server, f"/events/{stored['id']}/review", {"state": "confirmed", "by": "Ann"})
        assert server.sinks.snapshots is not None
        path = server.sinks.snapshots.find(stored["snapshot"])
        assert path is not None
        os.utime(path, (0, 0))
    with urlopen(f"{server.url}api/v1/export") as answer:
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    assert len(archive.namelist()) == 9


def test_precision_counts_generated_alone(server: Dashboard) -> None:
    for event in ask(server, "/events?verdict=no+sign")["events"]:
        ask(server, f"/events/{event['id']}/review", {"state": "confirmed"})
    for event in ask(server, "/events?verdict=generated")["events"][:2]:
        ask(server, f"/events/{event['id']}/review", {"state": "dismissed"})
    counts = {"confirmed": 0, "dismissed": 2, "unclear": 0, "open": 6}
    assert ask(server, "/precision") == counts
    assert ask(server, "/precision?source=nobody") == dict.fromkeys(counts, 0)
