"""Many cameras for little: an RTSP server that sends one coded clip to every client.

    python benchmarks/rtsp_load.py CLIP [--phases N]

Prints `ready PORT START`: where it listens, and the monotonic time at which frame 0 of phase 0 was
due. Each byte on its standard input cuts the connection that has played for the longest time; with
the end of that input it ends. `make_clip` makes the clip, whose frames carry their number, so that
whoever looks at one can tell when it was sent (`read_number`, `sent_at`).

RTP over the RTSP connection (RFC 2326, 3550 and 6184). Packets are made once and sent to all: 64
clients cost a few per cent of a core. PATH /N is phase N, N / phases of a clip later than phase 0,
since cameras do not send their keyframes all at once.
"""

from __future__ import annotations

import base64
import contextlib
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import click
import msgspec
import numpy as np

FPS = 25
PAYLOAD = 1400
BITS, BLOCK = 8, 16
"""The number of a frame: white and black blocks along the top of its central crop."""

BACKLOG = 4 * 2**20
"""Bytes that a slow client may be behind before frames are left out for it."""

REQUEST = re.compile(rb"([A-Z_]+) (rtsp://\S+) RTSP/1\.0\r\n.*?CSeq: (\d+)", re.DOTALL)
HEADERS = {"OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"}


class Clip(msgspec.Struct):
    """Access units in Annex B, and what is needed to announce them."""

    units: list[bytes]
    parameter_sets: list[bytes]


def make_clip(
    path: Path,
    width: int,
    height: int,
    *,
    crop: int = 224,
    frames: int = 100,
    keyframes: int = 50,
    bit_rate: int = 4_000_000,
    scene: np.ndarray | None = None,
) -> Clip:
    """Code a clip in H.264 that drifts over a scene, u8 [H, W, 3], and write it.

    The scene is repeated where it is smaller; without one it is blocks of random colours.
    """
    import av

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.gop_size, encoder.bit_rate = keyframes, bit_rate
    x264 = "repeat-headers=1:sliced-threads=0:scenecut=0"
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": x264}
    if scene is None:
        coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, 300, 3), np.uint8)
        scene = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    rows = np.arange(height) % scene.shape[0]
    texture = scene[rows][:, np.arange(width + 4 * frames) % scene.shape[1]]
    top, left = (height - crop) // 2, (width - crop) // 2
    units = []
    for index in range(frames):
        pixels = texture[:height, 4 * index : 4 * index + width].copy()
        for bit in range(BITS):
            column = left + bit * BLOCK
            value = 235 if index >> bit & 1 else 20
            pixels[top : top + BLOCK, column : column + BLOCK] = value
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        frame.pts = index
        units += [bytes(packet) for packet in encoder.encode(frame.reformat(format="yuv420p"))]
    units += [bytes(packet) for packet in encoder.encode(None)]
    sets = [unit for unit in split(units[0]) if unit[0] & 31 in (7, 8)]
    clip = Clip(units, sets)
    path.write_bytes(msgspec.msgpack.encode(clip))
    return clip


def read_number(view: np.ndarray) -> int:
    """The number of the frame that a central crop, u8 [S, S, 3], was cut from."""
    row = BLOCK // 2
    bits = [view[row, bit * BLOCK + BLOCK // 2].mean() > 127 for bit in range(BITS)]
    return sum(1 << bit for bit, on in enumerate(bits) if on)


def sent_at(number: int, start: float, offset: int, frames: int, seen: float) -> float:
    """When a frame was sent that was seen at a time, less than a clip's length ago.

    Args:
        number: as `read_number` gives it.
        start: as the server prints it; offset: of the client's phase, in frames.
    """
    due = start + ((number - offset) % frames) / FPS
    length = frames / FPS
    return due + (seen - due) // length * length


def split(unit: bytes) -> list[bytes]:
    """The NAL units of an access unit in Annex B."""
    return [part.rstrip(b"\0") for part in unit.split(b"\0\0\1") if part.strip(b"\0")]


def payloads(unit: bytes) -> Iterator[bytes]:
    """The RTP payloads of an access unit; long NAL units in fragments (FU-A)."""
    for nal in split(unit):
        if len(nal) <= PAYLOAD:
            yield nal
            continue
        indicator, kind = nal[0] & 0xE0 | 28, nal[0] & 31
        parts = range(1, len(nal), PAYLOAD - 2)
        for at in parts:
            flags = (0x80 if at == 1 else 0) | (0x40 if at == parts[-1] else 0)
            yield bytes([indicator, flags | kind]) + nal[at : at + PAYLOAD - 2]


class Phase:
    """One stream: numbers its packets on and on, whoever listens."""

    def __init__(self, clip: Clip, offset: int) -> None:
        self.offset, self._sequence = offset, 0
        self._payloads = [list(payloads(unit)) for unit in clip.units]

    def frame(self, index: int) -> bytes:
        """Everything to send for the frame that is due as the index-th of all."""
        parts = self._payloads[(index + self.offset) % len(self._payloads)]
        stamp = index * (90_000 // FPS) & 0xFFFFFFFF
        out = []
        for number, payload in enumerate(parts):
            marker = 0x80 if number == len(parts) - 1 else 0
            header = struct.pack(">BBHII", 0x80, marker | 96, self._sequence, stamp, 1)
            self._sequence = self._sequence + 1 & 0xFFFF
            out.append(b"$\0" + struct.pack(">H", 12 + len(payload)) + header + payload)
        return b"".join(out)


class Client:
    """A connection and what it still has to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket, self.playing, self.phase = connection, False, 0
        self._requests, self._waiting = b"", bytearray()

    def send(self, data: bytes) -> None:
        """Send, or keep what the connection does not take now; OSError if it is gone."""
        if len(self._waiting) > BACKLOG:
            return
        if self._waiting:
            self._waiting += data
            data = b""
        if self._waiting:
            del self._waiting[: self._try(self._waiting)]
        else:
            self._waiting += data[self._try(data) :]

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def receive(self, clip: Clip) -> None:
        """Answer what it asks; OSError if it left."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self._requests += data
        while b"\r\n\r\n" in self._requests:
            request, _, self._requests = self._requests.partition(b"\r\n\r\n")
            # Receiver reports come between, in frames of their own: they are passed over.
            if found := REQUEST.search(request):
                self._answer(found[1].decode(), found[2].decode(), found[3].decode(), clip)

    def _answer(self, verb: str, url: str, number: str, clip: Clip) -> None:
        headers, body = HEADERS.get(verb, ""), ""
        if verb == "DESCRIBE":
            self.phase = int(url.rstrip("/").rpartition("/")[2] or 0)
            sets = ",".join(base64.b64encode(one).decode() for one in clip.parameter_sets)
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=load\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                "a=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n"
                f"a=framerate:{FPS}\r\na=control:track1\r\n"
            )
            headers = f"Content-Type: application/sdp\r\nContent-Base: {url}/\r\n"
        elif verb == "SETUP":
            headers = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n{headers}"
        self.send(f"{answer}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        self.playing = self.playing or verb == "PLAY"
        if verb == "TEARDOWN":
            raise ConnectionResetError


def offsets(frames: int, phases: int) -> list[int]:
    """By how many frames each phase is ahead of phase 0."""
    return [frames * phase // phases for phase in range(phases)]


def serve(clip: Clip, phases: int) -> None:
    """Send until standard input ends."""
    streams = [Phase(clip, offset) for offset in offsets(len(clip.units), phases)]
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    clients: dict[int, Client] = {}
    start, index = time.monotonic(), 0
    print("ready", listener.getsockname()[1], start, flush=True)
    while True:
        due = start + index / FPS
        wait = max(0.0, due - time.monotonic())
        ready, _, _ = select.select([0, listener.fileno(), *clients], [], [], wait)
        gone = []
        if 0 in ready:
            if not sys.stdin.buffer.raw.read(1):  # type: ignore[attr-defined]
                return
            gone += [number for number, client in clients.items() if client.playing][:1]
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            clients[connection.fileno()] = Client(connection)
        for number in (set(ready) & clients.keys()) - set(gone):
            try:
                clients[number].receive(clip)
            except (OSError, ValueError):  # noqa: PERF203, each on its own is the point
                gone.append(number)
        if time.monotonic() >= due:
            frames = [stream.frame(index) for stream in streams]
            index += 1
            for number, client in clients.items():
                if client.playing and number not in gone:
                    try:
                        client.send(frames[client.phase % phases])
                    except OSError:
                        gone.append(number)
        for number in gone:
            clients.pop(number).socket.close()


@contextlib.contextmanager
def running(clip: Path, phases: int) -> Iterator[tuple[int, float, subprocess.Popen[str]]]:
    """The server in a process of its own: port, start, process."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(clip), "--phases", str(phases)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        _, port, start = process.stdout.readline().split()
        yield int(port), float(start), process
    finally:
        process.stdin.close()
        process.wait(10)


@click.command()
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--phases", default=1, show_default=True)
def main(clip: Path, phases: int) -> None:
    """Serve CLIP."""
    serve(msgspec.msgpack.decode(clip.read_bytes(), type=Clip), phases)


if __name__ == "__main__":
    main()
