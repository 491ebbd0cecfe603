"""Sources that are read in processes of their own: the same pictures, and no other harm."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from media import write_video
from telling import eventually

from mpft_deploy.images import U8
from mpft_deploy.screen import Screener
from mpft_deploy.screen.evidence.ring import Ring
from mpft_deploy.screen.streams import processes, read_av, wire
from mpft_deploy.screen.streams.attempt import Attempt, Decode, SourceLostError
from mpft_deploy.screen.streams.clock import Clock
from mpft_deploy.screen.streams.config import Config, named, source_settings
from mpft_deploy.screen.streams.pixels import Shot
from mpft_deploy.screen.streams.processes import ReaderProcesses
from mpft_deploy.screen.streams.records import SourceEvent
from mpft_deploy.screen.streams.sandbox import has_filters, landlock_version
from mpft_deploy.screen.streams.settings import ScreenSettings, SourceSettings
from mpft_deploy.screen.streams.watch import Watch
from mpft_deploy.spec import MALFORMED
from mpft_deploy.views import Window

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")

WINDOW = Window(3, 5, 24, 40)

LATE = 30.0
"""Seconds: late on any machine, however busy; docs/streams.md has what was measured."""


@pytest.fixture(scope="module")
def reading() -> Iterator[ReaderProcesses]:
    found = ReaderProcesses()
    yield found
    found.close()


class Seen(Attempt):
    """Takes every picture of a source, whole and cut, at once."""

    def __init__(self, settings: SourceSettings) -> None:
        self.kept = Ring(60, 2**24)
        super().__init__(settings, Clock(), self.kept, lambda *_: None)
        self.pixels: list[tuple[U8, U8]] = []
        self.codec, self.packets, self.dropped = "", 0, 0

    def describe(self, codec: str, note: str = "") -> None:
        super().describe(codec, note)
        self.codec = codec

    def packet(self) -> float:
        self.packets += 1
        return super().packet()

    def offer(self, shot: Shot, received: float) -> None:
        super().offer(shot, received)
        assert self.began <= received <= self.now
        self.pixels.append((shot.whole(), shot.cut(WINDOW)))

    def hold(self, decode: Decode, received: float) -> None:
        shot = decode()
        assert not isinstance(shot, str)
        self.offer(shot, received)

    def drop(self, cause: wire.Cause, count: int = 1, *, picture: bool = False) -> None:
        super().drop(cause, count, picture=picture)
        self.dropped += count


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_process_gives_what_a_thread_gives(
    reading: ReaderProcesses, tmp_path: Path, codec: str
) -> None:
    """Frames of MJPEG stand alone, and are decoded when somebody asks for them."""
    path = write_video(tmp_path / "a.mkv", seconds=0.5, rate=24, codec=codec)
    settings = source_settings(str(path))
    here, there = Seen(settings), Seen(settings)
    read_av.read(here)
    reading.read(there)
    assert len(here.pixels) == 12
    assert (here.codec, here.packets, here.dropped) == (there.codec, there.packets, there.dropped)
    for one, other in zip(here.pixels, there.pixels, strict=True):
        assert all(map(np.array_equal, one, other))
    kept = [attempt.kept.cut(0, time.monotonic()) for attempt in (here, there)]
    assert kept[0]
    assert kept[1]
    assert kept[0][0] == kept[1][0]
    data = [[(one.data, one.pts, one.dts, one.key) for one in pictures] for _, pictures in kept]
    assert data[0] == data[1]
    eventually(lambda: not servers.children(reading))


def test_why_a_source_cannot_be_read_comes_through(
    reading: ReaderProcesses, tmp_path: Path
) -> None:
    (tmp_path / "odd.mp4").write_bytes(b"no video" * 100)
    for name, why in (("odd.mp4", "Invalid data"), ("none.mp4", "none.mp4: no such file")):
        settings = source_settings(str(tmp_path / name))
        with pytest.raises(SourceLostError, match=f"(?i){why}"):
            reading.read(Seen(settings))


class Masked(Seen):
    """Takes every picture of a source and wants no pixels of it, as where masks leave no room."""

    def offer(self, shot: Shot, received: float) -> None:
        Attempt.offer(self, shot, received)
        self.turns += 1
        self.occupied = True  # by the next one


def test_who_takes_pictures_and_wants_no_pixels_has_turns_all_the_same(
    reading: ReaderProcesses, tmp_path: Path
) -> None:
    """Keyframes, at which turns count, come every 1.5 s, so that a busy machine tells in time."""
    settings = source_settings(str(write_video(tmp_path / "a.mp4", seconds=3.5, rate=8)))
    attempt = Masked(settings)
    reading.read(attempt)
    assert (attempt.packets, attempt.turns, attempt.dropped) == (28, 28, 0)


def test_a_server_that_is_slow_is_there() -> None:
    """So that it is left alone for longer each time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = source_settings(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/", connect=0.3)
        with pytest.raises(SourceLostError, match=r"no stream within 0\.3 s") as lost:
            read_av.read(Seen(settings))
    assert not lost.value.gone


def test_a_process_that_hangs_is_ended(
    rtsp: Any, watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    server = rtsp()
    config = Config(
        sources=named([source_settings(server.url("cam"), gate=0.0)]),
        screen=ScreenSettings(readers="processes"),
    )
    running = watching(config=config)
    running.frame()
    [reader] = servers.children(running.watch.processes)
    os.kill(reader, signal.SIGSTOP)
    assert "does not answer" in running.state("down").reason
    running.frame()
    assert not Path(f"/proc/{reader}").exists()


@pytest.mark.parametrize("readers", ["threads", "processes"])
def test_rtmp_is_read(watching: Any, tmp_path: Path, readers: Any) -> None:
    with servers.rtmp_server(tmp_path) as url:
        sources = named([source_settings(url, gate=0.0, retry=1.0)])
        running = watching(config=Config(sources, ScreenSettings(readers=readers)))
        for _ in range(3):
            running.frame()


def memory_bomb(path: Path) -> Path:
    """A clip whose third frame is said to be, and is, of 700 MB; nearly all of it takes no disk."""
    size, clip = 700_000_000, bytearray(write_video(path, seconds=1, rate=12).read_bytes())
    third = clip.index(b"stsz") + 16 + 2 * 4
    clip[third : third + 4] = size.to_bytes(4, "big")
    path.write_bytes(clip)
    os.truncate(path, len(clip) + size)
    return path


def test_what_would_fill_the_memory_costs_its_source_alone(
    rtsp: Any, watching: Any, tmp_path: Path
) -> None:
    path = memory_bomb(tmp_path / "bomb.mp4")
    sources = [
        source_settings(rtsp().url("cam"), name="sound", gate=0.0),
        source_settings(str(path), name="bomb", gate=0.0, retry=0.2, max_pixels=400 * 400),
    ]
    screen = ScreenSettings(readers="processes")
    running = watching(config=Config(sources=named(sources), screen=screen))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    event = running.state("down", "bomb")
    assert event.reason == "what it sends takes more memory than its reader may have"
    for _ in range(3):
        running.frame("sound")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB, of 700,000
    write_video(tmp_path / "sound.mp4", seconds=1, rate=12).replace(path)
    running.frame("bomb")
    told = [event.source for event in running.events if isinstance(event, SourceEvent)]
    assert told.count("sound") == 1  # that it is live


def test_without_the_server_those_that_read_go_on(reading: ReaderProcesses, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1, rate=12, codec="libx264")
    settings = source_settings(str(path))
    first, second = Seen(settings), Seen(settings)
    thread = threading.Thread(target=reading.read, args=(first,))
    thread.start()
    eventually(lambda: first.pixels)
    os.kill(servers.pid(reading), signal.SIGKILL)
    reading.read(second)
    thread.join(LATE)
    assert len(first.pixels) == len(second.pixels) == 12


@pytest.mark.parametrize(
    ("readers", "addresses", "apart"),
    [
        ("auto", ("rtsp://a/1",), 0),
        ("auto", ("rtsp://a/1", "clip.mp4"), 0),
        ("auto", ("rtsp://a/1", "http://b/2", "clip.mp4", "pipe:"), 3),
        ("processes", ("rtsp://a/1",), 1),
        ("threads", ("rtsp://a/1", "rtsp://a/2"), 0),
    ],
)
def test_which_sources_have_a_process(
    screener: Screener, readers: Any, addresses: tuple[str, ...], apart: int
) -> None:
    sources = named([source_settings(one, size="8x8") for one in addresses])
    watch = Watch(screener, Config(sources=sources, screen=ScreenSettings(readers=readers)))
    reads = [channel.source._read for channel in watch.scheduler.channels]
    assert (
        sum(isinstance(getattr(read, "__self__", None), ReaderProcesses) for read in reads) == apart
    )


CONFINED = """
import contextlib, ctypes, json, os, platform, socket, subprocess, sys
from mpft_deploy.screen.streams.config import source_settings
from mpft_deploy.screen.streams.records import SourceEvent
from mpft_deploy.screen.streams.sandbox import confine

def call(x86, arm, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(x86 if platform.machine() == "x86_64" else arm, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

parent, clip, other, port = os.getppid(), *sys.argv[1:4]
before = socket.socket(socket.AF_INET)
confine(source_settings(**json.loads(sys.argv[4])))
refused = {
    "read": lambda: open(other),
    "list": lambda: os.listdir("/etc"),
    "write": lambda: open(clip, "r+"),
    "make": lambda: open(clip + ".new", "w"),
    "run": lambda: subprocess.run(["/bin/true"]),
    "memory": lambda: bytearray(4 * 2**30),
    "connect": lambda: before.connect(("127.0.0.1", int(port))),
    "signal": lambda: os.kill(parent, 0),
    "become": lambda: call(59, 221, b"/proc/self/exe", None, None),
    "trace": lambda: call(101, 117, 16, parent, 0, 0),
    "unshare": lambda: call(272, 97, 0x10000000),
    "listen": before.listen,
    "talk": lambda: socket.socket(socket.AF_UNIX),
    "send": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "internet": lambda: socket.socket(socket.AF_INET),
    "forge": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
}
for name, attempt in refused.items():
    try:
        attempt()
    except (PermissionError, MemoryError):
        print(name)
if "clip" in sys.argv[4]:
    open(clip).close()
socket.getaddrinfo("localhost", 80)
if "%lo" in sys.argv[4]:
    socket.getaddrinfo("fe80::1%lo", 80)
"""


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({"address": "CLIP"}, set()),
        ({"address": "rtsp://127.0.0.1/cam"}, {"internet"}),
        ({"address": "rtsp://localhost/cam"}, {"internet", "send"}),
        ({"address": "rtsp://[fe80::1%lo]/cam"}, {"internet", "send"}),
        ({"address": "rtsp://Camera.local/cam"}, {"internet", "send", "talk"}),
        ({"address": "rtsp://127.0.0.1/cam", "transport": "udp"}, {"internet", "send"}),
        ({"address": "http://127.0.0.1/list.m3u8"}, {"internet", "send"}),
    ],
)
def test_what_a_process_may_still_do(
    tmp_path: Path, settings: dict[str, str], free: set[str]
) -> None:
    clip, other = tmp_path / "clip.mp4", tmp_path / "cameras.toml"
    clip.touch()
    other.touch()
    given = json.dumps(settings).replace("CLIP", str(clip))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-c", CONFINED, str(clip), str(other), port, given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refused = set(done.stdout.split())
    version, wanted = landlock_version(), {"memory"}
    if version >= 1:
        wanted |= {"read", "list", "write", "make", "run"}
        wanted |= ({"connect"} if version >= 4 else set()) | ({"signal"} if version >= 6 else set())
    if has_filters():
        wanted |= {"run", "become", "trace", "unshare", "listen", "talk", "send", "internet"}
        wanted |= {"forge"}
    assert wanted - free <= refused
    assert not free & refused


LED_TO_A_NAME = """
import fcntl, socket, struct, threading
from mpft_deploy.screen.streams.config import source_settings
from mpft_deploy.screen.streams.sandbox import confine

def serve():
    while True:
        client, _ = listener.accept()
        with client:
            while length := client.recv(2):
                question = client.recv(int.from_bytes(length, "big"))
                end = question.index(0, 12) + 5
                found = question[end - 4 : end - 2] == bytes([0, 1])  # asked for an address of IPv4
                answer = bytes([192, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 5]) * found
                head = question[:2] + struct.pack(">5H", 0x8180, 1, found, 0, 0)
                message = head + question[12:end] + answer
                client.sendall(len(message).to_bytes(2, "big") + message)

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
    fcntl.ioctl(loopback, 0x8914, struct.pack("16sh14x", b"lo", 1))  # up
listener = socket.create_server(("127.0.0.1", 53))
threading.Thread(target=serve, daemon=True).start()
confine(source_settings("rtsp://127.0.0.1/cam"))
print(socket.getaddrinfo("camera.example", 554)[0][4][0])
"""


def test_a_camera_without_a_name_may_lead_to_one(tmp_path: Path) -> None:
    """It has no datagrams to look it up by: a name server of a network of its own hears TCP."""
    names = tmp_path / "resolv.conf"
    names.write_text("nameserver 127.0.0.1\n")
    shell = ["unshare", "-rnm", "sh", "-ec", 'mount --bind "$0" /etc/resolv.conf; exec "$@"', names]
    try:
        may = not subprocess.run([*shell, "true"], capture_output=True).returncode
    except FileNotFoundError:
        may = False
    if not may:
        pytest.skip("needs util-linux, and the right to mount")
    command = [*shell, sys.executable, "-c", LED_TO_A_NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "127.0.0.5\n", done.stderr


def test_what_passes_comes_out_as_it_went_in() -> None:
    events: list[wire.Event] = [
        wire.Opened("h264", ""),
        wire.Received(),
        wire.Picture(3, 480, 640, 1.5),
        wire.Dropped("no keyframe", 1, False),
        wire.Ended("why"),
    ]
    decode = wire.decoder(wire.Event).decode
    assert [decode(wire.encode(event)) for event in events] == events


@given(st.binary(max_size=60))
def test_nothing_but_messages_is_taken(data: bytes) -> None:
    with contextlib.suppress(*MALFORMED, ZeroDivisionError):
        assert isinstance(wire.decoder(wire.Event).decode(data), wire.Event)


@pytest.mark.parametrize(
    "event",
    [
        wire.Picture(0, 10**6, 1, 0.0),
        wire.Picture(0, 1, 1, float("nan")),
        wire.Picture(-1, 1, 1, 0.0),
        wire.Dropped("invented", 1, False),  # type: ignore[arg-type]
        wire.Ended("x" * 1000),
    ],
)
def test_no_event_is_believed(event: wire.Event) -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decoder(wire.Event).decode(wire.encode(event))


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"\0\0\1\0", "a message of 256 bytes"),
        (b"\0\0\0\5abc", "^$"),  # and no more: it would hold up whoever waits
        (b"", "^$"),
    ],
)
def test_a_wire_waits_for_no_sender(sent: bytes, error: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        with pytest.raises(OSError, match=error):
            wire.Wire(ours).receive(100, 0.05)
        theirs.close()
        with pytest.raises((EOFError, OSError)):
            wire.Wire(ours).receive(100)


def test_an_end_does_not_wait_for_a_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", "import time; time.sleep(60)")
    reading, settings = ReaderProcesses(), source_settings("rtsp://127.0.0.1:9/none")
    failed: list[Exception] = []

    def read() -> None:
        try:
            reading.read(Seen(settings))
        except SourceLostError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    eventually(lambda: reading._server)
    reading.close()
    thread.join(LATE)
    assert str(failed[0]) == "no process can be started to read it"
    assert reading._server is None
