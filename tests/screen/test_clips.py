"""Clips: which track is judged, whether they are whole, and that damaged frames are left out."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import moving, write_spoiled
from media import picture, write_video

from mpft_deploy.errors import InputError
from mpft_deploy.screen.sources import Frame, Item, read_frames


def frames(path: Path, fps: float = 1.0) -> list[Frame]:
    return list(read_frames(Item(path, "video"), fps))


def judged(path: Path, fps: float = 1000) -> tuple[list[Frame], str]:
    """Frames, and what is told at the end."""
    read: list[Frame] = []
    try:
        read.extend(read_frames(Item(path, "video"), fps))
    except InputError as error:
        return read, str(error)
    return read, ""


def write_tracks(path: Path, *tracks: str, count: int = 24) -> Path:
    """Tracks in that order: "jpeg" and "png" of one picture, "cover" that is marked as one, "dark"
    and "bright" clips, "sound"."""
    with av.open(path, "w") as container:
        made: list[tuple[str, Any]] = []
        for kind in tracks:
            stream: Any
            if kind == "sound":
                stream = container.add_stream("aac", rate=16000)
            elif kind in ("dark", "bright"):
                stream = container.add_stream("mpeg4", rate=8)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            else:
                stream = container.add_stream("png" if kind == "png" else "mjpeg", rate=8)
                stream.width, stream.height = 640, 480
                stream.pix_fmt = "rgb24" if kind == "png" else "yuvj420p"
                if kind == "cover":
                    stream.disposition = Disposition.attached_pic
            made.append((kind, stream))
        for kind, stream in made:
            if kind == "sound":
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 16000), np.float32), "fltp", "mono"
                )
                silence.sample_rate = 16000
                container.mux([*stream.encode(silence), *stream.encode()])
            elif kind in ("dark", "bright"):
                for index in range(count):
                    pixels = picture(seed=index) // 2 + np.uint8(100 * (kind == "bright"))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                container.mux(stream.encode())
            else:
                pixels = np.full((480, 640, 3), 255, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("still", ["jpeg", "png", "cover"])
@pytest.mark.parametrize("first", [True, False])
def test_the_track_that_moves_is_judged(
    tmp_path: Path, suffix: str, still: str, first: bool
) -> None:
    if still != "jpeg" and suffix == ".mkv":
        pytest.skip("FFmpeg writes neither covers nor PNG into Matroska")
    tracks = (still, "dark") if first else ("dark", still)
    read = frames(write_tracks(tmp_path / f"clip{suffix}", *tracks))
    assert {frame.pixels.shape for frame in read} == {(48, 64, 3)}
    assert [frame.time for frame in read] == pytest.approx([0, 1, 2], abs=2e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_of_several_tracks_one_is_judged_and_named(tmp_path: Path, suffix: str) -> None:
    read = frames(write_tracks(tmp_path / f"two{suffix}", "dark", "bright"))
    assert len(read) == 3
    number = 1 if read[0].pixels.mean() < 110 else 2
    assert {frame.note for frame in read} == {f"track {number} of 2 judged"}
    assert frames(write_tracks(tmp_path / f"one{suffix}", "dark"))[0].note == ""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("still", ["jpeg", "png"])
def test_sound_with_a_picture_is_no_video(tmp_path: Path, suffix: str, still: str) -> None:
    if still == "png" and suffix == ".mkv":
        pytest.skip("FFmpeg writes no PNG into Matroska")
    for tracks in (("sound", still), (still, "sound")):
        read, error = judged(write_tracks(tmp_path / f"song{suffix}", *tracks))
        assert "holds no video" in error
        assert not read


def write_stamped(path: Path, starts: list[float], last: float, codec: str = "mpeg4") -> Path:
    """A picture from each of those moments on, the last one for so many seconds."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for index, start in enumerate(starts):
            frame = av.VideoFrame.from_ndarray(picture(seed=index), "rgb24")
            frame.pts, frame.time_base = round(1000 * start), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        ends = [*starts[1:], starts[-1] + last]
        for packet, start, end in zip(packets, starts, ends, strict=True):
            packet.duration = round((end - start) / packet.time_base)
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize(
    ("starts", "last"),
    [
        ([0, 5, 10, 15], 5),
        ([0], 10),
        ([0, 2, 4], 2),
        ([5, 5.5, 6, 6.5], 0.5),
        ([1800, 1801, 1802], 1),
        ([0, 1, 21], 20),
    ],
    ids=["slide show", "one picture", "time lapse", "late", "half an hour late", "long last"],
)
def test_whole_clips_are_not_cut_short(
    tmp_path: Path, suffix: str, starts: list[float], last: float
) -> None:
    read = frames(write_stamped(tmp_path / f"whole{suffix}", starts, last))
    times = [frame.time for frame in read]
    assert times == pytest.approx([s - starts[0] for s in starts if (s - starts[0]) % 1 == 0])


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_name(f"cut{path.suffix}")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


@pytest.mark.parametrize("share", [0.5, 0.97])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("faststart.mp4", {"movflags": "faststart"}),
        ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.mkv", {}),
        ("live.mkv", {"live": "1"}),
        ("clip.avi", {}),
        ("clip.ts", {}),
        ("sound.mkv", {}),
        ("sound.avi", {}),
    ],
)
def test_clips_that_were_cut_are_cut_short(
    tmp_path: Path, name: str, options: dict[str, str], share: float
) -> None:
    path = tmp_path / name
    with av.open(path, "w", options=options) as container:
        codec = "mpeg2video" if path.suffix == ".ts" else "mpeg4"
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        sound: Any = container.add_stream("aac", rate=16000) if "sound" in name else None
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux([*sound.encode(silence), *sound.encode()])
        for pixels in moving(240, 320, 75):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    assert len(frames(path)) == 3
    read, error = judged(cut(path, share), 1)
    assert "cut short" in error
    assert read


def test_headers_that_promise_too_much_or_too_little(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.avi", seconds=4).read_bytes()
    for length, message in ((200, "cut short: it should last 25.0 s, only 4.0 s"), (10, "")):
        data = bytearray(whole)
        at = data.index(b"strh") + 8 + 32  # dwLength of AVISTREAMHEADER
        data[at : at + 4] = length.to_bytes(4, "little")
        path = tmp_path / "claims.avi"
        path.write_bytes(data)
        read, error = judged(path, 1)
        assert message in error
        assert bool(message) == bool(error)
        assert len(read) == 4


CODECS = {
    "libx264": {"x264-params": "bframes=3:open-gop=1:keyint=12:log-level=none"},
    "libx265": {"x265-params": "keyint=12:open-gop=1:log-level=none", "preset": "ultrafast"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"},
    "libvpx-vp9": {
        "deadline": "realtime",
        "cpu-used": "8",
        "auto-alt-ref": "1",
        "lag-in-frames": "8",
    },
    "libsvtav1": {"preset": "12", "svtav1-params": "keyint=12"},
    "mpeg4": {"bf": "2"},
    "mpeg2video": {"bf": "2"},
    "mjpeg": {},
    "prores_ks": {},
    "ffv1": {"slicecrc": "1"},
}
FORMATS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}


def write_coded(path: Path, codec: str, count: int = 24) -> Path:
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(codec, rate=12, options=CODECS[codec])
        stream.width, stream.height = 192, 144
        stream.pix_fmt = FORMATS.get(codec, "yuv420p")
        for pixels in moving(144, 192, count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def damaged(path: Path, share: float, seed: int) -> Path:
    """A copy with single bits flipped in that share of the bytes of its pictures."""
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(max(1, int(len(data) * share))):
        data[rng.randrange(len(data) // 10, len(data) * 9 // 10)] ^= 1 << rng.randrange(8)
    spoiled = path.with_name(f"damaged{path.suffix}")
    spoiled.write_bytes(data)
    return spoiled


@pytest.mark.parametrize("codec", CODECS)
def test_sound_clips_have_no_frame_left_out(tmp_path: Path, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    read, error = judged(write_coded(tmp_path / "clip.mkv", codec))
    assert error == ""
    assert len(read) == 24


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video", "mjpeg"])
def test_frames_that_were_concealed_are_left_out_and_counted(tmp_path: Path, codec: str) -> None:
    path = write_coded(tmp_path / "clip.mkv", codec)
    whole = {frame.time: frame.pixels.astype(int) for frame in judged(path)[0]}
    wrong = told = 0
    for seed in range(6):
        read, error = judged(damaged(path, 0.0005, seed))
        told += any(part in error for part in ("left out", "frames is sound", "more frames"))
        wrong += sum(
            frame.time not in whole or abs(frame.pixels - whole[frame.time]).mean() > 2
            for frame in read
        )
    assert told == 6
    # A flipped bit that decodes to something else cannot be seen; most do not.
    assert wrong <= 6 * 24 / 3


def test_what_refers_to_damage_is_left_out_until_a_keyframe(tmp_path: Path) -> None:
    read, error = judged(write_spoiled(tmp_path / "clip.mkv"))
    assert "9 of its 36 frames were left out" in error
    assert [round(12 * frame.time) for frame in read] == [*range(15), *range(24, 36)]


def test_a_sweep_of_intra_coded_rows_mends_damage(tmp_path: Path) -> None:
    """Cameras that send no keyframes: the sweep that follows damage mends it, not one under way."""
    options = {"x264-params": "bframes=0:intra-refresh=1:keyint=8:scenecut=0:log-level=none"}
    read, error = judged(write_spoiled(tmp_path / "clip.mkv", options))
    left = sorted(set(range(36)) - {round(12 * frame.time) for frame in read})
    assert f"{len(left)} of its 36 frames were left out" in error
    assert left == list(range(15, left[-1] + 1))
    with av.open(tmp_path / "clip.mkv") as container:
        sweeps = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert left[-1] + 1 == [sweep for sweep in sweeps if sweep > 15][1]


def test_what_is_odd_but_sound_is_judged(tmp_path: Path) -> None:
    """H.265 with a message that is too short in every frame: it makes no pixel wrong."""
    message = b"\0\0\1" + bytes([39 << 1, 1, 1, 200, 1, 2, 3, 0x80])
    path = tmp_path / "odd.ts"
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx265", rate=12, options=CODECS["libx265"])
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        coded = []
        for pixels in moving(144, 192, 24):
            coded += stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))
        for packet in [*coded, *stream.encode()]:
            odd = av.Packet(message + bytes(packet))
            odd.stream, odd.time_base, odd.is_keyframe = (
                stream,
                packet.time_base,
                packet.is_keyframe,
            )
            odd.pts, odd.dts = packet.pts, packet.dts
            container.mux(odd)
    read, error = judged(path)
    assert (len(read), error) == (24, "")


def test_a_damaged_first_frame_lets_no_other_damage_pass(tmp_path: Path) -> None:
    """A decoder that refuses the first frame is not asked to be lenient with the rest."""
    path = write_video(tmp_path / "a.avi", seconds=2, rate=12, codec="mjpeg")
    data = bytearray(path.read_bytes())
    with av.open(path) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for place, size in (places[0], places[9]):
        assert place is not None
        data[place + size - 60 : place + size] = random.Random(6).randbytes(60)
    path.write_bytes(data)
    read, error = judged(path)
    assert len(read) == len(places) - 2
    assert f"damaged: 2 of its {len(places)} frames were left out" in error
