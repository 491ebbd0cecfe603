"""Reading with FFmpeg: network streams and video files."""

from __future__ import annotations

import functools
import logging
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpft_deploy.errors import InputError
from mpft_deploy.images import check_pixels, check_readable
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.pixels import DecodedShot, Shot
from mpft_deploy.screen.streams.settings import SourceSettings

if TYPE_CHECKING:
    import av

logger = logging.getLogger(__name__)

PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "http": "http,https,tcp,tls,crypto",
    "https": "https,tcp,tls,crypto",
    "rtmp": "rtmp,tcp",
}
"""What a stream may make FFmpeg open: a playlist from a stranger must not lead to local files."""

_ASKING_HARDWARE = threading.Lock()
"""Sources that start together ask once."""

BEHIND = 1.0
"""Seconds by which a source's own clock may fall back before only keyframes are decoded."""

CAUGHT_UP = 0.3

DRIFT = 1e-3
"""Seconds a second by which a camera's clock may differ from ours; real ones stay below a tenth."""

JUMP, BACK = 10.0, 1.0
"""Seconds: a clock that jumps further, forward or back, starts anew."""

# What PyAV raises when its time is up; it says nothing to an operator.
_TIME_OUT = ("ExitError", "TimeoutError")


def read(settings: SourceSettings, attempt: Attempt) -> None:
    """Read a source with FFmpeg; returns at the end of a file.

    Raises:
        SourceLostError: the connection failed or ended.
    """
    import av

    try:
        attempt.within(2 * settings.connect)  # to connect, and again to see what it sends
        with _open(settings) as container:
            _read_open(container, settings, attempt)
    except InputError:
        raise
    except av.error.FFmpegError as error:
        # Not str(error): that names the address.
        raise SourceLostError(_explain(error, settings, attempt)) from None
    except OSError as error:
        raise SourceLostError(error.strerror or type(error).__name__) from None


def _open(settings: SourceSettings) -> av.container.InputContainer:
    import av

    target = settings.target
    arguments: dict[str, Any] = {
        "metadata_errors": "replace",
        "timeout": (settings.connect, settings.timeout),
    }
    with _ASKING_HARDWARE:
        hardware = bool(settings.hwaccel) and not why_no_hardware(settings.hwaccel)
    if hardware:
        from av.codec.hwaccel import HWAccel

        arguments["hwaccel"] = HWAccel(settings.hwaccel, allow_software_fallback=True)
    if target.scheme == "file":
        check_readable(Path(target.rest))
        return av.open(target.rest, options={"protocol_whitelist": "file"}, **arguments)
    # Little is looked at before the first frame is given out: that is age of the first frames.
    options = {
        "protocol_whitelist": PROTOCOLS[target.scheme],
        "fpsprobesize": "0",
        "analyzeduration": "500000",
    }
    if target.scheme.startswith("rtsp"):
        options["rtsp_transport"] = settings.transport
        options["allowed_media_types"] = "video"
    return av.open(target.raw, options=options, **arguments)


@functools.cache
def why_no_hardware(name: str) -> str:
    """Why a hardware decoder cannot be used here, "" if it can; a reason is logged, once."""
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available

    reason = ""
    known = hwdevices_available()
    if name not in known:
        reason = f"it is none of {', '.join(known) or 'those of this FFmpeg, which has none'}"
    else:
        try:
            HWAccel(name).create(av.Codec("h264", "r"))
        except Exception as error:  # a driver may say anything
            reason = getattr(error, "strerror", None) or str(error)
    if reason:
        logger.warning("hwaccel %s cannot be used (%s): decoding in software", name, reason)
    return reason


def _read_open(
    container: av.container.InputContainer, settings: SourceSettings, attempt: Attempt
) -> None:
    if not container.streams.video:
        raise SourceLostError("holds no video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise SourceLostError("its video is coded in a way that cannot be read")
    target = settings.target
    local = target.scheme == "file"
    finite = local or (target.scheme in ("http", "https") and container.duration is not None)
    decoder = _Decoder(stream, settings, attempt, shed=not finite)
    attempt.describe(stream.codec_context.name, float(stream.average_rate or 0))
    pace = _Pace(attempt) if finite else None
    packets = container.demux(stream)
    while not attempt.stopping:
        attempt.within(settings.timeout)
        asked = attempt.now
        packet = next(packets, None)
        if packet is None:
            break
        # When its time is up FFmpeg first gives out what it had kept, and would wait once more.
        if attempt.now - asked >= 0.95 * settings.timeout:
            raise SourceLostError(f"no data for {settings.timeout:g} s")
        if packet.size == 0:
            decoder.flush()
            continue
        time = _seconds(packet)
        if pace is not None and time is not None and not pace.wait(time):
            return
        decoder.feed(packet)
    if not finite and not attempt.stopping:
        raise SourceLostError("the stream ended")


class _Decoder:
    """Decodes what is to be judged, and as little else as possible.

    A frame that stands alone is kept coded until its turn is near, and decoded by the scheduler's
    threads. Of what hangs together either all is decoded as it comes in, or keyframes alone: while
    more comes in than can be decoded, or than is judged.

    shed: whether it can come in faster than it is decoded, as from a camera; frames of a file wait.
    """

    def __init__(
        self, stream: av.VideoStream, settings: SourceSettings, attempt: Attempt, *, shed: bool
    ) -> None:
        self._stream, self._attempt = stream, attempt
        self._context = context = stream.codec_context
        # Frame threads delay every frame by their number; sources are what runs side by side here.
        context.thread_type = "SLICE"
        context.thread_count = 1
        context.copy_opaque = True
        self._lock = threading.Lock()
        # Whether the decoder holds, or refers to, frames of a group that is decoded as it comes in.
        self._chained = False
        self._keyframes = settings.decode == "keyframes"
        if self._keyframes:
            context.skip_frame = "NONKEY"
        self._interval = 1 / settings.decode if isinstance(settings.decode, float) else 0.0
        # Where every frame stands alone, one that is not due need not be decoded.
        self._alone = context.codec.intra_only
        self._due = -math.inf
        self._lag = Lag()
        self._shed, self._behind = shed, False
        self._turns, self._unserved = attempt.turns, 0

    def feed(self, packet: av.Packet) -> None:
        """Decode a packet if its frames may be wanted."""
        attempt = self._attempt
        now = attempt.packet()
        packet.opaque = now
        if self._skip(packet, now):
            return
        alone = self._alone or self._keyframes or self._shedding
        if alone and self._chained:
            self.flush()
        if alone and attempt.pictures:
            self._wait_for_due(now)
            attempt.hold(functools.partial(self._decode_alone, packet), now)
            return
        with self._lock:
            self._chained = not alone
            frames = self._decode(packet, alone=alone)
        if frames is None:
            attempt.drop("damaged")
        else:
            self._give(frames, now)

    def flush(self) -> None:
        """Give what the decoder holds, at the end of a file or of what hangs together."""
        with self._lock:
            frames = self._decode(None, alone=True)
            self._chained = False
        self._give(frames or [], None)

    @property
    def _shedding(self) -> bool:
        """Whether keyframes alone are to be decoded, although more was asked for."""
        return self._behind or self._unserved > 0

    def _decode(self, packet: av.Packet | None, *, alone: bool) -> list[av.VideoFrame] | None:
        """Under the lock: the frames of a packet, all of them if it stands alone; None if damaged.

        Without a packet those that the decoder still holds.
        """
        import av

        try:
            frames = [] if packet is None else self._context.decode(packet)
            if alone:
                # A decoder that reorders would keep this frame until the next keyframe.
                frames += self._context.decode(None)
                self._context.flush_buffers()
        except (av.error.FFmpegError, ValueError):
            return None
        return frames

    def _decode_alone(self, packet: av.Packet) -> Shot | str:
        """The picture of a frame that stands alone, or the cause for which there is none."""
        with self._lock:
            if self._chained:  # frames are decoded as they come in again: this one is in the way
                return "overload"
            frames = self._decode(packet, alone=True) or []
        for frame in frames:
            if not frame.is_corrupt:
                check_pixels(frame.width, frame.height, self._attempt.name)
                return DecodedShot(frame)
        return "damaged"

    def _skip(self, packet: av.Packet, now: float) -> bool:
        """Whether a packet is not decoded at all; counts it."""
        if packet.is_corrupt:
            self._attempt.drop("damaged")
            return True
        if self._keyframes and not packet.is_keyframe:
            self._attempt.drop("no keyframe")
            return True
        time = _seconds(packet)
        if self._shed and time is not None:
            lag = self._lag.update(now, time)
            if lag > BEHIND:
                self._behind = True
            elif lag < CAUGHT_UP and packet.is_keyframe:
                self._behind = False
        if packet.is_keyframe:
            self._look_for_turns()
        elif self._shedding:
            self._attempt.drop("behind" if self._behind else "overload")
            return True
        if (self._alone or self._shedding) and self._interval and now < self._due:
            self._attempt.drop("rate", picture=True)
            return True
        return False

    def _look_for_turns(self) -> None:
        """At a keyframe: whether those since the one before were decoded in vain.

        A source that has less than a turn from keyframe to keyframe needs nothing but keyframes. It
        gets more when there was a turn for two in a row.
        """
        turns = self._attempt.turns
        if turns == self._turns and self._attempt.occupied:
            self._unserved = 2
        elif self._unserved and turns > self._turns:
            self._unserved -= 1
        self._turns = turns

    def _wait_for_due(self, received: float) -> None:
        """A frame was given: when the next is due."""
        # Kept to the grid, so that the rate is met on average; not after a silence.
        self._due = max(self._due + self._interval, received)

    def _give(self, frames: list[av.VideoFrame], now: float | None) -> None:
        """Offer decoded frames, at the rate that was asked for."""
        attempt = self._attempt
        for frame in frames:
            received = frame.opaque if isinstance(frame.opaque, float) else now
            if received is None:
                received = attempt.seen
            if frame.is_corrupt:
                attempt.drop("damaged")
                continue
            if self._interval:
                if received < self._due:
                    attempt.drop("rate", picture=True)
                    continue
                self._wait_for_due(received)
            check_pixels(frame.width, frame.height, attempt.name)
            attempt.offer(DecodedShot(frame), received)


class Lag:
    """By how much a stream's time stamps fall behind our clock: what waits in buffers unseen.

    Only differences count, and only of neighbours: time stamps that loop or jump start it anew.
    """

    def __init__(self) -> None:
        self._least: float | None = None
        self._now = self._time = 0.0

    def update(self, now: float, time: float) -> float:
        """Seconds behind; now by the monotonic clock, time as the stream stamps it."""
        offset = now - time
        if self._least is None or not -BACK < time - self._time < JUMP:
            self._least = offset
        else:
            self._least = min(offset, self._least + DRIFT * (now - self._now))
        self._now, self._time = now, time
        return offset - self._least


class _Pace:
    """Plays a file at the speed of its time stamps."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._start: float | None = None
        self._last = 0.0

    def wait(self, time: float) -> bool:
        """Wait for the moment of a frame; whether to go on."""
        now = self._attempt.now
        if self._start is None or not -BACK < time - self._last < JUMP:
            self._start = now - time
        self._last = time
        return self._attempt.wait(max(0.0, self._start + time - now))


def _seconds(packet: av.Packet) -> float | None:
    """Its time stamp, in the order of decoding, which runs forward."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return None if stamp is None else float(stamp * packet.time_base)


def _explain(error: av.error.FFmpegError, settings: SourceSettings, attempt: Attempt) -> str:
    """What happened, without the address."""
    if attempt.opened:
        if type(error).__name__ in _TIME_OUT:
            return f"no data for {settings.timeout:g} s"
    # What FFmpeg says when its time is up depends on where it was.
    elif attempt.now - attempt.began >= 0.95 * settings.connect:
        return f"no stream within {settings.connect:g} s"
    return error.strerror or type(error).__name__
