"""Evidence of a watched camera: kept, played on the page, and deleted."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError
from urllib.request import urlopen

import av
import pytest
from headless import DESKTOP, PHONE, Browser
from pages import too_wide
from recorded import ALARMED
from telling import stream_event

from mpft_deploy.bundle import read_bundle
from mpft_deploy.screen import Screener
from mpft_deploy.screen.evidence.keeper import EvidenceSink
from mpft_deploy.screen.evidence.package import MANIFEST, engine_of, read_package
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.tell.config import Evidence, Http, TellConfig
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.web import serve


# With a camera, and a page
@pytest.fixture
def camera(
    rtsp: Callable[..., Any],
    clip: Callable[..., Path],
    watching: Callable[..., Any],
    alarmed: Screener,
    native: Path,
    tmp_path: Path,
) -> Iterator[tuple[Any, Sinks]]:
    """A watched camera, a keyframe each 0.4 s, whose evidence is kept."""
    config = Evidence(folder=str(tmp_path / "kept"), before=1.0, after=0.5)
    address = rtsp(cam=str(clip(frames=50, keyframes=10))).url("cam")
    source = source_settings(address, name="front/gate", gate=0.0, decode=5.0)
    watched = Config(sources=named([source]), tell=TellConfig(evidence=config))
    running = watching(config=watched, judge=alarmed)
    sinks = Sinks()
    engine = engine_of(read_bundle(native), alarmed.policy, ALARMED)
    sinks.evidence = EvidenceSink(config, running.watch.record, engine, sinks.store)
    for _ in range(8):
        running.frame()
    yield running, sinks
    sinks.close(1)


def test_a_verdict_is_kept_with_what_was_before_and_after(
    camera: tuple[Any, Sinks], native: Path, mpft: Callable[..., Any]
) -> None:
    running, sinks = camera
    at = time.time()
    sinks.send(stream_event(1, source="front/gate", time=at))
    [stored] = sinks.store.events()
    assert stored.package == stored.event.package
    keeper = sinks.evidence
    assert keeper is not None
    while not (path := keeper.find(stored.package)):
        running.frame()
    found = read_package(path)
    told = found.manifest
    assert told.event == stored.event
    assert told.moment == pytest.approx(at, abs=0.3)
    assert told.clip is not None
    assert told.begin - 0.5 <= told.clip.begin <= told.begin  # a keyframe each 0.4 s
    assert told.end - 0.3 <= told.clip.end <= told.end
    times = [frame.frame.captured for frame in told.frames]
    assert times == sorted(times)
    assert len(times) >= 3
    assert told.begin - 0.1 <= times[0] < at < times[-1] <= told.end + 0.1
    with av.open(io.BytesIO(found.content["clip.mp4"])) as clip:
        frames = list(clip.decode(video=0))
        assert frames[0].key_frame
        assert len(frames) == told.clip.pictures
    code, _, errors = mpft("evidence", "verify", path, "--bundle", native)
    assert code == 0, errors


def test_it_plays_on_the_page(camera: tuple[Any, Sinks], browser: Browser) -> None:
    running, sinks = camera
    page = serve(running.watch, Http(address="127.0.0.1:0"), sinks)
    sinks.send(stream_event(1, source="front/gate", time=time.time()))
    for size in (DESKTOP, PHONE):
        browser.show(f"{page.url}#source=front/gate", size)
        browser.tap("#keep")
        video = "document.querySelector('#detail video')"
        browser.wait_for(f"{video}.readyState >= 1")
        browser.ask(f"{video}.play()")
        browser.wait_for(f"{video}.currentTime > 0.3")
        assert browser.ask(f"[{video}.videoWidth, {video}.videoHeight]") == [320, 240]
        assert too_wide(browser) == []
        link = browser.ask("document.querySelector('#detail .evidence a').href")
        browser.show(f"{page.url}#event=1", size)
        video = "document.querySelector('#event video')"
        browser.wait_for(f"{video}?.readyState >= 1")
        assert browser.ask(f"{video}.duration > 1.2")
        assert too_wide(browser) == []
    with urlopen(link) as answer:
        data = answer.read()
    # A part of the video, as for a jump to its middle.
    with urlopen(f"{link}/clip") as answer:
        video = answer.read()
    for asked, part in (("10-19", video[10:20]), ("1000-", video[1000:])):
        with urlopen(
            request.Request(f"{link}/clip", headers={"Range": f"bytes={asked}"})
        ) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"].endswith(f"/{len(video)}")
            assert answer.read() == part
    with pytest.raises(HTTPError, match="416"):
        urlopen(request.Request(f"{link}/clip", headers={"Range": f"bytes={len(video)}-"}))
    # What was asked for by hand is listed, and can be deleted; what an event names is not.
    browser.show(f"{page.url}#manage", PHONE)
    rows = "document.querySelectorAll('#kept li').length"
    browser.wait_for(f"{rows} > 0")
    count = browser.ask(rows)
    assert browser.ask("document.querySelector('#kept a').href") == link
    assert too_wide(browser) == []
    browser.tap("#kept button")
    browser.wait_for(f"{rows} === {count - 1}")
    with pytest.raises(HTTPError, match="404"):
        urlopen(link)
    [named] = sinks.store.events()
    with pytest.raises(HTTPError, match="404"):
        urlopen(request.Request(f"{page.url}api/v1/evidence/{named.package}", method="DELETE"))
    assert (
        "asked" in sinks.store.rows("SELECT object FROM audit WHERE action LIKE 'deleted%'")[0][0]
    )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert json.loads(archive.read(MANIFEST))["event"] is None
    assert sinks.evidence is not None
    (sinks.evidence.folder / str(named.package)).write_bytes(data[:1000])
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{page.url}api/v1/evidence/{named.package}/clip")
    # Asked for by hand on a disk that gives nothing away.
    rows = sinks.evidence.unnamed()
    assert rows
    path = sinks.evidence.folder / rows[0].name
    path.unlink()
    path.mkdir()
    with pytest.raises(HTTPError, match="503"):
        urlopen(request.Request(f"{page.url}api/v1/evidence/{path.name}", method="DELETE"))
    page.close()


def test_what_was_removed_a_moment_ago_is_no_source(camera: tuple[Any, Sinks]) -> None:
    running, sinks = camera
    page = serve(running.watch, Http(address="127.0.0.1:0"), sinks)
    assert page.board.overview().sources
    running.watch.reload(Config(sources=()))
    asked = f"{page.url}api/v1/sources/front/gate/evidence"
    with pytest.raises(HTTPError, match="404"):
        urlopen(request.Request(asked, method="POST"))
    page.close()


def test_nothing_is_kept_unless_it_is_asked_for(watching: Callable[..., Any]) -> None:
    running = watching("rtsp://127.0.0.1:9/nobody")
    [channel] = running.watch.scheduler.channels
    assert channel.source.ring is None
    assert channel.kept is None
