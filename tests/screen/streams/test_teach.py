"""Cameras that are taught while they are screened, by the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from managed import CAMERA, Service, decisions
from telling import frame_event, source_event

from mpft_deploy.screen.manage import Minutes
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.teach import Frames, Teacher
from mpft_deploy.screen.tell.config import Http
from mpft_deploy.spec import Calibration

BASELINE = Baseline(
    bundle="0" * 64,
    offset=-1.0,
    error=0.1,
    spread=0.5,
    correlation=1.0,
    threshold=0.9,
    frames=700,
    seconds=700,
    time=1.7e9,
)


def lesson(one: Service, seconds: int, logit: float = -1.0) -> None:
    """What a second's frame each tells, of so many seconds."""
    for second in range(seconds):
        told = frame_event(second, "hall", captured=float(second), logit=logit + second % 7 / 7)
        one.teacher.send(told)
        one.teacher.send(frame_event(second, "elsewhere", captured=float(second), logit=9.0))


def test_a_camera_is_taught_and_what_was_taught_is_taken_back(
    service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("mpft_deploy.screen.teach.time.monotonic", lambda: now[0])
    one = service()
    one.serve(Http(address="127.0.0.1:0"))

    def hall() -> dict[str, Any]:
        [row] = one.ask("GET", "/sources/settings")[1]
        return dict(row)

    assert one.ask("POST", "/sources/nobody/lesson", {})[0] == 404
    assert one.ask("POST", "/sources/hall/lesson", {"minutes": 5})[0] == 400
    assert one.ask("POST", "/sources/hall/lesson/accept")[0] == 404
    assert one.ask("POST", "/sources/hall/lesson", {"minutes": 30})[0] == 200
    lesson(one, 400)
    now[0] += 600
    assert hall()["lesson"] == {
        "minutes": 30, "left": 1200, "seconds": 400, "learnt": {}, "problem": ""
    }  # fmt: skip
    status, refused = one.ask("POST", "/sources/hall/lesson/accept")
    assert (status, "400 seconds with frames are too few" in refused["error"]) == (400, True)
    now[0] += 1300
    assert "too few" in hall()["lesson"]["problem"]
    # Another one, which is enough; frames that come when it is over teach nothing.
    assert one.ask("POST", "/sources/hall/lesson", {"minutes": 30})[0] == 200
    lesson(one, 700)
    now[0] += 1900
    lesson(one, 5, logit=50.0)
    learnt = hall()["lesson"]["learnt"]["hall"]
    assert learnt["frames"] == 700
    assert learnt["offset"] == pytest.approx(-1 + 3 / 7, abs=0.01)
    before = decisions(one)[0]
    accepted = one.ask("POST", "/sources/hall/lesson/accept")[1]
    assert accepted["taught"] > 1.7e9
    assert accepted["accepted"]
    assert decisions(one)[0]._baseline.offset == learnt["offset"]
    assert decisions(one)[0] is not before
    # A second one counts in its place, until it is taken back.
    one.ask("POST", "/sources/hall/lesson", {})
    lesson(one, 800, logit=-2.0)
    assert one.ask("POST", "/sources/hall/lesson/accept")[0] == 200
    assert len(one.teacher.history("hall")) == 2
    assert decisions(one)[0]._baseline.frames == 800
    assert [row.frames for row in one.teacher.history("hall")] == [800, 700]
    assert one.ask("DELETE", "/sources/hall/baseline")[0] == 200
    assert len(one.teacher.history("hall")) == 1
    assert decisions(one)[0]._baseline.frames == 700
    one.ask("POST", "/sources/hall/lesson", {})
    assert one.ask("DELETE", "/sources/hall/lesson")[1]["lesson"] is None
    # Of the file's and the store's the newest counts, and another bundle's never.
    kept = one.teacher.history("hall")[0]
    older = msgspec.structs.replace(kept, time=kept.time - 1, frames=7)
    newer = msgspec.structs.replace(kept, time=kept.time + 1, frames=8)
    assert one.teacher.baselines({"hall": older}, {})["hall"] == kept
    assert one.teacher.baselines({"hall": newer}, {})["hall"] == newer
    assert Teacher(Calibration(), "c" * 64, one.store).baselines({}, {}) == {}
    back = one.ask("DELETE", "/sources/hall/baseline")[1]
    assert (back["taught"], back["accepted"]) == (None, False)
    # What the file says can be taken back there alone.
    filed = msgspec.structs.replace(one.config, baselines={"hall": newer})
    one.manager.reload(filed)
    [managed] = one.manager.sources()
    assert managed.taught is not None
    assert not managed.accepted
    one.manager.reload(one.config)
    assert one.ask("DELETE", "/sources/hall/baseline")[0] == 400
    assert decisions(one)[0]._baseline is None


def test_what_a_region_was_taught_holds_where_it_was(service: Callable[..., Service]) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))

    def draw(*box: float) -> Any:
        body = {"regions": [{"name": "top", "box": box}]}
        return one.ask("PUT", "/sources/hall/regions", body)[1]

    def taught() -> Any:
        return decisions(one)[0]._baseline

    draw(0, 0, 1, 0.5)
    one.ask("POST", "/sources/hall/lesson", {})
    for second in range(700):
        one.teacher.send(frame_event(second, "hall", captured=float(second), region="top"))
    assert one.ask("POST", "/sources/hall/lesson/accept")[1]["taught"]
    assert taught().box == (0, 0, 1, 0.5)
    assert one.ask("POST", "/sources/hall/lesson", {})[1]["lesson"]
    moved = draw(0, 0.5, 1, 0.5)
    assert (moved["taught"], moved["lesson"]) == (None, None)
    assert taught() is None
    one.close()
    two = one = service()  # neither after a restart, nor by what the file says of that place
    two.serve(Http(address="127.0.0.1:0"))
    assert taught() is None
    [kept] = two.teacher.history("hall/top")
    told = {"hall/top": kept}
    assert two.teacher.baselines(told, {"hall/top": (0, 0.5, 1, 0.5)}) == {}
    assert two.teacher.baselines(told, {"hall/top": kept.box}) == told
    assert draw(0, 0, 1, 0.5)["taught"]  # moved back
    assert taught().box == (0, 0, 1, 0.5)


def test_whoever_is_added_under_a_name_was_not_taught(service: Callable[..., Service]) -> None:
    one = service()
    one.serve(Http(address="127.0.0.1:0"))
    baseline = msgspec.json.encode([BASELINE])
    for stream in ("yard", "yard/top", "yard/erased", "yard/2", "hall/top"):
        one.store.set_setting(stream, "baselines", baseline)
    for name in ("yard", "yard/2"):
        assert (
            one.ask("POST", "/sources", {"name": name, "address": "rtsp://127.0.0.1:9/a"})[0] < 300
        )
    assert one.ask("DELETE", "/sources/yard")[0] == 200
    assert set(one.store.settings("baselines")) == {"yard/2", "hall/top"}


def test_what_is_not_valid_in_the_store_is_told_and_left_out(
    service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    one = service()
    wrong = msgspec.structs.replace(BASELINE, correlation=-108.0)
    one.store.set_setting("hall", "baselines", msgspec.json.encode([wrong]))
    one.close()
    one = service()
    assert decisions(one)[0]._baseline is None
    assert "hall: what it was taught is not valid" in caplog.text


@pytest.mark.parametrize(("step", "counts"), [(-86400.0, -1), (10 * 86400.0, 59)])
def test_a_clock_that_is_set_during_a_lesson_teaches_nothing(step: float, counts: int) -> None:
    told, sound = Frames(), Frames()
    for second in range(700):
        at = 1.7e9 + second
        sound.send(frame_event(second, captured=at))
        told.send(frame_event(second, captured=at + (step if second >= 300 else 0)))
    first, again = (one.frames["gate"] for one in (sound, told))
    assert np.allclose(again, [(at + counts * (at >= 300), logit) for at, logit in first])
    assert told.seconds >= sound.seconds - 1


def test_a_camera_that_is_looked_at_every_two_minutes_can_be_taught() -> None:
    told = Frames()
    for look in range(700):
        told.send(frame_event(look, captured=1.7e9 + 120 * look))
    assert told.seconds == 700


def test_what_is_taught_disturbs_no_other_source(service: Callable[..., Service]) -> None:
    one = service()
    one.manager.add(CAMERA)
    hall, dock = decisions(one)
    one.manager.teach("dock", Minutes(minutes=10))
    for second in range(601):
        one.teacher.send(frame_event(second, "dock", captured=float(second)))
    one.manager.accept("dock")
    now = decisions(one)
    assert now[0] is hall
    assert now[1] is not dock


def test_frames_that_say_nothing_teach_nothing() -> None:
    frames = Frames()
    frames.send(frame_event(1, "hall", unjudged="featureless"))
    frames.send(source_event(3, "hall"))
    assert (frames.frames, frames.seconds) == ({}, 0)
