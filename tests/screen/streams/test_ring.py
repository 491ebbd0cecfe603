"""Coded pictures: kept in a ring, cut from it, and written as a clip that plays."""

from __future__ import annotations

import io
import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import coded, tap
from telling import frame_event

from mpft_deploy.screen.evidence.clip import remux, stamped
from mpft_deploy.screen.evidence.ring import Coded, Coding, Looks, Ring

BASE = Fraction(1, 1000)


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
    undecoded = {"codec_whitelist": "none"}
    with av.open(io.BytesIO(cut[0].sample), format="nut", options=undecoded) as sample:
        assert sample.streams.video[0].codec_context.pix_fmt is None  # as nothing looked into it
    with av.open(io.BytesIO(data)) as clip:
        again = [frame.to_ndarray() for frame in clip.decode(video=0)]
        assert float(clip.duration / 1e6) == pytest.approx(len(again) / 25, abs=0.1)
    first = 22 if codec == "mjpeg" else 20
    if codec != "libvpx":  # whose keyframes are where it likes
        assert abs(len(again) - (38 - first)) <= 2  # those in decoding order at its end
        assert np.array_equal(again[:10], pictures[first : first + 10])
    if suffix == ".mp4":
        assert data.index(b"moov") < data.index(b"mdat")


def test_a_connection_whose_coding_cannot_be_kept_costs_the_next_one_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> bytes:
        raise ValueError("no such codec")

    ring = Ring(60, 2**24)
    with monkeypatch.context() as patched:
        patched.setattr("mpft_deploy.screen.evidence.clip._sample", refuse)
        tap(coded(), ring)
    assert (ring.cut(0.0, 200.0), "no such codec" in ring.trouble) == (None, True)
    tap(coded(), ring, 110.0)
    cut = ring.cut(0.0, 200.0)
    assert cut is not None
    assert len(cut[1]) == 50


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
    for number, (key, size, pause) in enumerate(sent):
        at += pause / 1000
        pictures.append(Coded(bytes(size), None, number, key, at))
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


def test_a_frame_whose_views_are_more_than_may_be_kept_is_not_kept() -> None:
    looks = Looks(10.0, 2 * 5 * 12)
    for at, views in ((1.0, 2), (2.0, 3), (3.0, 1)):
        pixels = np.zeros((views, 5, 4, 3), np.uint8)
        prepared: Any = SimpleNamespace(size=(5, 4), windows=(), views=pixels)
        looks.add(frame_event(), at, prepared, np.zeros(views, np.float32))
    assert [look.received for look in looks.cut(0.0, 9.0)] == [3.0]


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
