"""Regions and masks: each region judged and decided by itself, no masked pixel judged at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import picture
from telling import eventually

from mpft_deploy.errors import InputError
from mpft_deploy.screen import Screener
from mpft_deploy.screen.streams.areas import MOST, Areas, Box, Region, masks_in, pixels_of
from mpft_deploy.screen.streams.attempt import Attempt
from mpft_deploy.screen.streams.config import Config, named, read_config, source_settings
from mpft_deploy.screen.streams.pixels import RgbShot
from mpft_deploy.screen.streams.readers import READERS
from mpft_deploy.screen.streams.records import FrameEvent, SourceEvent, StreamEvent
from mpft_deploy.views import windows_of

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
HALVES = Areas(regions=(Region(name="left", box=LEFT), Region(name="right", box=RIGHT)))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes of a picture, to the thousandth."""
    left, top = draw(st.integers(0, 990)), draw(st.integers(0, 990))
    wide, tall = draw(st.integers(1, 1000 - left)), draw(st.integers(1, 1000 - top))
    return (left / 1000, top / 1000, wide / 1000, tall / 1000)


@given(
    boxes(), st.lists(boxes(), max_size=4), st.integers(1, 500), st.integers(1, 800), st.integers(0)
)
def test_windows_stay_in_their_region_and_touch_no_mask_at_any_resolution(
    box: Box, masks: list[Box], height: int, width: int, turn: int
) -> None:
    region = pixels_of(box, height, width)
    assert 0 <= region.row < region.row + region.height <= height
    assert 0 <= region.column < region.column + region.width <= width
    assert abs(region.row - box[1] * height) <= 1
    assert (
        abs(region.column + region.width - (box[0] + box[2]) * width) <= 1.5
    )  # one pixel at least
    hidden = masks_in(tuple(masks), region, height, width)
    for row, column, tall, wide in windows_of(
        region.height, region.width, 32, "moving", turn, hidden
    ):
        assert 0 <= row <= region.height - tall
        assert 0 <= column <= region.width - wide
        top, left = region.row + row, region.column + column
        for x, y, w, h in masks:  # not even a part of a pixel
            apart = (
                left >= (x + w) * width - 1e-6
                or left + wide <= x * width + 1e-6
                or top >= (y + h) * height - 1e-6
                or top + tall <= y * height + 1e-6
            )
            assert apart


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pictures that a source at gst: gives in turn, each once."""
    shots: list[Any] = []
    lock = threading.Lock()

    def read(attempt: Attempt) -> None:
        while attempt.wait(0.01):
            with lock:
                shot = shots.pop(0) if shots and not attempt.occupied else None
            if shot is not None:
                attempt.offer(RgbShot(shot), attempt.packet())

    monkeypatch.setitem(READERS, "gst", read)
    return shots


def one(areas: Areas = HALVES, **settings: Any) -> Config:
    """Of a source with areas of its own."""
    source = source_settings(
        "gst:test",
        name="gate",
        size="1x1",
        **{"gate": 0.0, **settings},
        region=[{"name": region.name, "box": region.box} for region in areas.regions],
        mask=areas.masks,
    )
    return Config(sources=named([source]))


def frames(running: Any, region: str) -> list[FrameEvent]:
    return [e for e in running.events if isinstance(e, FrameEvent) and e.region == region]


def test_each_region_is_judged_and_decided_by_itself(
    feed: list[Any], watching: Callable[..., Any], screener: Screener
) -> None:
    whole = np.concatenate([picture(seed=1), picture(seed=2)], axis=1)
    running = watching(config=one(gate=0.01, look=3600))
    feed.append(whole)
    eventually(lambda: len(frames(running, "right")) == 1)
    shown = running.watch.picture("gate")
    assert [w.column for w in shown.looked_at.windows] == [16, 64 + 16]
    assert shown.looked_at.share == pytest.approx(2 * 32 * 32 / (48 * 128))
    feed.append(whole)  # has not moved
    moved = whole.copy()
    moved[:, 64:] = picture(seed=9)
    moved[::2, 64:] //= 2
    feed.append(moved)  # on the right alone
    eventually(lambda: len(frames(running, "right")) == 2)
    left, right = frames(running, "left"), frames(running, "right")
    wanted = [moved[:, 64:], whole[:, 64:], whole[:, :64]]
    looks = [screener.judge([screener.prepare(half)])[0].judgement.logit for half in wanted]
    assert [right[1].logit, right[0].logit, left[0].logit] == looks
    assert len(left) == 1
    assert (left[0].source, left[0].stream) == ("gate", "gate/left")
    status = running.status()
    assert (status.received, status.screened, status.gated) == (3, 2, 1)
    assert [one.region for one in status.regions] == ["left", "right"]
    assert status.regions[1].probability == right[1].probability
    assert status.streams == ["gate", "gate/left", "gate/right"]


def test_the_strongest_verdict_of_its_regions_is_the_sources(
    feed: list[Any], watching: Callable[..., Any]
) -> None:
    running = watching(config=one())
    scheduler = running.watch.scheduler
    [channel] = scheduler.channels
    feed.append(picture(width=128))
    eventually(lambda: len(frames(running, "right")) == 1)

    def verdicts(left: str, right: str) -> str:
        for stream, verdict in zip(channel.streams, (left, right), strict=True):
            stream.decision.verdict = verdict
        return str(running.status().verdict)

    assert verdicts("no sign", "no sign") == "no sign"
    assert verdicts("no sign", "unsure") == "unsure"
    assert verdicts("generated", "unsure") == "generated"
    assert running.status().region == "left"
    # A region that is decided afresh says what that makes of its source.
    scheduler.reload([channel], [], one(Areas()))
    events = [e for e in running.events if isinstance(e, StreamEvent)]
    eventually(lambda: len(running.events) >= 5)
    events = [e for e in running.events if isinstance(e, StreamEvent)]
    assert [(e.region, e.verdict, e.source_verdict) for e in events] == [
        ("left", "unsure", "unsure")
    ]
    gone = [e for e in running.events if isinstance(e, SourceEvent) and e.state == "removed"]
    assert [e.stream for e in gone] == ["gate/right", "gate/left"]
    assert running.status().streams == ["gate"]


def test_a_region_follows_a_change_of_resolution(
    feed: list[Any], watching: Callable[..., Any]
) -> None:
    corner = Region(name="corner", box=(0.5, 0.5, 0.5, 0.5))
    running = watching(config=one(Areas(regions=(corner,))))
    for sides in ((96, 128), (192, 256), (66, 66)):
        height, width = sides
        before = len(frames(running, "corner"))
        feed.append(picture(*sides))
        eventually(lambda before=before: len(frames(running, "corner")) > before)
        [window] = running.watch.picture("gate").looked_at.windows
        assert (window.row, window.column) >= (height // 2, width // 2)
        assert window.row == height // 2 + (height // 2 - 32) // 2
    assert running.status().reconnects == 0


def test_nothing_is_judged_where_masks_leave_no_window(
    feed: list[Any], watching: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in state and log, each region is by itself, and a larger picture has room."""
    running = watching(config=one(Areas(regions=HALVES.regions, masks=((0.1, 0.0, 0.3, 1.0),))))
    feed.append(picture(width=128))
    eventually(lambda: len(frames(running, "right")) == 1)
    why = "masks leave no window of 32 pixels a side in 64 × 48"
    status = running.status()
    assert status.reason == f"left: {why}"
    assert status.regions[0].undecided == f"nothing to judge: {why}"
    assert f"gate: not all of it is judged: left: {why}" in caplog.text
    assert frames(running, "left") == []
    feed.append(picture(width=1280, height=480))
    eventually(lambda: len(frames(running, "left")) == 1)
    assert running.status().reason == ""
    # Where nothing is left, the frame is counted.
    running.watch.reload(one(Areas(masks=((0.0, 0.0, 1.0, 1.0),))))
    feed.append(picture())
    eventually(lambda: running.status().dropped.get("masked") == 1)
    status = running.status()
    assert status.received == status.screened + 1 == 3


def test_regions_change_while_the_connection_goes_on(
    feed: list[Any], watching: Callable[..., Any]
) -> None:
    running = watching(config=one(Areas()))
    watch = running.watch
    top = Areas(regions=(Region(name="top", box=(0.0, 0.0, 1.0, 0.9)),))
    for areas, region in ((Areas(), ""), (HALVES, "right"), (top, "top"), (Areas(), "")):
        watch.reload(one(areas))
        before = len(frames(running, region))
        feed.append(picture(width=128))
        eventually(lambda region=region, before=before: len(frames(running, region)) > before)
    assert watch.scheduler.channels[0].source.tally.connections == 1
    gone = [e for e in running.events if isinstance(e, SourceEvent) and e.state == "removed"]
    assert [e.region for e in gone] == ["right", "left", "top"]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('[[source.region]]\nname = "a"\nbox = [0.5, 0, 0.6, 1]', "in fractions of the picture"),
        ('[[source.region]]\nname = "a"\nbox = [0, 0, 0, 1]', "in fractions of the picture"),
        ('[[source.region]]\nname = "a"\nbox = [nan, 0, 1, 1]', "box"),
        ('[[source.region]]\nname = "a"\nbox = [0, 0, 640, 480]', "<= 1"),
        ('[[source.region]]\nname = "a"\nbox = [0, 0, 1]', "length 4"),
        ('[[source.region]]\nname = "a/b"\nbox = [0, 0, 1, 1]', "and no /"),
        ('[[source.region]]\nname = "a\\nb"\nbox = [0, 0, 1, 1]', "printable"),
        ('[[source.region]]\nname = ""\nbox = [0, 0, 1, 1]', "length >= 1"),
        ("[[source.region]]\nbox = [0, 0, 1, 1]", "name"),
        (2 * '[[source.region]]\nname = "a"\nbox = [0, 0, 1, 1]\n', "two regions"),
        ("mask = [[0, 0, 1, 2]]", "<= 1"),
        ("mask = [[-0.1, 0, 1, 1]]", ">= 0"),
        ("mask = [0, 0, 1, 1]", "array"),
        (f"mask = [{', '.join(['[0, 0, 0.1, 0.1]'] * (MOST + 1))}]", f"length <= {MOST}"),
    ],
)
def test_areas_that_cannot_be_are_told_with_their_place(tmp_path: Any, keys: str, why: str) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text(f'[[source]]\nname = "gate"\naddress = "rtsp://host/a"\n{keys}\n')
    with pytest.raises(InputError, match=r"cameras.toml: source 1 \(gate\): .*") as error:
        read_config(path)
    assert why in str(error.value)


def test_a_source_and_a_region_have_names_of_their_own(tmp_path: Any) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text(
        '[[source]]\nname = "gate"\naddress = "rtsp://host/a"\n'
        '[[source.region]]\nname = "left"\nbox = [0, 0, 0.5, 1]\n'
        '[[source]]\nname = "gate/left"\naddress = "rtsp://host/b"\n'
    )
    with pytest.raises(InputError, match="a source and a region are both called 'gate/left'"):
        read_config(path)
