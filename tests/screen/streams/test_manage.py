"""Sources that are added, tried, changed, paused and removed while it runs, by the API."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engines import read_pictures
from managed import AREAS, CAMERA, SECRET, TOML, Service
from onvif_network import PASSWORD, USER, Device, match, network
from telling import eventually, frame_event, stream_event
from visits import TOKEN

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.screen.streams.areas import Areas
from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.tell.config import Http, Role, User


def test_sources_are_added_paused_and_removed_and_outlive_a_restart(
    service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    status, added = one.ask("POST", "/sources", CAMERA)
    assert (status, added["source"], added["origin"]) == (200, "dock", "store")
    assert added["address"] == "rtsp://***@192.0.2.9/live?key=***"
    one.running.frame("dock")
    assert one.running.frame("hall")
    [dock] = [c.source for c in one.running.watch.scheduler.channels if c.source.name == "dock"]
    assert dock.settings.gate == 0  # as the file's defaults say
    assert f"{SECRET}x" in one.secrets  # which the log hides
    status, again = one.ask("POST", "/sources", CAMERA)
    assert (status, "already" in again["error"]) == (400, True)
    assert one.ask("POST", "/sources/dock/pause")[1]["paused"]
    assert one.running.state("paused", "dock").reason == "by the page"
    assert one.ask("POST", "/sources/hall/pause")[0] == 200
    assert one.running.watch.ready()  # nothing that is to be read is missing
    assert one.ask("POST", "/sources/nobody/pause")[0] == 404
    assert one.ask("DELETE", "/sources/hall")[0] == 400
    assert one.ask("POST", "/sources/hall/resume")[0] == 200
    one.running.frame("hall")
    one.close()
    # After a restart all is as it was left; the file can be read by its owner alone.
    two = service()
    two.serve(Http(address="127.0.0.1:0"))
    assert (two.path.with_suffix(".db").stat().st_mode & 0o777) == 0o600
    assert two.states()["dock"] == "paused"
    two.running.frame("hall")
    assert two.running.watch.scheduler.channels[1].source.tally.received == 0
    assert two.ask("POST", "/sources/dock/resume")[0] == 200
    two.running.frame("dock")
    # A file that names it too wins, and everybody says so.
    two.path.write_text(TOML + '[[source]]\nname = "dock"\naddress = "rtsp://192.0.2.7/x"\n')
    two.manager.reload(read_config(two.path, {}))
    assert "dock: added on the page, but the configuration's counts" in caplog.text
    listed = two.ask("GET", "/sources/settings")[1]
    assert [row["origin"] for row in listed] == ["file", "both"]
    assert listed[1]["address"] == "rtsp://192.0.2.7/x"
    assert two.ask("DELETE", "/sources/dock")[0] == 200
    assert [row["origin"] for row in two.ask("GET", "/sources/settings")[1]] == ["file", "file"]
    assert two.states().keys() == {"hall", "dock"}
    assert SECRET not in caplog.text


def test_a_source_may_be_called_as_what_is_done_to_one(service: Callable[..., Service]) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    for name in ("hall/lesson", "hall/baseline", "a%2Fb", "dock/pause/"):
        assert one.ask("POST", "/sources", {**CAMERA, "name": name})[0] == 200
        quoted = urllib.parse.quote(name, safe="")
        assert one.ask("POST", f"/sources/{quoted}/pause")[1]["source"] == name
        assert one.ask("POST", f"/sources/{quoted}/lesson", {})[1]["lesson"]
        assert one.ask("DELETE", f"/sources/{quoted}/lesson")[1]["lesson"] is None
        assert one.ask("DELETE", f"/sources/{quoted}")[0] == 200
    assert one.states().keys() == {"hall"}
    one.ask("POST", "/sources/hall/lesson", {})
    assert one.ask("DELETE", "/sources/hall/lesson")[1]["lesson"] is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"address": "pipe:"}, "pipe: may stand in the configuration file alone"),
        ({"ca_file": "a"}, "ca_file: may stand in the configuration file alone"),
        ({"address": "gst:filesrc location=/etc/passwd ! fakesink"}, "gst: may stand"),
        ({"address": "GST:videotestsrc"}, "gst: may stand"),
        ({"address": "/etc/passwd"}, "file: may stand"),
        ({"address": "file:///etc/passwd"}, "file: may stand"),
        ({"address": "v4l2:///dev/video0"}, "v4l2: may stand"),
        ({"address": "csi://0"}, "csi: may stand"),
        ({"address": "concat:a|b"}, "'concat' is unknown"),
        ({"address": "subfile,,start,0,,:/etc/passwd"}, "file: may stand"),
        ({"address": "rtsp://cam/a\r\nDESCRIBE x"}, "control characters"),
        ({"address": "rtsp://cam/a b"}, "control characters"),
        ({"address": "http://cam/\tx"}, "control characters"),
        ({"address": "rtsp://cam/\x00"}, "control characters"),
        ({"address": "rtsp:///x"}, "names no host"),
        ({"address": "rtsp://cam/" + 2000 * "x"}, "2000 characters"),
        ({"address": "rtsp://${PATH}/x"}, ""),  # taken as it is: it names no host that there is
        ({"name": ""}, "name: give it one"),
        ({"name": " x"}, "name: give it one"),
        ({"name": "a\nb"}, "name: give it one"),
        ({"name": ".."}, "name: choose another"),
        ({"name": 101 * "x"}, "name: choose another"),
        ({"decode": "some"}, "decode"),
        ({"adress": "x"}, "no such key; did you mean address?"),
        ({"address": None}, "address"),
        ({"connect": -1}, "connect"),
    ],
)
def test_what_may_not_be_added_is_refused(
    service: Callable[..., Service], table: dict[str, Any], message: str
) -> None:
    one = service()
    if not message:
        assert one.manager.add({**CAMERA, **table}).address == "rtsp://${PATH}/x"
        return
    with pytest.raises((UsageError, InputError), match=message) as error:
        one.manager.add({**CAMERA, **table})
    assert SECRET not in str(error.value)
    assert one.states().keys() == {"hall"}
    assert one.store.settings("source") == {}


def test_the_configuration_may_allow_more(service: Callable[..., Service], tmp_path: Path) -> None:
    one = service()
    clip = {"name": "clip", "address": str(tmp_path)}
    one.path.write_text(TOML.replace("[http]", '[http]\nlocal_sources = ["file"]'))
    one.manager.reload(read_config(one.path, {}))
    assert one.manager.add(clip).origin == "store"
    # Taken back, it is kept, not screened, and says why.
    one.path.write_text(TOML)
    one.manager.reload(read_config(one.path, {}))
    assert one.states().keys() == {"hall"}
    assert "file: may stand" in one.manager.sources()[1].problem
    one.serve(Http(address="127.0.0.1:0"))
    for method, what, body in (
        ("POST", "test", None),
        ("POST", "lesson", {}),
        ("DELETE", "baseline", None),
        ("PUT", "regions", AREAS),
    ):
        status, answer = one.ask(method, f"/sources/clip/{what}", body)
        assert (status, "file: may stand" in answer["error"]) == (400, True), what
    assert one.ask("POST", "/sources/clip/pause")[0] == 200
    one.manager.remove("clip")
    assert [row.source for row in one.manager.sources()] == ["hall"]


def test_a_source_is_tried_before_it_is_added(service: Callable[..., Service]) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    status, found = one.ask("POST", "/sources/test", {"address": CAMERA["address"]})
    assert status == 200
    assert (found["address"], found["width"]) == ("rtsp://***@192.0.2.9/live?key=***", 64)
    assert found["fps"] == pytest.approx(10, abs=3)
    assert one.ask("POST", "/sources/hall/test")[1]["height"] == 48
    assert one.ask("POST", "/sources/nobody/test")[0] == 404
    nobody = f"http://viewer:{SECRET}@127.0.0.1:9/x"
    status, refused = one.ask("POST", "/sources/test", {"address": nobody})
    assert status == 400
    assert refused["error"].startswith("http://***@127.0.0.1:9/x: ")
    assert one.ask("POST", "/sources/test", {"address": "/etc/passwd"})[0] == 400
    assert one.states().keys() == {"hall"}


def test_cameras_are_found_and_those_that_are_sources_are_named(
    service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "mpft_deploy")
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    one.ask("POST", "/sources", {"name": "dock", "address": "rtsp://u:p4ssw@127.0.0.1:8554/live"})
    camera = Device()
    with network(monkeypatch) as net:
        net.answers.append((camera.host, camera.match))
        net.answers.append(("127.0.0.2", lambda q: match(q, "", "")))
        status, found = one.ask("POST", "/sources/discover", {})
        assert status == 200
        assert [(row["host"], row["sources"], row["streams"]) for row in found] == [
            ("127.0.0.1", ["dock"], []),
            ("127.0.0.2", [], []),
        ]
        assert camera.requests == []  # nobody is asked without a user
        login = {"user": USER, "password": PASSWORD}
        found = one.ask("POST", "/sources/discover", login)[1]
    camera.close()
    assert found[0]["streams"][0]["address"].startswith("rtsp://127.0.0.1:8554/live?")
    assert found[1]["problem"]
    for body in ({"user": 101 * "x"}, {"login": ""}, {"user": None}, []):
        assert one.ask("POST", "/sources/discover", body)[0] == 400
    assert PASSWORD not in caplog.text
    assert one.store.settings("source").keys() == {"dock"}
    [held] = one.path.parent.glob("*.db")
    assert PASSWORD.encode() not in b"".join(p.read_bytes() for p in held.parent.glob("*.db*"))


def test_one_looks_for_cameras_at_a_time(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, answered = threading.Event(), threading.Event()

    def find(*_: str) -> list[Any]:
        looking.set()
        answered.wait(60)
        raise EnvironmentLacksError("no network")

    monkeypatch.setattr("mpft_deploy.screen.web.cameras.find_cameras", find)
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    first = threading.Thread(target=one.ask, args=("POST", "/sources/discover", {}))
    first.start()
    looking.wait(60)
    assert "already" in one.ask("POST", "/sources/discover", {})[1]["error"]
    answered.set()
    first.join()
    assert one.ask("POST", "/sources/discover", {}) == (503, {"error": "no network"})


def test_an_added_source_is_changed(service: Callable[..., Service]) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    assert one.ask("POST", "/sources", {**CAMERA, "decode": 2})[0] == 200
    one.running.frame("dock")
    assert (
        one.ask("PATCH", "/sources/dock", {"group": "yard", "decode": None})[1]["group"] == "yard"
    )
    kept = json.loads(one.store.settings("source")["dock"])
    assert kept == {**CAMERA, "group": "yard"}  # the address too, with what nobody is told
    [row] = [row for row in one.ask("GET", "/sources")[1]["sources"] if row["source"] == "dock"]
    assert row["group"] == "yard"
    channel = one.running.watch.scheduler.channels[1]
    one.ask("PATCH", "/sources/dock", {"group": "pier", "hours": ["00:00-24:00"]})
    assert one.running.watch.scheduler.channels[1] is channel  # it went on undisturbed
    for source, body, why in (
        ("dock", {"name": "pier"}, "name: it stays"),
        ("dock", {"address": "/etc/passwd"}, "file: may stand"),
        ("dock", {"decode": "some"}, "decode"),
        ("dock", {"address": None}, "address"),
        ("dock", {"hours": ["at night"]}, "hours 'at night'"),
        ("hall", {"group": "yard"}, "of the configuration file"),
        ("nobody", {"group": "yard"}, "no such source"),
    ):
        status, said = one.ask("PATCH", f"/sources/{source}", body)
        assert (status in (400, 404), why in said["error"]) == (True, True), said
    assert one.ask("GET", "/sources/settings")[1][1]["group"] == "pier"


def test_a_source_rests_outside_its_hours(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.struct_time((2026, 11, 30, 12, 0, 0, 0, 0, -1))]  # a Monday
    monkeypatch.setattr("mpft_deploy.screen.manage.time.localtime", lambda: now[0])
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    one.ask("POST", "/sources", {**CAMERA, "hours": ["mon-fri 08:00-18:00"]})
    one.running.frame("dock")
    now[0] = time.struct_time((2026, 11, 30, 18, 0, 0, 0, 0, -1))
    one.manager.tick()
    assert one.running.state("paused", "dock").reason == "not in its hours"
    assert one.states()["hall"] != "paused"
    assert not one.ask("GET", "/sources/settings")[1][1]["paused"]  # by nobody
    now[0] = time.struct_time((2026, 12, 1, 8, 0, 0, 1, 0, -1))
    one.manager.tick()
    one.running.state("live", "dock")
    # Whom somebody paused does not come back by itself.
    one.ask("POST", "/sources/dock/pause")
    one.manager.tick()
    assert one.states()["dock"] == "paused"


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("reviewer", 403), ("admin", 200)])
def test_only_admins_change_sources(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, role: Role, status: int
) -> None:
    one = service()
    user = User(name="Ann", role=role, token=f"{role}-{TOKEN}")
    one.serve(Http(address="127.0.0.1:0", users=(user,)))
    assert one.ask("GET", "/sources/settings")[0] == 401
    monkeypatch.setattr("mpft_deploy.screen.web.cameras.find_cameras", lambda *_: [])
    for method, path, body in (
        ("GET", "/sources/settings", None),
        ("POST", "/sources", CAMERA),
        ("POST", "/sources/discover", {}),
        ("POST", "/sources/dock/pause", None),
        ("POST", "/sources/dock/resume", None),
        ("PUT", "/sources/dock/regions", AREAS),
        ("PATCH", "/sources/dock", {"group": "yard"}),
        ("DELETE", "/sources/dock", None),
    ):
        assert one.ask(method, path, body, user.token)[0] == status, path


def test_whatever_is_changed_is_told_with_who_did_it(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of the API that may change something leaves a line."""
    monkeypatch.setattr("mpft_deploy.screen.web.cameras.find_cameras", lambda *_: [])
    one = service()
    ann = User(name="Ann", role="admin", token="ann-" + TOKEN)
    one.serve(Http(address="127.0.0.1:0", users=(ann,)))
    one.store.send(stream_event(1, "hall"))

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return one.ask(method, path, body, ann.token)

    def told() -> list[tuple[str, str]]:
        rows = ask("GET", "/audit?limit=200")[1]["entries"]
        assert {row["user"] for row in rows} <= {"Ann"}
        return [(row["action"], row["object"]) for row in rows]

    changing = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in ask("GET", "/openapi.json")[1]["paths"].items()
        for method in methods
        if method != "get"
    }
    assert ask("POST", "/sources/hall/lesson", {})[0] == 200
    for second in range(700):
        one.teacher.send(frame_event(second, "hall", captured=float(second)))
    link = http.client.HTTPConnection(one.page.url.split("/")[2])  # type: ignore[union-attr]
    link.request("POST", "/login", f"token={ann.token}")
    assert link.getresponse().status == 303
    session = ask("GET", "/sessions")[1][0]["id"]
    one.ask("POST", "/sources", {**CAMERA, "name": "pier"}, ann.token)
    steps: dict[str, Any] = {
        "PATCH /sources/{source}": {"group": "yard"},
        "PUT /events/{number}/review": {"state": "confirmed"},
        "POST /sources": CAMERA,
        "POST /sources/test": {"address": f"http://u:{SECRET}@127.0.0.1:9/"},
        "POST /sources/discover": {"user": "op", "password": SECRET},
        "POST /sources/{source}/lesson/accept": None,
        "DELETE /sources/{source}/baseline": None,
        "POST /sources/{source}/lesson": {},
        "DELETE /sources/{source}/lesson": None,
        "POST /sources/{source}/pause": None,
        "POST /sources/{source}/resume": None,
        "POST /sources/{source}/test": None,
        "PUT /sources/{source}/regions": {"masks": [[0, 0, 0.1, 0.1]]},
        "DELETE /sessions/{id}": None,
        "DELETE /sources/{source}": None,
    }
    # Which is not configured here: neither evidence nor a receiver, which test_deliveries has.
    changing -= {("POST", "/sources/{source}/evidence"), ("DELETE", "/evidence/{name}")}
    changing -= {("POST", "/refused"), ("DELETE", "/refused")}
    assert changing <= {tuple(step.split()) for step in steps}
    for step, body in steps.items():
        if tuple(step.split()) not in changing:
            continue
        count = len(told())
        method, path = step.split()
        others = {"DELETE /sources/{source}": "dock", "PATCH /sources/{source}": "pier"}
        source = others.get(step, "hall")
        path = path.format(number=1, source=source, id=session)
        assert ask(method, path, body)[0] == (400 if path == "/sources/test" else 200), step
        assert len(told()) == count + 1, step
    assert ("tried", "http://***@127.0.0.1:9/") in told()
    assert ("looked for cameras", "and asked them for their streams") in told()
    assert ("added", "dock") in told()
    assert SECRET not in str(one.store.rows("SELECT * FROM audit"))


def test_regions_are_drawn_kept_and_give_way_to_the_files(
    service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    one.running.frame("hall")
    status, drawn = one.ask("PUT", "/sources/hall/regions", AREAS)
    assert (status, drawn["fixed"]) == (200, False)
    one.running.wait(lambda e: e.stream == "hall/wall", "a frame of a region")
    eventually(lambda: one.ask("GET", "/sources")[1]["sources"][0]["regions"])
    [hall] = one.ask("GET", "/sources")[1]["sources"]
    assert [(r["region"], r["box"]) for r in hall["regions"]] == [
        ("top", [0, 0, 1, 0.7]),
        ("wall", [0, 0.3, 1, 0.7]),
    ]
    assert (hall["masks"], hall["reconnects"]) == (AREAS["masks"], 0)
    for body, why in (
        ({"regions": [{"name": "a", "box": [0.5, 0, 0.6, 1]}]}, "in fractions of the picture"),
        ({"regions": [{"name": "<b>", "box": [0, 0, 1, 1]}] * 2}, "two regions are called"),
        ({"masks": [[0, 0, 1, 1]] * 17}, "length <= 16"),
        ({"region": []}, "unknown field"),
        ("{", "truncated"),
    ):
        status, said = one.ask("PUT", "/sources/hall/regions", body)
        assert (status, why in said["error"]) == (400, True), said
    assert one.ask("PUT", "/sources/nobody/regions", AREAS)[0] == 404
    clash = {"name": "hall/top", "address": "rtsp://192.0.2.9/live"}
    assert "both called 'hall/top'" in one.ask("POST", "/sources", clash)[1]["error"]
    one.close()
    two = service()
    two.serve(Http(address="127.0.0.1:0"))
    assert two.running.status().streams == ["hall", "hall/top", "hall/wall"]
    two.path.write_text(TOML + "mask = [[0, 0.9, 1, 0.1]]\n")
    two.manager.reload(read_config(two.path, {}))
    assert "hall: regions were drawn, but those of its settings count" in caplog.text
    assert two.running.status().streams == ["hall"]
    assert two.ask("GET", "/sources/settings")[1][0]["fixed"]
    assert "change them there" in two.ask("PUT", "/sources/hall/regions", AREAS)[1]["error"]
    two.path.write_text(TOML)
    two.manager.reload(read_config(two.path, {}))
    assert two.running.status().streams == ["hall", "hall/top", "hall/wall"]
    assert two.ask("PUT", "/sources/hall/regions", {})[0] == 200
    assert two.store.settings("areas") == {}
    assert two.running.status().streams == ["hall"]


def test_a_page_may_begin_without_sources(watching: Any, tmp_path: Path) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text("[screen]\n")
    with pytest.raises(InputError, match=r"names no source.*\[http\]"):
        read_config(path)
    path.write_text("[http]\n")
    running = watching(config=read_config(path))
    assert not running.watch.finished
    assert running.watch.ready()


def test_what_is_paused_hears_nothing_of_its_reader(watching: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(READERS, "gst", read_pictures)
    running = watching("gst:x", size="1x1")
    running.frame()
    [channel] = running.watch.scheduler.channels
    channel.source.pause("at night")
    eventually(lambda: channel.source.abandoned == 0)
    assert running.status().state == "paused"
    assert not running.watch.finished
    count = len(running.events)
    running.watch.tick()
    assert channel.source.alive
    channel.source.resume()
    running.frame()
    states = [e.state for e in running.events[count:] if hasattr(e, "state")]
    assert states == ["connecting", "live"]


def test_regions_that_keep_a_source_from_being_screened_are_taken_back(
    service: Callable[..., Service],
) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    assert one.ask("POST", "/sources", CAMERA)[0] == 200
    assert one.ask("PUT", "/sources/dock/regions", AREAS)[0] == 200
    one.path.write_text(TOML + TAKEN)
    one.manager.reload(read_config(one.path, {}))
    dock = next(row for row in one.manager.sources() if row.source == "dock")
    assert "dock/wall" in dock.problem
    assert one.ask("PUT", "/sources/dock/regions", AREAS)[0] == 400
    status, dock = one.ask("PUT", "/sources/dock/regions", {})
    assert (status, dock["problem"]) == (200, "")
    assert {"dock", "dock/wall"} < one.states().keys()


def test_regions_called_as_a_source_of_the_file_do_not_count_and_cost_no_other(
    service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    one = service()
    one.manager.add(CAMERA)
    one.manager.look_at("hall", msgspec.convert(AREAS, Areas))
    one.path.write_text(TOML + TAKEN.replace("dock", "hall"))
    one.manager.reload(read_config(one.path, {}))
    assert "hall: regions were drawn, but do not count: a source and a region" in caplog.text
    assert one.states().keys() == {"hall", "hall/wall", "dock"}
    assert one.running.status().streams == ["hall"]
    one.path.write_text(TOML)
    one.manager.reload(read_config(one.path, {}))
    assert one.running.status().streams == ["hall", "hall/top", "hall/wall"]


TAKEN = """
[[source]]
name = "dock/wall"
address = "rtsp://192.0.2.9/other"
"""
