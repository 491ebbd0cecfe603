"""Evidence: kept coded and as judged, packed, and computed again."""

from __future__ import annotations

import io
import itertools
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError
from urllib.request import urlopen

import av
import clips
import msgspec
import numpy as np
import pytest
from dashboard_screenshots import DESKTOP, PHONE, Browser
from hypothesis import given
from hypothesis import strategies as st
from telling import frame_event, stream_event

from mpft_deploy.bundle import read_bundle
from mpft_deploy.engine import load_engine
from mpft_deploy.errors import InputError
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.files import sha256
from mpft_deploy.screen import Screener
from mpft_deploy.screen.evidence.clip import Tap, remux, stamped
from mpft_deploy.screen.evidence.keeper import EvidenceSink
from mpft_deploy.screen.evidence.package import MANIFEST, engine_of, read_package
from mpft_deploy.screen.evidence.ring import Coded, Coding, Looks, Recording, Ring
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.config import Config, named
from mpft_deploy.screen.streams.library import source_settings
from mpft_deploy.screen.tell.config import Http, TellConfig
from mpft_deploy.screen.tell.fanout import Sinks
from mpft_deploy.screen.tell.limits import Evidence
from mpft_deploy.screen.tell.store import Store
from mpft_deploy.screen.web import serve
from mpft_deploy.sealed import make_manifest
from mpft_deploy.signing import generate_keys

Mpft = Callable[..., tuple[int, str, str]]
Coder = Callable[..., bytes]

BASE = Fraction(1, 1000)

ALARMED = 0.0
"""A threshold by which every frame is called generated, unless its camera was taught."""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Path:
    """A tiny bundle whose logits are defined to the last bit."""
    path = tmp_path_factory.mktemp("native") / "tiny"
    export(Request(detector, path, backend="native", precision="wide"))
    return path


@pytest.fixture(scope="module")
def screener(native: Path) -> Screener:
    bundle = read_bundle(native)
    return Screener(bundle, load_engine(bundle, threads=1), threshold=ALARMED)


def coded(codec: str = "libx264", form: str = "matroska", **options: str) -> bytes:
    """A clip of 25 pictures a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        quick = {"libvpx": {"deadline": "realtime", "cpu-used": "8"}, "mjpeg": {}}
        options = {"g": "10", **quick.get(codec, {"preset": "ultrafast"}), **options}
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = 192, 144
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for pixels in clips.moving(144, 192, 50):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def tap(data: bytes, ring: Ring, start: float = 100.0) -> list[Any]:
    """Put a clip into a ring as a reader does, a picture each 40 ms; the decoded pictures."""
    with av.open(io.BytesIO(data)) as source:
        stream = source.streams.video[0]
        one = Tap(stream, ring)
        packets = [packet for packet in source.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            one.add(packet, start + 0.04 * number)
        source.seek(0)
        return [frame.to_ndarray() for frame in source.decode(stream)]


@pytest.mark.parametrize(
    ("codec", "form", "suffix"),
    [
        ("libx264", "mpegts", ".mp4"),
        ("libx264", "matroska", ".mp4"),
        ("libx264", "flv", ".mp4"),
        ("libx265", "mpegts", ".mp4"),
        ("mjpeg", "avi", ".mp4"),
        ("libvpx", "matroska", ".mkv"),
    ],
)
def test_what_came_coded_plays_again(codec: str, form: str, suffix: str, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none:keyint=10"} if codec == "libx265" else {}
    ring = Ring(60, 2**24)
    pictures = tap(coded(codec, form, **options), ring)
    cut = ring.cut(100.9, 101.5)  # the picture at 100.8 is a keyframe
    assert cut is not None
    found, data = remux(*cut, tmp_path)
    assert found == suffix
    assert list(tmp_path.iterdir()) == []
    with av.open(io.BytesIO(data)) as clip:
        again = [frame.to_ndarray() for frame in clip.decode(video=0)]
        assert float(clip.duration / 1e6) == pytest.approx(len(again) / 25, abs=0.1)
    first = 22 if codec == "mjpeg" else 20
    if codec != "libvpx":  # whose keyframes are where it likes
        assert abs(len(again) - (38 - first)) <= 2  # those in decoding order at its end
        assert np.array_equal(again[:10], pictures[first : first + 10])
    if suffix == ".mp4":
        assert data.index(b"moov") < data.index(b"mdat")


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 400), st.integers(0, 2000)), max_size=60),
    st.integers(0, 120),
    st.integers(0, 60),
)
def test_a_ring_begins_with_a_keyframe_and_is_bounded(
    sent: list[tuple[bool, int, int]], begin: int, length: int
) -> None:
    ring, coding = Ring(20.0, 6000), Coding("x", b"", (1, 1), BASE, b"")
    at, pictures = 0.0, []
    for key, size, pause in sent:
        at += pause / 1000
        pictures.append(Coded(bytes(size), None, None, key, at))
        ring.add(coding, pictures[-1])
        assert sum(len(one.data) for group in ring._groups for one in group.pictures) <= 6000
    cut = ring.cut(float(begin), float(begin + length))
    if cut is None:
        return
    found = cut[1]
    assert found[0].key
    place = pictures.index(found[0])
    assert found == pictures[place : place + len(found)]
    assert found[-1].received <= begin + length
    # No later keyframe would have done.
    assert not [one for one in found[1:] if one.key and one.received <= begin]


def test_a_ring_keeps_one_keyframe_before_what_is_asked_for() -> None:
    ring, coding = Ring(10.0, 10**6), Coding("x", b"", (1, 1), BASE, b"")
    for number in range(300):
        ring.add(coding, Coded(b"12345", number, number, number % 50 == 0, number / 10))
    cut = ring.cut(20.0, 25.0)
    assert cut is not None
    assert (cut[1][0].received, cut[1][-1].received) == (20.0, 25.0)
    assert len(ring._groups) <= 4
    other = Coding("y", b"", (1, 1), BASE, b"")
    ring.add(other, Coded(b"12345", 0, 0, False, 30.0))
    ring.add(other, Coded(b"12345", 0, 0, True, 30.1))  # a new connection, just now
    cut = ring.cut(22.0, 31.0)
    assert cut is not None
    assert (cut[0], cut[1][0].received) == (coding, 20.0)  # the longer part
    # One group that is too large is not kept, nor what refers to it.
    ring.add(other, Coded(bytes(10**6 + 1), 0, 0, False, 30.2))
    assert ring.cut(0.0, 99.0) is None
    ring.add(other, Coded(b"1", 0, 0, False, 30.3))
    assert ring.cut(0.0, 99.0) is None


@given(st.lists(st.tuples(*[st.none() | st.integers(-(2**40), 2**40)] * 2, st.integers(0, 99))))
def test_stamps_rise_whatever_a_camera_sends(
    sent: list[tuple[int | None, int | None, int]],
) -> None:
    at, pictures = 0.0, []
    for pts, dts, pause in sent:
        at += pause / 100
        pictures.append(Coded(b"", pts, dts, False, at))
    stamps = [(pts, dts) for _, pts, dts in stamped(pictures, BASE)]
    assert all(pts >= dts for pts, dts in stamps)
    assert all(after > before for (_, before), (_, after) in itertools.pairwise(stamps))


def test_stamps_that_make_sense_are_kept() -> None:
    pictures = [Coded(b"", 90 + 40 * n, 10 + 40 * n, False, n / 20) for n in range(5)]
    assert [(p, d) for _, p, d in stamped(pictures, BASE)] == [
        (80 + 40 * n, 40 * n) for n in range(5)
    ]
    looping = [Coded(b"", 40 * (n % 2), 40 * (n % 2), False, n / 20) for n in range(4)]
    assert [d for _, _, d in stamped(looping, BASE)] == [0, 40, 90, 130]


# Packages


def packed(folder: Path, screener: Screener, native: Path, **changes: Any) -> Path:
    """A package of what was sent and judged, without a camera."""
    ring, looks = Ring(60, 2**24), Looks(60, 2**24)
    tap(coded(), ring, time.monotonic() - 1.0)
    rng = np.random.default_rng(1)
    for number in range(6):
        frame = rng.integers(0, 256, (40, 60, 3), np.uint8)
        prepared = screener.prepare(frame)
        judged = screener.judge([prepared])[0]
        said = judged.judgement
        event = frame_event(
            number,
            region="left" if number % 2 else "",
            verdict="unsure" if number % 2 else said.verdict,  # as the region was taught
            probability=said.probability,
            logit=said.logit,
        )
        assert said.verdict == "generated"
        looks.add(event, time.monotonic() - 0.1 * (5 - number), prepared, judged.view_logits)

    def record(source: str, begin: float, end: float) -> Recording:
        found = ring.cut(begin, end)
        left = Baseline(
            bundle=bundle.seal, offset=0.0, error=1.0, spread=1.0, correlation=0.0, threshold=1.0,
            frames=600, seconds=600, time=0.0,
        )  # fmt: skip
        return Recording("rtsp://camera/one", {"gate/left": left}, looks.cut(begin, end), found, "")

    bundle = read_bundle(native)
    config = Evidence(folder=str(folder), before=0.9, after=0.0, **changes)
    store = Store(None)
    sink = EvidenceSink(config, record, engine_of(bundle, "centre", ALARMED), store)
    event: Any = sink.attach(stream_event(1, time=time.time()))
    sink.close(10)
    assert sink.stats().delivered == 1
    store.close()
    return folder / event.package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, screener: Screener, native: Path) -> Path:
    return packed(tmp_path_factory.mktemp("kept"), screener, native)


def test_what_is_unchanged_passes(package: Path, native: Path, mpft: Mpft) -> None:
    code, text, _ = mpft("evidence", "verify", package, "--bundle", native, "--json")
    said = json.loads(text)
    assert (code, said["passed"], said["frames"], said["clip"]) == (0, True, 6, "clip.mp4")
    assert (said["signed_by"], said["signature_checked"]) == (None, False)
    code, text, _ = mpft("evidence", "verify", package, "--bundle", native)
    assert code == 0
    assert "PASSED: nothing was altered, and 6 frames give the same in every bit" in text
    code, text, _ = mpft("evidence", "show", package)
    assert code == 0
    assert "50 pictures" not in text
    assert "verdict generated, was unsure" in text
    code, text, _ = mpft("evidence", "show", package, "--json")
    assert json.loads(text)["address"] == "rtsp://camera/one"
    assert package.stat().st_mode & 0o007 == 0  # it may show people
    with zipfile.ZipFile(package) as archive:
        assert {part.compress_type for part in archive.infolist()} == {zipfile.ZIP_STORED}


def rewritten(
    package: Path, path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], object]
) -> Path:
    """A package by somebody who can compute seals too: its manifest and files were changed."""
    read = read_package(package)
    manifest, files = msgspec.to_builtins(read.manifest), dict(read.content)
    change(manifest, files)
    head = make_manifest(manifest, {name: sha256(data) for name, data in files.items()})
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {MANIFEST: head, **files}.items():
            archive.writestr(name, data)
    return path


def digit(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    said = manifest["frames"][2]["frame"]
    said["logit"] = float(np.nextafter(said["logit"], 9))


def other_view(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    first, second = (manifest["frames"][n]["views"][0] for n in (0, 1))
    files[first], files[second] = files[second], files[first]


def other_verdict(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    said = manifest["frames"][0]["frame"]
    said["verdict"] = "generated" if said["verdict"] == "real" else "real"


def bomb(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (3000, 3000)).save(buffer, "PNG")
    files["view-00001.png"] = buffer.getvalue()


def no_picture(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    name = manifest["frames"][0]["views"][0]
    files[name] = files[name][:60]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (digit, "frame 3: its logit is"),
        (other_view, "frame 1: the logit of view 1 is"),
        (other_verdict, "frame 1: its verdict is"),
        (bomb, "is no PNG of 32 × 32 pixels"),
        (no_picture, "view-00001.png"),
        (lambda m, f: m["frames"][0].update(windows=()), "views, windows and logits"),
        (lambda m, f: m["frames"][0].update(size=(0, 5)), "views, windows and logits"),
        (lambda m, f: f.pop(m["frames"][0]["views"][0]), "does not name its files"),
        (lambda m, f: f.update({"more.png": b"x"}), "does not name its files"),
        (lambda m, f: f.update({"../up.png": b"x"}), "which cannot be"),
        (lambda m, f: f.update({"/etc/x": b"x"}), "which cannot be"),
        (lambda m, f: m.update(more=1), "is not valid"),
        (lambda m, f: m.update(version=2), "Upgrade mpft-deploy"),
        (lambda m, f: m.update(kind="bundle"), "does not describe a evidence"),
        (lambda m, f: m["engine"].update(sha256="0" * 64), "judged by another engine"),
        (lambda m, f: m["engine"].update(threshold=7.0), "cannot be: threshold"),
    ],
)
def test_what_was_made_up_is_told(
    package: Path, native: Path, tmp_path: Path, mpft: Mpft, change: Any, told: str
) -> None:
    path = rewritten(package, tmp_path / "changed.zip", change)
    code, text, errors = mpft("evidence", "verify", path, "--bundle", native)
    assert code == 1
    assert told in text + errors
    assert "Traceback" not in errors


def unsealed(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    """Change the parts of a package, and nothing of its manifest."""

    def spoil(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        change(parts)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
        return buffer.getvalue()

    return spoil


def twice(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(MANIFEST, b"{}")
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b" " * 10**7)
    return buffer.getvalue()


def overlapping(data: bytes) -> bytes:
    """Many names for one part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MANIFEST, b" " * 10**5)
        part = archive.infolist()[0]
        for number in range(50):
            copy = zipfile.ZipInfo(f"{number}.png")
            copy.header_offset, copy.CRC = part.header_offset, part.CRC
            copy.file_size = copy.compress_size = part.file_size
            archive.filelist.append(copy)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: b"", "no package of evidence"),
        (lambda data: data[: len(data) // 2], "no package of evidence"),
        (lambda data: data.replace(b"ftyp", b"ftyq", 1), "no package of evidence, or damaged"),
        (unsealed(lambda parts: parts.pop("view-00002.png")), "lacks view-00002.png"),
        (unsealed(lambda parts: parts.update({"x.png": b""})), "holds files it should not: x.png"),
        (unsealed(lambda parts: parts.update({"clip.mp4": b"other"})), "clip.mp4 was altered"),
        (
            unsealed(lambda p: p.update({MANIFEST: p[MANIFEST].replace(b"gate", b"yard")})),
            "was altered after it was written",
        ),
        (unsealed(lambda parts: parts.pop(MANIFEST)), f"it has no {MANIFEST}"),
        (unsealed(lambda parts: parts.update({MANIFEST: b"[" * 10**6})), "is not JSON"),
        (twice, "holds something twice"),
        (deflated, "holds something twice"),
        (overlapping, "holds something twice"),
    ],
)
def test_what_was_altered_is_refused(
    package: Path, native: Path, tmp_path: Path, mpft: Mpft, spoil: Any, told: str
) -> None:
    path = tmp_path / "spoiled.zip"
    path.write_bytes(spoil(package.read_bytes()))
    code, _, errors = mpft("evidence", "verify", path, "--bundle", native)
    assert code == 1
    assert told in errors
    with pytest.raises(InputError):
        read_package(path)


@given(st.data())
def test_whatever_is_spoiled_is_refused_or_means_the_same(
    package: Path, data: st.DataObject
) -> None:
    sound = read_package(package)
    raw = bytearray(package.read_bytes())
    ends = st.integers(max(0, len(raw) - 3000), len(raw) - 1)  # the list of parts
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1) | ends)
        raw[place] = data.draw(st.integers(0, 255))
    path = package.with_name("spoiled.zip")
    path.write_bytes(raw)
    try:
        found = read_package(path)
    except InputError:
        return
    assert (found.manifest, found.content) == (sound.manifest, sound.content)


def test_it_says_whose_it_is(
    tmp_path: Path, native: Path, screener: Screener, package: Path, mpft: Mpft
) -> None:
    for name in ("own", "foreign"):
        generate_keys(tmp_path / name)
    path = packed(tmp_path / "kept", screener, native, key_file=str(tmp_path / "own"))
    verify = ("evidence", "verify", path, "--bundle", native)
    code, text, _ = mpft(*verify, "--key", tmp_path / "own.pub", "--json")
    assert (code, json.loads(text)["signature_checked"]) == (0, True)
    code, text, _ = mpft(*verify)
    assert code == 0
    assert "not checked: give --key" in text
    code, _, errors = mpft(*verify, "--key", tmp_path / "foreign.pub")
    assert code == 1
    assert "it is signed by key" in errors
    code, _, errors = mpft(
        "evidence", "verify", package, "--bundle", native, "--key", tmp_path / "own.pub"
    )
    assert code == 1
    assert "and it has none" in errors
    forged = rewritten(path, tmp_path / "forged.zip", digit)
    code, _, errors = mpft(*verify[:2], forged, *verify[3:], "--key", tmp_path / "own.pub")
    assert code == 1


def test_what_cannot_be_asked(package: Path, bundle: Path, tmp_path: Path, mpft: Mpft) -> None:
    code, _, errors = mpft("evidence", "verify", package, "--bundle", bundle)
    assert code == 1
    assert "judged by another engine" in errors
    code, _, errors = mpft("evidence", "verify", package)  # of a detector that nobody ships
    assert code == 2
    assert "name its bundle" in errors
    code, _, errors = mpft("evidence", "verify", tmp_path / "none.zip", "--bundle", bundle)
    assert code == 1
    assert "No such file" in errors
    assert mpft("evidence", "verify")[0] == 2
    assert mpft("evidence", "verify", tmp_path, "--bundle", bundle)[0] == 1


# With a camera, and a page


@pytest.fixture
def camera(
    rtsp: Callable[..., Any],
    clip: Callable[..., Path],
    watching: Callable[..., Any],
    screener: Screener,
    native: Path,
    tmp_path: Path,
) -> Iterator[tuple[Any, Sinks]]:
    """A watched camera, a keyframe each 0.4 s, whose evidence is kept."""
    config = Evidence(folder=str(tmp_path / "kept"), before=1.0, after=0.5)
    address = rtsp(cam=str(clip(frames=50, keyframes=10))).url("cam")
    source = source_settings(address, name="front/gate", gate=0.0, decode=5.0)
    watched = Config(sources=named([source], "test"), tell=TellConfig(evidence=config))
    running = watching(config=watched, judge=screener)
    sinks = Sinks()
    engine = engine_of(read_bundle(native), screener.policy, ALARMED)
    sinks.evidence = EvidenceSink(config, running.watch.record, engine, sinks.store)
    for _ in range(8):
        running.frame()
    yield running, sinks
    sinks.close(1)


def test_a_verdict_is_kept_with_what_was_before_and_after(
    camera: tuple[Any, Sinks], native: Path, mpft: Mpft
) -> None:
    running, sinks = camera
    at = time.time()
    sinks.send(stream_event(1, source="front/gate", time=at))
    [stored] = sinks.store.events()
    assert stored.package == stored.event.package
    keeper = sinks.evidence
    assert keeper is not None
    while not (path := keeper.kept.find(stored.package)):
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
        browser.wait_for("document.querySelector('#keep')?.hidden === false")
        browser.ask("document.querySelector('#keep').click()")
        video = "document.querySelector('#detail video')"
        browser.wait_for(f"{video}.readyState >= 1")
        browser.ask(f"{video}.play()")
        browser.wait_for(f"{video}.currentTime > 0.3")
        assert browser.ask(f"[{video}.videoWidth, {video}.videoHeight]") == [320, 240]
        link = browser.ask("document.querySelector('#detail .evidence a').href")
        browser.show(f"{page.url}#event=1", size)
        video = "document.querySelector('#event video')"
        browser.wait_for(f"{video}?.readyState >= 1")
        assert browser.ask(f"{video}.duration > 1.2")
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
    browser.show(f"{page.url}#manage")
    rows = "document.querySelectorAll('#kept li').length"
    browser.wait_for(f"{rows} > 0")
    count = browser.ask(rows)
    assert browser.ask("document.querySelector('#kept a').href") == link
    browser.ask("document.querySelector('#kept button').click()")
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
    page.close()


def test_nothing_is_kept_unless_it_is_asked_for(watching: Callable[..., Any]) -> None:
    running = watching("rtsp://127.0.0.1:9/nobody")
    [channel] = running.watch.scheduler.channels
    assert channel.source.ring is None
    assert channel.kept is None
