"""Image files under folders, and what is said of other files there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path

from mpft_deploy.errors import InputError
from mpft_deploy.files import absolute, display
from mpft_deploy.packed import packed_files

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

# Files that accompany others by custom, by suffix or name: nobody misses a verdict of these.
_SIDECARS = frozenset((".aae", ".thm", ".xmp", "desktop.ini", "ehthumbs.db", "thumbs.db"))


def find_files(
    folder: Path,
    suffixes: Container[str],
    *,
    skip: Container[Path] = (),
    on_error: Callable[[InputError], None] | None = None,
    others: Counter[str] | None = None,
) -> Iterator[Path]:
    """Files under a folder, by suffix, in the order of their names.

    Hidden files and folders are skipped, and links to folders are not followed.

    Args:
        suffixes: in lower case, with the dot.
        skip: paths, as `absolute` gives them, of files and folders to pass over.
        on_error: called for each folder that cannot be read; without it, that is raised.
        others: counts the files of other suffixes, without those that go with others by custom.
    """

    def unreadable(error: OSError) -> None:
        failure = InputError(f"{display(error.filename)}: {error.strerror}")
        if on_error is None:
            raise failure
        on_error(failure)

    base = absolute(folder)
    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = base / Path(root).relative_to(folder)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and here / n not in skip)
        for name in sorted(names):
            if name.startswith(".") or here / name in skip:
                continue
            suffix = Path(name).suffix.lower()
            if suffix in suffixes:
                yield Path(root, name)
            elif others is not None and suffix not in _SIDECARS and name.lower() not in _SIDECARS:
                others[display(suffix)] += 1


def find_images(folder: Path, others: Counter[str] | None = None) -> Iterator[Path]:
    """Image files under a folder, by suffix; see `find_files`."""
    return find_files(folder, IMAGE_SUFFIXES, others=others)


def passed_over(counts: Mapping[str, int]) -> str:
    """What is said of files of other suffixes, such as "3 files were passed over: 2 .heic, 1 .txt".

    Args:
        counts: of them by suffix, "" for none.
    """
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = (f"{count} {suffix or 'without suffix'}" for suffix, count in ordered)
    verb = "file of another kind was" if total == 1 else "files of other kinds were"
    return f"{total} {verb} passed over: {', '.join(kinds)}"


def others_in(folders: Iterable[Path]) -> str:
    """What is said of the files in some folders that are no images; "" if there are none."""
    others: Counter[str] = Counter()
    for folder in folders:
        there: Counter[str] = Counter()
        images = sum(1 for _ in find_images(folder, there)) if folder.is_dir() else 0
        if images or not packed_files(folder):  # which are read, with what lies beside them
            others += there
    return passed_over(others) if others else ""
