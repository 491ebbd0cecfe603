"""WebDataset's shards: tar files in which what belongs together has one name up to its first dot.

Only headers and labels are read of a shard, and an image by the byte that its entry begins at: a
run reads them in any order, from any number of processes, without an index of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mpft_deploy.errors import InputError
from mpft_deploy.files import display

SUFFIX = ".tar"
IMAGES = frozenset(("avif", "bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"))


class Member(NamedTuple):
    """An image of a shard: the byte that its entry begins at, and what is stated of it, by name."""

    offset: int
    fields: dict[str, str]


def read_members(path: Path) -> list[Member]:
    """The images of a shard with their labels (`cls`) and metadata (`json`), in its order.

    Raises:
        InputError: it is no tar file, compressed or damaged.
    """
    import tarfile  # which brings decompressors, and few have shards

    images: dict[str, int] = {}
    fields: dict[str, dict[str, str]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                folder, _, name = entry.name.rpartition("/")
                stem, _, kind = name.partition(".")
                key, kind = f"{folder}/{stem}", kind.lower()
                if not entry.isfile() or not stem:
                    continue
                if kind in IMAGES:
                    images.setdefault(key, entry.offset)
                elif kind in ("cls", "json") and (file := archive.extractfile(entry)) is not None:
                    stated = file.read().decode()
                    told = json.loads(stated) if kind == "json" else {"label": stated.strip()}
                    fields.setdefault(key, {}).update(
                        (str(name), str(value)) for name, value in told.items()
                    )
    except (tarfile.TarError, OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{display(path)} cannot be read as a shard: {error}") from None
    return [Member(offset, fields.get(key, {})) for key, offset in images.items()]


def read_member(path: Path, offset: int) -> bytes | None:
    """The bytes of the image whose entry begins at an offset; None if there is none."""
    import tarfile

    try:
        with path.open("rb") as file:
            file.seek(offset)
            with tarfile.TarFile(fileobj=file) as archive:
                entry = archive.next()
                data = archive.extractfile(entry) if entry is not None else None
                return None if data is None else data.read()
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{display(path)} cannot be read as a shard: {error}") from None
