"""Sources: from paths to items, and from an item to its frames. Nothing here judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import absolute, display
from mpft_deploy.images import (
    IMAGE_SUFFIXES,
    U8,
    check_pixels,
    check_readable,
    find_files,
    read_picture,
)

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})

# Containers that hold their own data. FFmpeg knows others, playlists among them, which would have
# it open further files and network addresses that a stranger chose.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}

# Rounding of time stamps to a container's clock, in seconds; far below a frame's length.
_CLOCK = 2e-3


@dataclass(frozen=True)
class Item:
    """A file to screen."""

    path: Path
    kind: Literal["image", "video"]


@dataclass(frozen=True)
class Missing:
    """A path that leads to nothing to screen, and why."""

    path: Path
    reason: InputError


@dataclass(frozen=True)
class Frame:
    """One frame of an item.

    pixels: u8 [H, W, 3] RGB.
    time: seconds from the start of a video; 0 for an image.
    note: what a reader of the verdict should know; mostly empty.
    whole: height and width of the frame, where `pixels` are only its centre view.
    """

    pixels: U8
    time: float = 0.0
    note: str = ""
    whole: tuple[int, int] | None = None


def find_items(paths: Iterable[Path]) -> Iterator[Item | Missing]:
    """Files to screen under some paths, each once, found as they are asked for.

    A folder gives its images and videos by suffix, without hidden ones and without following links
    to folders. A file that is named itself is taken whatever its suffix: as a video if the suffix
    says so, else as an image.
    """
    given = {absolute(path): path for path in paths}
    for path in given.values():
        if not _is_folder(path):
            yield Item(path, _kind(path))
            continue
        failures: list[Missing] = []

        def failed(error: InputError, path: Path = path, to: list[Missing] = failures) -> None:
            to.append(Missing(path, error))

        found = False
        # What is named itself, a file or a folder within this one, has its own turn.
        for file in find_files(
            path, IMAGE_SUFFIXES | VIDEO_SUFFIXES, skip=given.keys(), on_error=failed
        ):
            found = True
            yield Item(file, _kind(file))
        yield from failures
        if not found and not failures:
            yield Missing(path, InputError(f"{display(path)}: no images or videos in this folder"))


def read_frames(item: Item, fps: float = 1.0, *, centre: int | None = None) -> Iterator[Frame]:
    """The frames of an item that are to be screened, decoded as they are asked for.

    Args:
        fps: of a video, how many frames a second of media time; the first frame always comes.
        centre: side of the centre view, where nothing else is needed; see `read_picture`.

    Raises:
        InputError: cannot be read. A damaged video may give frames before it raises.
        UsageError: fps is not more than 0.
    """
    if not fps > 0:
        raise UsageError(f"fps must be more than 0, got {fps}")
    if item.kind == "video":
        yield from _video_frames(item.path, fps)
    else:
        picture = read_picture(item.path, centre=centre)
        yield Frame(picture.pixels, note=picture.note, whole=picture.whole)


def _is_folder(path: Path) -> bool:
    """Whether it is one, as far as this user may know; reading it tells the reason if not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _kind(path: Path) -> Literal["image", "video"]:
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"


def _video_frames(path: Path, fps: float) -> Iterator[Frame]:
    import av

    check_readable(path)
    name = display(path)
    try:
        # FFmpeg is handed an open file, never a name that it might take for an address.
        # Its titles may be in any encoding.
        with (
            path.open("rb") as file,
            av.open(file, options=_OPTIONS, metadata_errors="replace") as container,
        ):
            if not container.streams:
                raise InputError(
                    f"{name}: damaged: it has no index, as when a recording was cut off"
                )
            if not container.streams.video:
                raise InputError(f"{name}: holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InputError(f"{name}: damaged, or coded in a way that cannot be read")
            stream.thread_type = "AUTO"
            check_pixels(stream.width, stream.height, name)
            yield from _sample(container, stream, fps, name)
    except InputError:
        raise
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{name}: damaged, or not a video that can be read ({reason})") from None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except Exception as error:
        # PyAV lets others through when the data is damaged; the next file must still be read.
        raise InputError(f"{name}: damaged video ({error or type(error).__name__})") from None


def _sample(
    container: av.container.InputContainer, stream: av.VideoStream, fps: float, name: str
) -> Iterator[Frame]:
    """Frames at `fps` of media time; an InputError at the end if the stream stops short."""
    import av

    interval = 1 / fps
    first = last = taken = None
    count = damaged = 0
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            # One bad packet is no reason to leave the rest of a recording unseen.
            damaged += 1
            continue
        for frame in decoded:
            last = frame.time if frame.time is not None else count / (stream.average_rate or 25)
            count += 1
            first = last if first is None else first
            # A clock that jumps back, as joined recordings have it, starts a new interval.
            if taken is None or last - taken >= interval - _CLOCK or last < taken:
                taken = last
                check_pixels(frame.width, frame.height, name)
                yield Frame(_upright(frame), time=float(last - first))
    if first is None or last is None:
        raise InputError(f"{name}: damaged: no frame of it can be decoded")
    promised, read = _duration(container, stream), float(last - first)
    if promised is not None and promised - read > max(1.0, 0.1 * promised):
        raise InputError(
            f"{name}: cut short: it should last {promised:.1f} s, only {read:.1f} s can be read "
            "and was judged"
        )
    if damaged:
        raise InputError(
            f"{name}: damaged: {damaged} of its packets were left out, the rest judged"
        )


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds of video that the header promises, where it does; longer sound does not count."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if len(container.streams) == 1 and container.duration is not None:
        return float(container.duration) / 1e6
    return None


def _upright(frame: av.VideoFrame) -> U8:
    """u8 [H, W, 3] RGB, turned as the container says a player should turn it."""
    pixels: U8 = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
