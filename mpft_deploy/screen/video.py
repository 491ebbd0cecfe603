"""What files and streams share of reading with FFmpeg: which track, and which of its frames count.

A decoder that meets damage conceals it: it fills what it cannot read from elsewhere, and gives out
a picture that no camera took. Later frames are built on that one. None of them is judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mpft_deploy.images import MAX_PIXELS, U8

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg"
"""Containers that hold their own data. FFmpeg knows others, playlists among them, which would have
it open further files and network addresses that a stranger chose."""

# Decoders that find more damage when told to refuse what is wrong, and that then still read what is
# sound. H.264's marks what it conceals anyway, and refuses sound recordings that were cut.
_REFUSING = frozenset({"hevc", "mjpeg", "mpeg1video", "mpeg2video"})
_CAREFUL = "crccheck+bitstream+buffer+careful"

_PICTURES = frozenset(
    {"bmp", "gif", "jpeg2000", "jpegls", "mjpeg", "mjpegb", "png", "ppm", "tiff", "webp"}
)
"""Codecs of pictures: one frame of them is a cover or a thumbnail, not a clip."""


class RefusedError(Exception):
    """A strict decoder refused what came first, or all: it may be odd rather than damaged."""


def pick_track(container: av.container.InputContainer) -> tuple[av.VideoStream, str] | None:
    """The track that moves, as FFmpeg chooses it, and which of several it is, empty for the only
    one; None if there are but covers and thumbnails.
    """
    moving = [stream for stream in container.streams.video if not _is_still(stream)]
    if not moving:
        return None
    # Matroska does not tell how many frames a track has: one coded as pictures are may be a cover.
    likely = [stream for stream in moving if not is_picture(stream)] or moving
    best = container.streams.best("video")
    stream = best if best in likely else likely[0]
    several = f"track {moving.index(stream) + 1} of {len(moving)} judged"
    return stream, several if len(moving) > 1 else ""


def is_picture(stream: av.VideoStream) -> bool:
    """Whether a track is coded as pictures are, so that a single frame of it is no clip."""
    return stream.codec_context is not None and stream.codec_context.name in _PICTURES


def _is_still(stream: av.VideoStream) -> bool:
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return bool(stream.disposition & still) or (stream.frames == 1 and is_picture(stream))


def prepare_decoder(
    context: av.VideoCodecContext, *, max_pixels: int = MAX_PIXELS, strict: bool = True
) -> None:
    """Have a decoder tell damage where it can, refuse larger pictures, and pass on `opaque`.

    strict: whether it may refuse frames for what is wrong in them; some cameras and programs write
        what no standard allows, and then nothing of theirs would be left.
    """
    refusing = strict and context.name in _REFUSING
    context.options = {
        "err_detect": _CAREFUL + ("+explode" if refusing else ""),
        **size_limit(max_pixels),
    }
    context.copy_opaque = True


def size_limit(max_pixels: int) -> dict[str, str]:
    """What keeps FFmpeg's decoders from larger pictures; theirs are padded to whole blocks."""
    return {"max_pixels": str(max_pixels + max_pixels // 16 + 2**16)}


class Sent(NamedTuple):
    """What a packet's `opaque` tells of the frames in it: its place in the order of decoding.

    key: whether the container calls it a keyframe: where one may begin to decode.
    received: when it came in, by the monotonic clock; 0 where that does not matter.
    """

    place: int
    key: bool
    received: float = 0.0


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter | None = None) -> U8:
    """u8 [height, width, 3] RGB, not turned.

    PyAV would keep a converter on the frame, with as many threads as there are cores.
    """
    if reformatter is None:
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
    converted: Any = reformatter.reformat(frame, format="rgb24", threads=1)
    pixels: U8 = converted.to_ndarray()
    return pixels


REORDERED = 16
"""Frames, at most, that are shown between one and another that it refers to."""


class Sieve:
    """Keeps back frames that are damaged or refer to damaged ones, until a keyframe mends that.

    Frames come out in the order in which they are shown, so one may come before the damaged one
    that it refers to: where a decoder reorders, frames wait until all that were decoded before them
    came out.

    Attributes:
        left_out: frames that did not pass, packets that could not be decoded among them.
    """

    def __init__(self, context: av.VideoCodecContext) -> None:
        self._context = context
        # Frames with their place in the order of decoding, and which in the order of showing.
        self._waiting: deque[tuple[int, int, av.VideoFrame]] = deque()
        self._highest, self._shown = -1, 0
        self._missing: set[int] = set()
        # From which place on frames are damaged, while they are.
        self._damaged: int | None = None
        self._sweeping = False
        self.left_out = 0

    def fail(self, place: int) -> None:
        """The packet at that place, or one of those still in the decoder, could not be decoded."""
        self.left_out += 1
        self._damage(place - max(0, (self._context.thread_count or REORDERED) - 1))

    def take(self, frames: Iterable[av.VideoFrame]) -> list[av.VideoFrame]:
        """Frames as the decoder gives them; returns those that are sound and need not wait."""
        for frame in frames:
            sent = frame.opaque
            place = sent.place if isinstance(sent, Sent) else self._highest + 1
            self._missing |= set(range(self._highest + 1, place))
            self._missing.discard(place)
            self._highest = max(self._highest, place)
            self._shown += 1
            if frame.is_corrupt:
                self._damage(place)
            elif self._damaged is not None:
                self._mend(frame, isinstance(sent, Sent) and sent.key)
            if self._damaged is not None and place >= self._damaged:
                self.left_out += 1
            else:
                self._waiting.append((place, self._shown, frame))
        return self._release(REORDERED if self._context.reorder_depth else 0)

    def flush(self) -> list[av.VideoFrame]:
        """The sound ones of those that waited: nothing follows that they could refer to."""
        return self._release(0)

    def reset(self) -> None:
        """The decoder was emptied: what comes next refers to nothing that was before."""
        self._waiting.clear()
        self._missing.clear()
        self._damaged, self._sweeping = None, False

    def _damage(self, place: int) -> None:
        self._damaged = place if self._damaged is None else min(self._damaged, place)
        self._sweeping = False
        sound = deque(item for item in self._waiting if item[0] < place)
        self.left_out += len(self._waiting) - len(sound)
        self._waiting = sound

    def _mend(self, frame: av.VideoFrame, key: bool) -> None:
        """At a frame that is sound itself; key: whether one may begin to decode there.

        Where that is no intra-coded frame, rows of it and of those that follow are, in a sweep that
        is complete at the next such frame.
        """
        from av.video.frame import PictureType

        if (
            frame.key_frame
            or (key and frame.pict_type == PictureType.I)
            or (key and self._sweeping)
        ):
            self._damaged, self._sweeping = None, False
        elif key:
            self._sweeping = True

    def _release(self, longest: int) -> list[av.VideoFrame]:
        released = []
        while self._waiting:
            place, shown, frame = self._waiting[0]
            if self._shown - shown < longest and any(missing < place for missing in self._missing):
                break
            # What has not come by now gives no picture: an invisible frame, or half of one.
            self._missing = {missing for missing in self._missing if missing > place}
            self._waiting.popleft()
            released.append(frame)
        return released
