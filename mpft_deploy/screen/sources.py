"""Sources: from paths to items, and from an item to its frames. Nothing here judges."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import absolute, display
from mpft_deploy.finding import IMAGE_SUFFIXES, find_files, passed_over
from mpft_deploy.images import read_picture
from mpft_deploy.screen.clips import Frame, read_clip

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".webm", ".wmv"}
)

# How images begin, whatever they are called: JPEG, PNG, GIF, BMP, and TIFF of both orders.
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Of files of the MP4 family, those that hold still pictures; and how other videos begin: Matroska,
# FLV, ASF, MPEG programs and Ogg.
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1")
_VIDEO_MAGIC = (b"\x1a\x45\xdf\xa3", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\1\xba", b"OggS")


@dataclass(frozen=True)
class Item:
    """A file to screen, or what is said of a path in the place of one.

    Attributes:
        kind: "folder" tells of what is beside images and videos; None of what cannot be screened.
        error: why it cannot.
        passed_over: of a folder, how many files of other kinds it holds by their suffix.
    """

    path: Path
    kind: Literal["image", "video", "folder"] | None
    error: str = ""
    passed_over: dict[str, int] = field(default_factory=dict)


def find_items(paths: Iterable[Path]) -> Iterator[Item]:
    """Files to screen under some paths, each once, found as they are asked for.

    A folder gives its images and videos by suffix, without hidden ones and without following links
    to folders, and last what it holds beside them. A file that is named itself is taken whatever
    its suffix. Its first bytes say what it is; where they do not, its suffix does, or it is an
    image.
    """
    given = {absolute(path): path for path in paths}
    for path in given.values():
        if not _is_folder(path):
            yield Item(path, _kind(path))
            continue
        failures: list[InputError] = []
        others: Counter[str] = Counter()
        found = False
        # What is named itself, a file or a folder within this one, has its own turn.
        for file in find_files(
            path,
            IMAGE_SUFFIXES | VIDEO_SUFFIXES,
            skip=given.keys(),
            on_error=failures.append,
            others=others,
        ):
            found = True
            yield Item(file, _kind(file))
        for failure in failures:
            yield Item(path, None, str(failure))
        if not found and not failures:
            there = f": {passed_over(others)}" if others else ""
            yield Item(path, None, f"{display(path)}: no images or videos in this folder{there}")
        elif others:
            yield Item(path, "folder", passed_over=dict(others.most_common()))


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
        yield from read_clip(item.path, fps)
    elif item.kind == "image":
        picture = read_picture(item.path, centre=centre)
        yield Frame(picture.pixels, note=picture.note, whole=picture.whole)


def _is_folder(path: Path) -> bool:
    """Whether it is one, as far as this user may know; reading it tells the reason if not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _kind(path: Path) -> Literal["image", "video"]:
    """What a file is: by its first bytes, or else a video if its suffix says so."""
    start = b""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
    box, brand = start[4:8], start[8:12]
    if start.startswith(_IMAGE_MAGIC) or (start.startswith(b"RIFF") and brand == b"WEBP"):
        return "image"
    video = (
        (box == b"ftyp" and brand not in _IMAGE_BRANDS)
        or (start.startswith(b"RIFF") and brand == b"AVI ")
        or start.startswith(_VIDEO_MAGIC)
        or path.suffix.lower() in VIDEO_SUFFIXES
    )
    return "video" if video else "image"
