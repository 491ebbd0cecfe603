"""Folders and archives that show any change.

What is sealed has a JSON manifest that lists the SHA-256 of every other file, may be signed, and
ends with a seal over itself. Reading it yields only bytes that were checked, from regular files of
a bounded size.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from mpft_deploy.errors import InputError
from mpft_deploy.files import (
    OLD,
    canonical_json,
    display,
    is_system_name,
    printable,
    sha256,
    sha256_of_file,
    workplace_of,
    write_atomic,
)

MANIFESTS = {"bundle": "bundle.json", "detector": "detector.json"}
"""The kinds of sealed folders, each with the name of its manifest."""

MAX_MANIFEST = 16 * 2**20
MAX_FILE = 2**31
"""Bytes of a file; protobuf and with it ONNX take no more."""

READS = 3
"""How often a folder is read anew that is replaced while it is read."""

_NAME = re.compile(r"\w[\w.+-]{0,200}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Sealed:
    """A sealed folder as read and checked.

    payload: the manifest without `files`, `signature` and `seal`.
    content: the bytes of every other file, by name.
    mapped: those that were to be mapped into memory, not in `content`. Files are replaced and never
        written in place, so they stay what was checked.
    signature: as stored, or None; checked only if the reader was told to.
    """

    payload: dict[str, Any]
    content: dict[str, bytes]
    mapped: dict[str, memoryview]
    signature: object
    seal: str


Verify = Callable[[str, bytes, object], None]
"""Raises unless a signature is right: of the manifest's name, the signed bytes, and the stored
signature or None."""


def write_seal(
    folder: Path,
    payload: Mapping[str, Any],
    *,
    sign: Callable[[bytes], Mapping[str, str]] | None = None,
) -> None:
    """Write a manifest into `folder`: payload, SHA-256 of every other file, and the seal.

    Args:
        payload: whose `kind` is one of MANIFESTS.
        sign: gives a signature of the manifest so far, which is stored in it, under the seal.
    """
    manifest = MANIFESTS[payload["kind"]]
    files = {
        path.name: sha256_of_file(path)
        for path in sorted(folder.iterdir())
        if path.name != manifest and not is_system_name(path.name)
    }
    write_atomic(folder / manifest, make_manifest(payload, files, sign=sign))


def make_manifest(
    payload: Mapping[str, Any],
    files: Mapping[str, str],
    *,
    sign: Callable[[bytes], Mapping[str, str]] | None = None,
) -> bytes:
    """A manifest as it is written; files: name → SHA-256 of what is sealed beside it."""
    sealed = {**payload, "files": files}
    if sign is not None:
        sealed["signature"] = sign(canonical_json(sealed))
    sealed["seal"] = sha256(canonical_json(sealed))
    return canonical_json(sealed)


def read_manifest(folder: Path, *, version: int, kind: str) -> dict[str, Any]:
    """Parse a sealed folder's manifest and check kind and version, but neither seal nor files."""
    with open_folder(folder, kind) as descriptor:
        return _manifest(_Folder(folder, descriptor, kind), version)[0]


def sealed_names(folder: Path, kind: str) -> Collection[str] | None:
    """What a sealed folder of this kind lists, and its manifest; None if `folder` is none.

    Of any version, and whether or not its files are as they were written.
    """
    manifest = MANIFESTS[kind]
    try:
        payload = _parse(read_regular(folder / manifest, MAX_MANIFEST))
    except (InputError, ValueError, RecursionError):
        return None
    files = payload.get("files")
    if payload.get("kind") != kind or "seal" not in payload or not isinstance(files, dict):
        return None
    return {manifest, *files}


def read_sealed(
    folder: Path,
    *,
    version: int,
    kind: str,
    verify: Verify | None = None,
    mapped: Collection[str] = (),
) -> Sealed:
    """Read a sealed folder whole and check it.

    Args:
        verify: called before any other file is read.
        mapped: names of files that are mapped into memory, which processes then share.

    Raises:
        InputError: a file is missing, extra, altered, unreadable or no regular file, or the version
            is another.
    """
    for left in reversed(range(READS)):
        with open_folder(folder, kind) as descriptor:
            holder = _Folder(folder, descriptor, kind, mapped)
            payload, raw = _manifest(holder, version)
            try:
                return _read(holder, payload, raw, verify)
            except InputError:
                # Exchanged while it was read, as a new version of it is: that one is read instead.
                if not left or not _replaced(folder / MANIFESTS[kind], raw):
                    raise
    raise AssertionError


class Holder(Protocol):
    """What holds sealed files.

    Attributes:
        kind: for messages, and what its manifest says it is.
        manifest: its name.
    """

    @property
    def kind(self) -> str: ...

    @property
    def manifest(self) -> str: ...

    def where(self, name: str = "") -> str:
        """For messages: one of its files, or itself."""

    def names(self) -> Collection[str]:
        """Of all files that are there."""

    def read(self, name: str, limit: int) -> bytes | memoryview:
        """A file, which is no larger than that; an InputError where that cannot be."""


def read_held(holder: Holder, *, version: int, verify: Verify | None = None) -> Sealed:
    """Read what is sealed in something that does not change meanwhile; see `read_sealed`."""
    payload, raw = _manifest(holder, version)
    return _read(holder, payload, raw, verify)


@dataclass(frozen=True)
class _Folder:
    """A folder, as a descriptor has it; mapped: files that are not read but mapped into memory."""

    path: Path
    descriptor: int | None
    kind: str
    mapped: Collection[str] = ()

    @property
    def manifest(self) -> str:
        return MANIFESTS[self.kind]

    def where(self, name: str = "") -> str:
        return display(self.path / name)

    def names(self) -> Collection[str]:
        names = os.listdir(self.path if self.descriptor is None else self.descriptor)  # noqa: PTH208
        return {name for name in names if not is_system_name(name)}

    def read(self, name: str, limit: int) -> bytes | memoryview:
        read = _map_regular if name in self.mapped else read_regular
        return read(self.path / name, limit, self.descriptor)


def read_regular(path: Path, limit: int, folder: int | None = None, *, cut: bool = False) -> bytes:
    """The bytes of a regular file, or of one that `path` links to; see `_open_regular`.

    Args:
        cut: read only the beginning of a file that is larger.
    """
    with _open_regular(path, limit, folder, cut=cut) as file:
        size = os.fstat(file.fileno()).st_size
        return file.read(min(size + 1, limit)) or b""  # None: nothing to be had now


def _map_regular(path: Path, limit: int, folder: int | None) -> memoryview:
    """As `read_regular`, mapped into memory."""
    with _open_regular(path, limit, folder) as file:
        size = os.fstat(file.fileno()).st_size
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        return memoryview(mapped)


@contextlib.contextmanager
def _open_regular(
    path: Path, limit: int, folder: int | None, *, cut: bool = False
) -> Iterator[BinaryIO]:
    """A regular file, or one that `path` links to, open for reading.

    Args:
        limit: bytes that it may have.
        folder: descriptor of the folder that the name of `path` is looked up in, whatever stands
            at its path by now.
        cut: a file that is larger is let pass.

    Raises:
        InputError: it cannot be read, is larger, or is a device, pipe, socket or folder.
    """
    where, name = display(path), path if folder is None else path.name
    try:
        # Asked before it is opened too: to open a device can do something, or wait for ever.
        _require_regular(os.stat(name, dir_fd=folder), where)
        # Windows has no files that would wait, or become a terminal.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
            status = os.fstat(file.fileno())
            _require_regular(status, where)
            if status.st_size > limit and not cut:
                raise InputError(
                    f"{where} has {status.st_size} bytes, more than the {limit} that such a file "
                    "can have"
                )
            yield file
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise InputError(f"{where} cannot be read: it does not fit into memory") from None


def _require_regular(status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{where} is not a regular file")


@contextlib.contextmanager
def open_folder(folder: Path, kind: str) -> Iterator[int | None]:
    """Descriptor of a folder: what is read through it is of one folder, even if it is replaced.

    None on a system without such (Windows), where names are looked up at its path.
    """
    descriptor = None
    try:
        if os.open in os.supports_dir_fd:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        else:
            os.listdir(folder)  # noqa: PTH208, for its errors
    except PermissionError as error:
        raise InputError(f"{display(folder)} cannot be read: {error.strerror}") from None
    except OSError:
        old = workplace_of(folder.absolute().parent, folder.absolute().name) / OLD
        hint = f"; a run that was killed left it in {display(old)}" if old.is_dir() else ""
        make = f"; make one with mpft-export DETECTOR {display(folder)}" if kind == "bundle" else ""
        raise InputError(
            f"{display(folder)} is not a folder; expected a {kind} folder{hint or make}"
        ) from None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _manifest(holder: Holder, version: int) -> tuple[dict[str, Any], bytes]:
    """A manifest of the right kind and version, parsed and as it is."""
    kind, where = holder.kind, holder.where(holder.manifest)
    if holder.manifest not in holder.names():
        raise InputError(f"{holder.where()} is no {kind}: it has no {holder.manifest}")
    raw = bytes(holder.read(holder.manifest, MAX_MANIFEST))
    try:
        payload = _parse(raw)
    except (ValueError, RecursionError):
        raise InputError(
            f"{where} is damaged: it is not JSON. Restore it from its source."
        ) from None
    if payload.get("kind") != kind:
        raise InputError(f"{where} does not describe a {kind}")
    found = payload.get("version")
    if found != version:
        newer = isinstance(found, int) and found > version
        raise InputError(
            f"{where} has version {found!r}, this mpft-deploy reads version {version}. "
            + ("Upgrade mpft-deploy." if newer else f"Write the {kind} again with this version.")
        )
    return payload, raw


def _read(holder: Holder, payload: dict[str, Any], raw: bytes, verify: Verify | None) -> Sealed:
    """Check a parsed manifest and read what it lists."""
    kind, manifest = holder.kind, holder.manifest
    where = holder.where(manifest)
    remedy = f"Restore the {kind} from its source or make it again."
    seal = payload.pop("seal", None)
    try:
        body, whole = canonical_json(payload), canonical_json({**payload, "seal": seal})
    except RecursionError:
        raise InputError(f"{where} is damaged: it is nested too deeply. {remedy}") from None
    if sha256(body) != seal or whole != raw:
        raise InputError(f"{where} was altered after it was written. {remedy}")
    signature = payload.pop("signature", None)
    if verify is not None:
        verify(where, canonical_json(payload), signature)
    listed = payload.pop("files", None)
    if not isinstance(listed, dict):
        raise InputError(f"{where} lists no files. {remedy}")
    for name, digest in listed.items():
        if not _NAME.fullmatch(name) or name == manifest or not _is_digest(digest):
            raise InputError(f"{where} lists {printable(name)!r}, which cannot be. {remedy}")
    present = set(holder.names()) - {manifest}
    if missing := sorted(listed.keys() - present):
        raise InputError(f"{holder.where()} lacks {', '.join(missing)}. {remedy}")
    if extra := sorted(present - listed.keys()):
        names = ", ".join(map(display, extra))
        raise InputError(f"{holder.where()} holds files it should not: {names}. Remove them.")
    content: dict[str, bytes] = {}
    maps: dict[str, memoryview] = {}
    for name, digest in listed.items():
        data = holder.read(name, MAX_FILE)
        if sha256(data) != digest:
            raise InputError(f"{holder.where(name)} was altered: its SHA-256 is another. {remedy}")
        if isinstance(data, memoryview):
            maps[name] = data
        else:
            content[name] = data
    return Sealed(payload, content, maps, signature, seal)


def _replaced(manifest: Path, raw: bytes) -> bool:
    """Whether another manifest stands at its place by now."""
    try:
        return read_regular(manifest, MAX_MANIFEST) != raw
    except InputError:
        return False


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _parse(raw: bytes) -> dict[str, Any]:
    """A JSON object; a ValueError for anything else, numbers that are none, and a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no finite number")
        return value

    payload = json.loads(raw, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    if not isinstance(payload, dict):
        raise ValueError("no object")
    return payload
