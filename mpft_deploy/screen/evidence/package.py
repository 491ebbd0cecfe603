"""A package of evidence: one ZIP file, nothing in it compressed, with a sealed manifest.

One file, so that it is handed over, deleted and counted as one; not compressed, so that none of it
is larger than it looks, and any program unpacks it. Of every part the manifest has the SHA-256, and
a seal over all; signed as bundles are.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpft_deploy.bundle import Bundle
from mpft_deploy.errors import InputError
from mpft_deploy.files import display, printable, sha256
from mpft_deploy.screen.streams.baseline import Baseline
from mpft_deploy.screen.streams.records import FrameEvent, StreamEvent
from mpft_deploy.sealed import Sealed, Verify, make_manifest, read_held, read_regular
from mpft_deploy.signing import Signature
from mpft_deploy.spec import Record, ViewPolicy, convert_record
from mpft_deploy.views import Window

KIND: Literal["evidence"] = "evidence"
VERSION: Literal[1] = 1
MANIFEST = "evidence.json"

MOST = 2**30
"""Bytes of a package that is read."""


class Engine(Record, frozen=True):
    """What judged.

    Attributes:
        bundle: seal of its bundle.
        sha256: of the engine's file; where the backend is native, all bundles of one detector and
            precision have the same one.
        views, threshold: see `Screener`.
        baselines: what the camera was taught, by the name of the stream: the source, or a region.
    """

    bundle: str
    backend: str
    precision: str
    sha256: str
    versions: dict[str, str]
    sources: dict[str, str]
    views: ViewPolicy
    threshold: float | None
    baselines: dict[str, Baseline]


class Clip(Record, frozen=True):
    """The video. begin, end: when its first and last picture came, seconds since the Unix epoch."""

    file: str
    codec: str
    pictures: int
    begin: float
    end: float


class Judged(Record, frozen=True):
    """A judged frame.

    Attributes:
        frame: what was told of it: times, logit, verdict, and the stream's evidence so far.
        size: height and width of the whole frame.
        windows: row, column, height and width of what was judged of it, and in the same order:
        views: files, each a PNG of exactly the pixels that were judged.
        logits: float32, before they are averaged.
    """

    frame: FrameEvent
    size: tuple[int, int]
    windows: tuple[Window, ...]
    views: tuple[str, ...]
    logits: tuple[float, ...]


class Manifest(Record, frozen=True):
    """What is in a package. Times are seconds since the Unix epoch, UTC, by the screener's clock.

    Attributes:
        address: of the source, without secrets.
        event: the verdict that it is kept for; None where somebody asked for it.
        asked_by: who did.
        moment: of the verdict, or when it was asked for. begin, end: of what was wanted around it.
        clock: which clock that is.
        frames: all that were judged in that time, in order, as far as they were kept; of a source
            with regions each by itself.
        clip: None where there is none; `no_clip` says why.
        software: versions of what it was made with.
    """

    kind: Literal["evidence"]
    version: Literal[1]
    source: str
    address: str
    event: StreamEvent | None
    asked_by: str
    moment: float
    begin: float
    end: float
    clock: str
    engine: Engine
    frames: tuple[Judged, ...]
    clip: Clip | None
    no_clip: str
    software: dict[str, str]


@dataclass(frozen=True)
class Package:
    """A package as read and checked; see `Sealed`."""

    path: Path
    manifest: Manifest
    content: Mapping[str, bytes]
    seal: str
    signature: object


def engine_of(bundle: Bundle, views: ViewPolicy, threshold: float | None) -> Engine:
    """What judges with a bundle; baselines are each camera's."""
    info = bundle.info
    return Engine(
        bundle=bundle.seal,
        backend=info.backend,
        precision=str(info.precision),
        sha256=sha256(bundle.engine),
        versions=info.versions,
        sources=info.sources,
        views=views,
        threshold=threshold,
        baselines={},
    )


def pack(
    manifest: Manifest,
    files: Mapping[str, bytes],
    sign: Callable[[bytes], Signature] | None = None,
) -> bytes:
    """The bytes of a package."""
    digests = {name: sha256(data) for name, data in files.items()}
    head = make_manifest(msgspec.to_builtins(manifest), digests, sign=sign)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: head, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without dates: they stand inside
    return buffer.getvalue()


def read_package(path: Path, verify: Verify | None = None) -> Package:
    """Read a package and check every part of it; nothing is written, or decoded.

    Raises:
        InputError: it is no package, damaged, altered, not signed as `verify` wants, or larger than
            MOST.
    """
    data = read_regular(path, MOST)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            holder = _Archive(path, archive, len(data))
            sealed: Sealed = read_held(holder, version=VERSION, verify=verify)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError):
        raise InputError(
            f"{display(path)} is no package of evidence, or damaged: it cannot be read as a ZIP "
            "file. Get it again from where it was kept."
        ) from None
    where = f"{display(path)}: {MANIFEST}"
    manifest: Manifest = convert_record(sealed.payload, Manifest, where)
    named = [name for frame in manifest.frames for name in frame.views]
    named += [manifest.clip.file] if manifest.clip is not None else []
    if sorted(named) != sorted(sealed.content):
        raise InputError(f"{where} does not name its files, each once; it is not as it was made")
    return Package(path, manifest, sealed.content, sealed.seal, sealed.signature)


@dataclass(frozen=True)
class _Archive:
    """A ZIP file as a holder of sealed files."""

    path: Path
    archive: zipfile.ZipFile
    size: int
    kind: str = KIND
    manifest: str = MANIFEST

    def where(self, name: str = "") -> str:
        return f"{display(self.path)}: {printable(name)}" if name else display(self.path)

    def names(self) -> Collection[str]:
        parts = self.archive.infolist()
        names = {part.filename for part in parts}
        if len(names) < len(parts) or sum(part.file_size for part in parts) > self.size:
            raise InputError(f"{self.where()} holds something twice; it is not as it was made")
        return names

    def read(self, name: str, limit: int) -> bytes:
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise InputError(f"{self.where(name)} is compressed; it is not as it was made")
        if info.file_size > limit:
            raise InputError(f"{self.where(name)} is larger than such a file can be")
        return self.archive.read(info)


MEDIA = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}


def open_clip(path: Path) -> tuple[str, int, Callable[[int, int], Iterator[bytes]]] | None:
    """The video of a package: its media type, its size, and what gives a span of it in parts.

    None where there is none.
    """
    with zipfile.ZipFile(path) as archive:
        found = [part for part in archive.infolist() if part.filename.startswith("clip.")]
    if not found:
        return None

    def read(begin: int, end: int) -> Iterator[bytes]:
        with zipfile.ZipFile(path) as archive, archive.open(found[0].filename) as file:
            file.seek(begin)
            while data := file.read(min(2**16, end - file.tell())):
                yield data

    return MEDIA[Path(found[0].filename).suffix], found[0].file_size, read


def describe(package: Package) -> dict[str, Any]:
    """What a package holds, for people and programs, in short."""
    manifest = package.manifest
    return {
        "source": manifest.source,
        "moment": manifest.moment,
        "verdict": manifest.event.verdict if manifest.event else None,
        "frames": len(manifest.frames),
        "views": sum(len(frame.views) for frame in manifest.frames),
        "clip": manifest.clip and manifest.clip.file,
        "bundle": manifest.engine.bundle,
        "seal": package.seal,
    }
