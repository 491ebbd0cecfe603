"""Reading with FFmpeg: network streams and video files."""

from __future__ import annotations

import errno
import functools
import math
import threading
from typing import TYPE_CHECKING

from mpft_deploy.errors import InputError
from mpft_deploy.screen.evidence.clip import Tap
from mpft_deploy.screen.streams.attempt import Attempt, SourceLostError
from mpft_deploy.screen.streams.open_av import check_size, is_still, lost, open_source
from mpft_deploy.screen.streams.pixels import DecodedShot, Shot
from mpft_deploy.screen.video import (
    RefusedError,
    Sent,
    Sieve,
    pick_track,
    prepare_decoder,
)

if TYPE_CHECKING:
    import av

STILL = 1.0
"""Seconds from one still picture of a camera to the next, unless `decode` says."""

BEHIND = 1.0
"""Seconds by which a source's own clock may fall back before only keyframes are decoded."""

CAUGHT_UP = 0.3

DRIFT = 1e-3
"""Seconds a second by which a camera's clock may differ from ours; real ones stay below a tenth."""

ODD = 3
"""Keyframes that a strict decoder refuses before any picture: from so many on their sender is odd,
rather than they damaged."""

JUMP, BACK = 10.0, 1.0
"""Seconds: a clock that jumps further, forward or back, starts anew."""


def read(attempt: Attempt) -> None:
    """Read a source with FFmpeg; returns at the end of a file.

    Raises:
        SourceLostError: the connection failed or ended.
    """
    import av

    strict, location, settings = True, None, attempt.settings
    try:
        while not attempt.stopping:
            attempt.within(2 * settings.connect)  # to connect, and again to see what it sends
            try:
                with open_source(settings, location) as container:
                    _read_open(container, attempt, strict=strict)
                    still = settings.target.network and is_still(container)
            except RefusedError:
                strict = False
                continue
            except OSError as error:
                # FFmpeg, which must not follow redirects, says no more than that of one.
                here = error.errno == errno.EIO and not attempt.opened and location is None
                if here and settings.target.scheme in ("http", "https"):
                    # It needs 2 MB of HTTP and TLS, which other sources do without.
                    from mpft_deploy.screen.streams.origin import follow_redirects

                    location = follow_redirects(settings)
                if location is None or not here:
                    raise
                continue
            # A camera that gives one picture is asked for the next, at the rate that is wanted.
            if not still or not attempt.wait(settings.interval or STILL):
                return
    except InputError:
        raise
    except av.error.FFmpegError as error:
        raise lost(error, attempt) from None
    except OSError as error:
        raise SourceLostError(error.strerror or type(error).__name__) from None


def _read_open(container: av.container.InputContainer, attempt: Attempt, *, strict: bool) -> None:
    settings, track = attempt.settings, pick_track(container)
    still = settings.target.network and is_still(container)
    if track is None and still:
        track = container.streams.video[0], ""
    if track is None:
        raise SourceLostError("holds no video")
    stream, note = track
    if stream.codec_context is None:
        raise SourceLostError("its video is coded in a way that cannot be read")
    check_size(stream.width, stream.height, settings)
    scheme = settings.target.scheme
    finite = still or scheme == "file"
    finite = finite or (scheme in ("http", "https") and container.duration is not None)
    decoder = _Decoder(stream, attempt, shed=not finite, strict=strict)
    attempt.describe(stream.codec_context.name, note)
    pace = _Pace(attempt) if finite and not still else None
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
        self, stream: av.VideoStream, attempt: Attempt, *, shed: bool, strict: bool
    ) -> None:
        settings = attempt.settings
        self._attempt, self._strict = attempt, strict
        self._tap = None if attempt.ring is None else Tap(stream, attempt.ring)
        self._context = context = stream.codec_context
        # Frame threads delay every frame by their number; sources are what runs side by side here.
        context.thread_type = "SLICE"
        context.thread_count = 1
        prepare_decoder(context, max_pixels=settings.max_pixels, strict=strict)
        self._sieve, self._place, self._refused = Sieve(context), 0, 0
        self._lock = threading.Lock()
        # Whether the decoder holds, or refers to, frames of a group that is decoded as it comes in.
        self._chained = False
        self._keyframes = settings.decode == "keyframes"
        if self._keyframes:
            context.skip_frame = "NONKEY"
        self._interval = settings.interval
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
        if self._tap is not None:
            self._tap.add(packet, now)
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
            packet.opaque = Sent(self._place, packet.is_keyframe, now)
            self._place += 1
            frames = self._decode(packet, alone=alone)
        if frames is None and self._strict and packet.is_keyframe and not attempt.pictures:
            self._refused += 1
            if self._refused >= ODD:
                attempt.drop("damaged")
                raise RefusedError
        self._sift(frames, flush=alone)

    def flush(self) -> None:
        """Give what the decoder holds, at the end of a file or of what hangs together."""
        with self._lock:
            frames = self._decode(None, alone=True)
            self._chained = False
        self._sift(frames or [], flush=True)

    def _sift(self, frames: list[av.VideoFrame] | None, *, flush: bool) -> None:
        """Give the sound ones of decoded frames, None for a packet that was not decoded.

        flush: nothing that comes later refers to them.
        """
        sieve = self._sieve
        before = sieve.left_out
        if frames is None:
            sieve.fail(self._place - 1)
        sound = sieve.take(frames or [])
        if flush:
            sound += sieve.flush()
            sieve.reset()
        self._attempt.drop("damaged", sieve.left_out - before)
        self._give(sound)

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
        except av.error.ArgumentError:
            if self._attempt.pictures:
                return None
            limit = self._attempt.settings.max_pixels
            raise SourceLostError(
                f"its pictures have more than max_pixels = {limit} pixels, or cannot be decoded"
            ) from None
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
                return DecodedShot(frame)
        return "damaged"

    def _skip(self, packet: av.Packet, now: float) -> bool:
        """Whether a packet is not decoded at all; counts it."""
        if packet.is_corrupt:
            if self._chained:
                self._sieve.fail(self._place)
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

    def _give(self, frames: list[av.VideoFrame]) -> None:
        """Offer decoded frames, at the rate that was asked for."""
        attempt = self._attempt
        for frame in frames:
            received = frame.opaque.received if isinstance(frame.opaque, Sent) else attempt.seen
            if self._interval:
                if received < self._due:
                    attempt.drop("rate", picture=True)
                    continue
                self._wait_for_due(received)
            check_size(frame.width, frame.height, attempt.settings)
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
