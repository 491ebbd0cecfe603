"""HTTP sources: still pictures, redirects, playlists and formats of strangers, sizes, names."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import moving
from hypothesis import given
from hypothesis import strategies as st
from media import encoded, picture, write_video
from servers import Site
from telling import eventually

from mpft_deploy.screen.streams.attempt import SourceLostError
from mpft_deploy.screen.streams.config import source_settings
from mpft_deploy.screen.streams.origin import Playlists, within


@pytest.fixture
def site() -> Iterator[Site]:
    one = Site()
    yield one
    one.close()


@pytest.fixture
def inner() -> Iterator[Site]:
    """A server that only this machine can reach."""
    one = Site()
    yield one
    one.close()


@pytest.mark.parametrize(("path", "kind"), [("/snap.jpg", "JPEG"), ("/snap", "PNG")])
def test_a_still_picture_is_asked_for_again(
    site: Site, watching: Any, path: str, kind: str
) -> None:
    site.answers[path] = (200, {"Content-Type": "image/jpeg"}, encoded(picture(240, 320), kind))
    running = watching(site.url(path), decode=10.0)
    for _ in range(3):
        running.frame()
    assert len(site.asked) >= 3
    assert running.states() == ["live"]
    assert (running.status().width, running.status().reconnects) == (320, 0)


@pytest.mark.parametrize("fault", ["cut", "doubled"])
def test_a_damaged_still_picture_is_not_judged_nor_is_it_a_reason_to_be_lenient(
    site: Site, watching: Any, fault: str
) -> None:
    sound = encoded(picture(240, 320), "JPEG")
    bad = sound[: len(sound) // 2]
    if fault == "doubled":
        at = sound.index(b"\xff\xc0") + 5  # height in the header of the frame
        bad = sound[:at] + (480).to_bytes(2, "big") + sound[at + 2 :]
    site.answers["/snap.jpg"] = (200, {"Content-Type": "image/jpeg"}, bad)
    running = watching(site.url("/snap.jpg"), decode=10.0)
    eventually(lambda: running.status().dropped.get("damaged", 0) >= 5)
    assert running.status().screened == 0
    site.answers["/snap.jpg"] = (200, {"Content-Type": "image/jpeg"}, sound)
    running.frame()
    site.answers["/snap.jpg"] = (200, {"Content-Type": "image/jpeg"}, bad)
    count = len(site.asked)
    eventually(lambda: len(site.asked) > count + 2)
    screened = running.status().screened
    eventually(lambda: len(site.asked) > count + 6)
    assert running.status().screened <= screened + 1  # one that was on its way


def test_redirects_within_the_server_are_followed(site: Site, watching: Any) -> None:
    site.answers["/here"] = (302, {"Location": "/there"}, b"")
    site.answers["/there"] = (301, {"Location": "snap.jpg"}, b"")
    site.answers["/snap.jpg"] = (200, {}, encoded(picture(240, 320), "JPEG"))
    running = watching(site.url("/here"))
    running.frame()
    assert site.asked[-1][0] == "/snap.jpg"
    # Who does not ask for the password is not told it.
    assert all(login == "" for _, login in site.asked)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{0}\n#EXTINF:4,\n{0}\n#EXT-X-ENDLIST\n"


def test_nothing_leads_to_another_server(site: Site, inner: Site, watching: Any) -> None:
    """Another port of one machine is another server."""
    elsewhere = f"http://127.0.0.1:{inner.port}/latest/meta-data.ts"
    playlist = PLAYLIST.format(elsewhere).encode()
    site.answers["/moved"] = (302, {"Location": elsewhere, "Set-Cookie": "a=b"}, b"")
    site.answers["/cam"] = (200, {"Content-Type": "application/vnd.apple.mpegurl"}, playlist)
    site.answers["/cam.m3u8"] = site.answers["/cam"]
    concat = f"ffconcat version 1.0\nfile {elsewhere}\n".encode()
    site.answers["/list.mp4"] = (200, {"Content-Type": "video/mp4"}, concat)
    key = playlist.replace(
        b"#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{elsewhere}"\n#EXTINF'.encode(), 1
    )
    site.answers["/key.m3u8"] = (200, {}, key)
    addresses = [site.url(path) for path in ("/moved", "/cam", "/cam.m3u8", "/list.mp4")]
    addresses += [site.url(path, "hls+http") for path in ("/cam.m3u8", "/key.m3u8", "/moved")]
    running = watching(*addresses, retry=0.5, connect=3.0, timeout=3.0)
    for status in running.watch.statuses():
        event = running.state("down", status.source)
        assert "secretpw" not in event.reason
    assert inner.asked == []
    reasons = [status.reason for status in running.watch.statuses()]
    assert "another server" in reasons[0]
    assert "hls+http" in reasons[1]
    assert "another server" in reasons[4]


def test_a_playlist_is_played_where_it_is_asked_for(
    tmp_path: Path, site: Site, watching: Any
) -> None:
    clip = write_video(tmp_path / "a.ts", seconds=4, codec="mpeg2video", rate=25).read_bytes()
    site.answers["/list.m3u8"] = (200, {}, PLAYLIST.format("a.ts").encode())
    site.answers["/a.ts"] = (200, {}, clip)
    site.demands = 'Basic realm="cam"'
    running = watching(site.url("/list.m3u8", "hls+http"))
    running.frame(after=0)
    assert ("/a.ts", "Basic dXNlcjpzZWNyZXRwdw==") in site.asked


def test_a_file_in_disguise_is_refused_as_a_stream_too(tmp_path: Path, watching: Any) -> None:
    write_video(tmp_path / "secret.mp4")
    trap = tmp_path / "trap.mp4"
    trap.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    running = watching(str(trap))
    assert "Invalid" in running.state("down").reason


def test_pictures_that_are_too_large_are_not_decoded(site: Site, watching: Any) -> None:
    site.answers["/snap.jpg"] = (200, {}, encoded(picture(1200, 1600), "JPEG"))
    for limit in (1599 * 1200, 10_000):
        running = watching(site.url("/snap.jpg"), max_pixels=limit, retry=0.5)
        assert f"max_pixels = {limit}" in running.state("down").reason
    watching(site.url("/snap.jpg"), max_pixels=1600 * 1200).frame()


def test_a_name_that_leads_nowhere_is_told(watching: Any) -> None:
    for scheme in ("rtsp", "http"):
        running = watching(f"{scheme}://nohost.invalid/cam")
        assert running.state("down").reason == "the name nohost.invalid cannot be resolved"


def test_the_moving_track_of_a_stream(tmp_path: Path, watching: Any) -> None:
    path = tmp_path / "two.mkv"
    with av.open(path, "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
        tracks: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        white = np.full((480, 640, 3), 255, np.uint8)
        for track in tracks:
            track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        container.mux([*cover.encode(av.VideoFrame.from_ndarray(white, "rgb24")), *cover.encode()])
        for track in tracks:
            for pixels in moving(240, 320, 25):
                container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(track.encode())
    running = watching(str(path))
    assert running.state("live").reason == "track 2 of 3 judged"
    running.frame(after=0)
    assert running.status().width == 320


@given(
    host=st.sampled_from(["cam", "other", "CAM", "127.0.0.1"]),
    port=st.sampled_from(["", ":80", ":81", ":443", ":x"]),
    scheme=st.sampled_from(["http", "https", "file", "ftp", "crypto+http", ""]),
    login=st.sampled_from(["", "a:b@"]),
)
def test_what_is_within_a_server(host: str, port: str, scheme: str, login: str) -> None:
    url = f"{scheme}://{login}{host}{port}/x?y"
    same = host.lower() == "cam" and (
        (scheme == "http" and port in ("", ":80")) or (scheme == "https" and port in ("", ":443"))
    )
    if same:
        assert within("http://u:p@cam/list", url) == f"{scheme}://u:p@{host}{port}/x?y"
    else:
        with pytest.raises(SourceLostError, match="another server"):
            within("http://u:p@cam/list", url)


@pytest.mark.parametrize("answer", ["none", "end", "reset", "silence", "unknown"])
def test_who_answers_oddly_or_not_in_time_is_there(answer: str) -> None:
    """A server that is there is left alone for longer, one that is gone is not."""
    host = "nohost.invalid" if answer == "unknown" else "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if answer == "reset":
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        serving = threading.Thread(target=serve, daemon=True)
        if answer in ("end", "reset"):
            serving.start()
        if answer == "none":
            listener.close()
        settings = source_settings(f"hls+http://{host}:{port}/list.m3u8", timeout=0.3)
        opened = Playlists(settings)
        with pytest.raises(SourceLostError) as lost:
            opened(opened.origin, 0, {})
        if serving.is_alive():
            serving.join()
    assert lost.value.gone == (answer in ("none", "unknown"))
