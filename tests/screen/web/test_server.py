"""What the server answers: sources, events, pictures, health, and other nodes."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from dashboard_demo import DemoMonitor, demo_sources
from headless import DESKTOP, PHONE, Browser
from pages import open_page, texts, too_wide
from PIL import Image
from telling import eventually, frame_event, free_port, source_event, stream_event
from visits import API, TOKEN, ask, get, port_of

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.screen.streams.records import Picture
from mpft_deploy.screen.tell.config import Health, Http, Node, Snapshots, User
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.kept import SnapshotSink
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve, serve_health
from mpft_deploy.screen.web.server import Dashboard


def test_what_it_answers(server: Dashboard, monitor: DemoMonitor) -> None:
    first = next(iter(monitor.sources))
    for event in (frame_event(1), frame_event(5, first), stream_event(2), source_event(3)):
        server.sinks.send(event)
    sources = ask(server, "/sources")["sources"]
    assert [source["source"] for source in sources] == list(monitor.sources)
    assert [source["picture_time"] for source in sources] == [1.7e9 + 5, None, None]
    events = ask(server, "/events")["events"]
    assert [event["event"]["id"] for event in events] == ["s000003", "e000002"]
    history = ask(server, "/history")
    assert [point[1] for point in history[first]] == [-1.25]
    assert "gate" not in history  # no such source any more
    status, headers, body = get(server, "/metrics")
    assert b"mpft_verdicts_total" in body
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert get(server, API + "/nothing")[0] == 404
    assert get(server, "/", method="POST", body="x")[0] == 405
    status, headers, body = get(server, "/livez", method="HEAD")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
def test_numbers_that_no_event_has(server: Dashboard, number: int) -> None:
    for path in (f"/events?before={number}", f"/events/{number}", f"/audit?before={number}"):
        assert get(server, API + path)[0] == 400, path


def test_wrong_parameters_are_named(server: Dashboard) -> None:
    for query, word in (("limit=0", b"limit"), ("befor=3", b"befor"), ("state=good", b"state")):
        status, _, body = get(server, f"{API}/events?{query}")
        assert status == 400
        assert word in body


def test_the_api_describes_itself(server: Dashboard, monitor: DemoMonitor) -> None:
    """Every path is there, and no reference leads nowhere."""
    described = ask(server, "/openapi.json")
    text = json.dumps(described)
    for part in text.split('"$ref": "')[1:]:
        found: Any = described
        for name in part.partition('"')[0].removeprefix("#/").split("/"):
            found = found[name]
    assert described["paths"][API + "/events/{number}/review"]["put"]["requestBody"]
    [parameter] = described["paths"][API + "/events/{number}"]["get"]["parameters"]
    assert (parameter["in"], parameter["required"]) == ("path", True)
    source = next(iter(monitor.sources)).replace(" ", "+")
    for path in described["paths"]:
        if "{" not in path:
            assert get(server, f"{path}?source={source}" if "picture" in path else path)[0] == 200


def test_health(monitor: DemoMonitor, locked: Dashboard) -> None:
    assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [200, 200]
    monitor.is_alive = False
    try:
        assert [get(locked, path)[0] for path in ("/livez", "/readyz")] == [503, 503]
    finally:
        monitor.is_alive = True


def test_pictures(server: Dashboard, monitor: DemoMonitor) -> None:
    name = next(iter(monitor.sources))
    query = name.replace(" ", "+")
    shown = json.loads(get(server, f"{API}/picture?source={query}")[2])
    assert (shown["width"], shown["height"]) == (1280, 720)
    assert len(shown["cells"]) == 96
    assert shown["windows"] == [[248, 528, 224, 224]]
    assert shown["share"] == pytest.approx(224 * 224 / (1280 * 720))
    with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as image:
        assert image.size == (640, 360)
    near = json.loads(get(server, f"{API}/picture?source={query}&near=1")[2])
    assert near["width"] <= 224 + 32
    [[row, column, *_]] = near["windows"]  # around the cells, which need not fill it
    assert -224 < min(row, column) <= max(row, column) < 224
    top, left, side = near["cells"][0]
    whole = monitor.sources[name].picture
    assert whole is not None
    with Image.open(io.BytesIO(base64.b64decode(near["jpeg"]))) as image:
        pixels = np.asarray(image).astype(int)
    row, column, _ = whole.cells[0]
    expected = whole.pixels[row : row + side, column : column + side].astype(int)
    assert np.abs(pixels[top : top + side, left : left + side] - expected).mean() < 12
    assert get(server, f"{API}/picture?source=nobody")[0] == 404


def test_a_source_without_a_picture() -> None:
    server = serve(
        DemoMonitor(demo_sources(1, generated=0, down=0)), Http(address="127.0.0.1:0"), Sinks()
    )
    assert get(server, f"{API}/picture?source=Main+street")[2] == b"null"
    server.sinks.close(1)


def test_snapshots_are_served_and_nothing_else(monitor: DemoMonitor, tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    shots = SnapshotSink(
        Snapshots(folder=str(tmp_path / "s")), lambda _: Picture(pixels, 1.0, []), Store(None)
    )
    (tmp_path / "s" / "notes.txt").write_text("private")
    (tmp_path / "secret.jpg").write_text("private")
    server = serve(monitor, Http(address="127.0.0.1:0"), Sinks(snapshots=shots))
    event: Any = shots.attach(stream_event(1))
    shots.close(5)
    assert get(server, f"{API}/snapshots/{event.snapshot}")[2][:2] == b"\xff\xd8"
    (tmp_path / "s" / event.snapshot).write_bytes(b"\xff\xd8 cut")
    assert get(server, f"{API}/snapshots/{event.snapshot}?small=true")[0] == 404
    for name in ("notes.txt", "../secret.jpg", "..%2Fsecret.jpg", "", f"x/{event.snapshot}"):
        assert get(server, f"{API}/snapshots/{name}")[0] == 404
    server.sinks.close(1)


def test_a_taken_port(server: Dashboard, monitor: DemoMonitor) -> None:
    with pytest.raises(EnvironmentLacksError, match="cannot be listened on"):
        serve(monitor, Http(address=f"127.0.0.1:{port_of(server)}"), Sinks())


def test_pictures_are_encoded_once_for_all(
    server: Dashboard, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpft_deploy.screen.web import board

    calls = []
    encode = board.encode_jpeg
    monkeypatch.setattr(board, "encode_jpeg", lambda *a, **k: calls.append(1) or encode(*a, **k))
    threads = [
        threading.Thread(target=get, args=(server, f"{API}/picture?source=Main+street"))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_reader_that_hangs_over_one_picture_delays_no_other(
    server: Dashboard, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, asked, free = monitor.picture, threading.Event(), threading.Event()

    def stuck(source: str) -> Picture | None:
        if source == "Main street":
            asked.set()
            free.wait(60)
        return picture(source)

    monkeypatch.setattr(server.board._monitor, "picture", stuck)
    first = threading.Thread(target=get, args=(server, f"{API}/picture?source=Main+street"))
    first.start()
    assert asked.wait(60)
    other = next(name for name in monitor.sources if name != "Main street")
    answer = get(server, f"{API}/picture?source={quote(other)}")
    assert answer[0] == 200
    assert first.is_alive()
    free.set()
    first.join()


def test_a_still_scene_is_converted_once(
    server: Dashboard, monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor converts a whole frame when it is asked for a picture."""
    from mpft_deploy.screen.web import board

    asked = []
    picture = monitor.picture
    monkeypatch.setattr(server.board._monitor, "picture", lambda s: asked.append(s) or picture(s))
    monkeypatch.setattr(board, "PICTURE_SECONDS", 0.0)
    server.sinks.send(frame_event(1, "Main street"))
    get(server, f"{API}/picture?source=Main+street")
    before = len(asked)
    for _ in range(3):
        get(server, f"{API}/picture?source=Main+street")
        get(server, f"{API}/sources")
    assert len(asked) == before
    server.sinks.send(frame_event(2, "Main street"))
    get(server, f"{API}/picture?source=Main+street")
    assert len(asked) > before


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_package_is_named_with_its_remedy(
    monitor: DemoMonitor, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentLacksError, match=rf"{package}: run `pip install .*dashboard"):
        serve(monitor, Http(address="127.0.0.1:0"), Sinks())
    with pytest.raises(EnvironmentLacksError, match=rf"\[health\] needs {package}"):
        serve_health(monitor, Health(address="127.0.0.1:0"))


def test_a_source_that_is_removed_leaves_the_page(server: Dashboard) -> None:
    for number in range(3):
        server.sinks.send(frame_event(number, "Main street"))
    server.board.picture("Main street", near=False)
    server.sinks.send(source_event(4, "Main street", state="removed", previous="live"))
    board = server.board
    kept = (board._history, board._judged, board._pictures)
    assert not any("Main street" in one for one in kept)
    assert ask(server, "/events")["events"][0]["event"]["state"] == "removed"


def test_a_history_has_a_point_a_second_and_an_end(server: Dashboard) -> None:
    from mpft_deploy.screen.web.board import HISTORY

    board, name = server.board, "Main street"
    board.note(stream_event(1, name, time=10.0, evidence=1.00049))
    board.note(frame_event(2, name, time=10.5, evidence=2.0, probability=0.25))  # of that second
    board.note(stream_event(3, name, time=11.4, evidence=3.0))
    assert ask(server, "/history")[name] == [[10.0, 2.0, 0.25], [11.4, 3.0, 0.25]]
    for second in range(100, 100 + 2 * HISTORY):
        board.note(frame_event(second, name, time=float(second)))
    times = [point[0] for point in ask(server, "/history")[name]]
    assert times == [float(100 + HISTORY + n) for n in range(HISTORY)]


def test_other_nodes_are_shown(monitor: DemoMonitor, browser: Browser) -> None:
    yard = DemoMonitor(demo_sources(2))
    yard.step(1.7e9)
    user = User(name="hall", role="viewer", token="hall-" + TOKEN)
    there = serve(yard, Http(address="127.0.0.1:0", token=TOKEN, users=(user,)), Sinks())
    for event in yard.step(1.7e9 + 1):
        there.sinks.send(event)
    nodes = (
        Node(name="yard", url=there.url, token=user.token),
        Node(name="locked", url=there.url, token="wrong-é\ufeff" + TOKEN),
        Node(name="other", url=there.url + "x", token=user.token),
        Node(name="nowhere", url=f"http://127.0.0.1:{free_port()}"),
    )
    here = serve(monitor, Http(address="127.0.0.1:0", nodes=nodes), Sinks())

    def told() -> dict[str, Any]:
        return {one["node"]: one for one in ask(here, "/sources")["nodes"]}

    eventually(lambda: told()["yard"]["sources"])
    assert [one["source"] for one in told()["yard"]["sources"]] == list(yard.sources)
    for node, problem in {
        "locked": "it does not know the token",
        "other": "it answered 404",
        "nowhere": "Connection refused",
    }.items():
        eventually(lambda node=node, problem=problem: told()[node]["problem"] == problem)
    assert ask(here, "/sources?own=true")["nodes"] == []  # nodes that show each other do no more
    name = list(yard.sources)[1]
    picture = ask(here, f"/nodes/yard/picture?source={name.replace(' ', '+')}")
    assert picture["width"] == 1280
    assert get(here, f"{API}/nodes/attic/picture?source=x")[0] == 404
    assert get(here, f"{API}/nodes/yard/picture?source=x")[0] == 404
    # On the page they stand beside the own ones, and lead to their own.
    count = len(monitor.sources) + 2
    for size in (DESKTOP, PHONE):
        open_page(browser, here.url, size)
        browser.wait_for(f"document.querySelectorAll('.tile').length === {count}")
        browser.ask("window.open = (url) => { window.opened = url; }")
        browser.tap(".tile:last-child .screen")
        browser.wait_for("document.querySelectorAll('.tile:last-child image').length === 1")
        assert texts(browser, ".tile:last-child .name span") == [f"yard: {name}"]
        assert browser.wait_for("window.opened") == f"{there.url}#source={quote(name)}"
        assert not browser.ask("document.querySelector('#detail').open")
        assert too_wide(browser) == []
    notice = "document.querySelector('#notice').textContent"
    browser.wait_for(f"{notice}.includes('locked: it does not know the token.')")
    there.sinks.close(1)
    browser.wait_for(f"{notice}.includes('yard: ')")
    browser.wait_for("document.querySelectorAll('.tile.broken').length === 2")
    text = browser.ask("document.documentElement.outerHTML")
    assert user.token not in text + str(told())
    here.sinks.close(1)
