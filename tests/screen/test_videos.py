"""Clips: sampling by media time, rotation, and files that are damaged or hostile."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import write_video

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.screen.sources import Frame, Item, read_frames


def frames(path: Path, fps: float = 1.0) -> list[Frame]:
    return list(read_frames(Item(path, "video"), fps))


@pytest.mark.parametrize(
    ("fps", "times"),
    [(1, [0, 1, 2]), (2, [0, 0.5, 1, 1.5, 2, 2.5]), (0.01, [0]), (8, list(np.arange(24) / 8))],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
def test_frames_are_sampled_by_media_time(
    tmp_path: Path, suffix: str, fps: float, times: list[float]
) -> None:
    read = frames(write_video(tmp_path / f"clip{suffix}"), fps)
    assert [frame.time for frame in read] == pytest.approx(times, abs=2e-3)
    assert {(frame.pixels.shape, frame.pixels.dtype) for frame in read} == {
        ((48, 64, 3), np.dtype("u1"))
    }
    brightness = [frame.pixels.mean() for frame in read]
    assert brightness == sorted(brightness)


def test_a_rate_above_the_videos_own_gives_every_frame(tmp_path: Path) -> None:
    assert len(frames(write_video(tmp_path / "clip.mp4", seconds=1), 1000)) == 8


def test_rates_that_are_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", seconds=1)
    for fps in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="more than 0"):
            frames(path, fps)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["clockwise", "half", "counter-clockwise"],
)
def test_a_turned_video_is_judged_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    plain = write_video(tmp_path / "plain.mp4", seconds=1)
    data = bytearray(plain.read_bytes())
    # The matrix of a track header: a b u, c d v, x y w (ISO/IEC 14496-12, 8.3.2).
    a, b, c, d = (value << 16 for value in matrix)
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    expected = np.rot90(frames(plain)[0].pixels, turns)
    assert np.array_equal(frames(turned)[0].pixels, expected)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_videos_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", seconds=4).read_bytes()
    for name, data, message in [
        ("empty", b"", "the file is empty"),
        ("text", b"once upon a time " * 40, "damaged, or not a video"),
        ("header", whole[:40], "damaged|no video"),
        ("missing", None, "no such file"),
    ]:
        path = tmp_path / f"{name}{suffix}"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(InputError, match=message) as caught:
            frames(path)
        assert name in str(caught.value)


def test_a_truncated_mp4_has_no_index(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.mp4: damaged"):
        frames(path)


@pytest.mark.parametrize(
    ("suffix", "kept", "message"),
    [(".mkv", 0.5, r"cut short: it should last 6\.0 s"), (".avi", 0.8, "cut short")],
)
def test_a_truncated_clip_gives_its_frames_and_says_so(
    tmp_path: Path, suffix: str, kept: float, message: str
) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", seconds=6).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    read: list[Frame] = []
    with pytest.raises(InputError, match=message):
        read.extend(read_frames(Item(path, "video")))
    assert 2 <= len(read) <= 5


def test_a_damaged_packet_leaves_the_rest(tmp_path: Path) -> None:
    whole = bytearray(write_video(tmp_path / "whole.avi", seconds=6).read_bytes())
    third = [at for at in range(len(whole)) if whole[at : at + 4] == b"00dc"][20]
    whole[third + 8 : third + 24] = bytes(16)
    path = tmp_path / "scratched.avi"
    path.write_bytes(whole)
    read: list[Frame] = []
    with pytest.raises(InputError, match="frames were left out"):
        read.extend(read_frames(Item(path, "video")))
    assert read[-1].time == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_titles_may_be_in_any_encoding(tmp_path: Path, suffix: str) -> None:
    whole = write_video(tmp_path / f"plain{suffix}").read_bytes()
    assert b"Le cafe" in whole
    path = tmp_path / f"latin{suffix}"
    path.write_bytes(whole.replace(b"Le cafe", b"Le caf\xe9"))
    assert len(frames(path)) == 3


@settings(max_examples=60, deadline=None)
@given(
    suffix=st.sampled_from([".mp4", ".mkv", ".avi"]),
    changes=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=40),
)
def test_damage_never_escapes_as_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    data = bytearray(write_video(path, seconds=1, sound=True).read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    message = ""
    try:
        read = frames(path)
    except InputError as error:
        message = str(error)
    else:
        assert {frame.pixels.ndim for frame in read} == {3}
    assert "\n" not in message


def test_sound_alone_is_no_video_and_longer_sound_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video"):
        frames(write_video(tmp_path / "talk.mp4", sound=True, pictures=False))
    for suffix in (".mp4", ".mkv"):
        short = write_video(tmp_path / f"short{suffix}", seconds=0.5, sound=True)
        assert len(frames(short)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {0}\n",
    ],
    ids=["hls", "concat"],
)
def test_playlists_in_disguise_open_nothing(tmp_path: Path, text: str) -> None:
    write_video(tmp_path / "secret.mp4")
    for name in ("trap.mp4", "trap.mkv"):
        (tmp_path / name).write_text(text.format("secret.mp4"))
        with pytest.raises(InputError, match="damaged, or not a video"):
            frames(tmp_path / name)
