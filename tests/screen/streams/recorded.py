"""What evidence is made of: coded clips as a reader meets them, and packages of a tiny bundle."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
from telling import frame_event, stream_event

from mpft_deploy.bundle import read_bundle
from mpft_deploy.screen import Screener
from mpft_deploy.screen.evidence.clip import Tap
from mpft_deploy.screen.evidence.keeper import EvidenceSink
from mpft_deploy.screen.evidence.package import engine_of
from mpft_deploy.screen.evidence.ring import Looks, Recording, Ring
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.tell.config import Evidence
from mpft_deploy.screen.tell.store import Store

ALARMED = 0.0
"""A threshold by which every frame is called generated, unless its camera was taught."""


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
