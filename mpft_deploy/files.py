"""Files that are whole or absent, and folders that show any change.

A sealed folder has a JSON manifest that lists the SHA-256 of every other file, may be signed, and
ends with a seal over itself. Reading one yields only bytes that were checked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError


def sha256(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def display(path: os.PathLike[str] | str) -> str:
    """A path as text that can be printed anywhere.

    Undecodable bytes become \\xNN, and so do line breaks, terminal escapes and marks that reorder
    text: a file's name must not be able to write on someone's terminal.
    """
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def absolute(path: Path) -> Path:
    """Absolute and without `..`, but with links unfollowed: a loop of links has a name too."""
    return Path(os.path.abspath(path))  # noqa: PTH100, Path.resolve() fails on such a loop


def printable(text: str) -> str:
    """Text in one line, whose control and invisible characters are written as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


@contextlib.contextmanager
def explain_full_disk(target: Path) -> Iterator[None]:
    """Turn "no space left" while writing `target` into an error a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLacksError(
                f"the disk is full: {display(target)} was not written and nothing was left behind. "
                "Free some space or choose another folder, then run the command again."
            ) from None
        raise


@contextlib.contextmanager
def explain_unwritable(target: Path) -> Iterator[None]:
    """Turn "not permitted" while replacing `target` into an error a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise EnvironmentLacksError(
                f"{display(target)} cannot be written ({error.strerror}): copy it to a folder that "
                "can, or run as its owner"
            ) from None
        raise


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Write a file under a temporary name, flush it to disk, and move it into place.

    Raises:
        FileExistsError: there is one already, and it is not to be replaced.
    """
    with explain_full_disk(path):
        # mkstemp makes a file that only its owner can read, before a byte is in it.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            if replace:
                Path(name).replace(path)
            else:
                os.link(name, path)  # unlike a rename, a link never replaces
        finally:
            Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that becomes `target` if the block succeeds.

    Args:
        target: where the folder shall stand.
        replace: whether a folder that stands there is replaced; without it that is a UsageError.
    """
    check_free(target, replace=replace)
    with explain_full_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        )
        try:
            yield staging
            staging.chmod(0o755)
            if target.exists():
                retired = staging.with_suffix(".old")
                target.rename(retired)
                staging.rename(target)
                shutil.rmtree(retired)
            else:
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check_free(target: Path, *, replace: bool) -> None:
    """A UsageError unless a folder may be written at `target`; asked before long work too."""
    if target.is_dir() and not replace and any(target.iterdir()):
        raise UsageError(
            f"{display(target)} exists already; name another folder or pass --overwrite"
        )
    if target.exists() and not target.is_dir():
        raise UsageError(f"{display(target)} is a file; name a folder")


def canonical_json(payload: Mapping[str, Any]) -> bytes:
    """The one serialisation of `payload`: indented, keys as given, ASCII, final newline."""
    return (json.dumps(payload, indent=2, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Sealed:
    """A sealed folder as read and checked.

    payload: the manifest without `files`, `signature` and `seal`.
    content: the bytes of every other file, by name.
    signature: as stored, or None; checked only if the reader was told to.
    """

    payload: dict[str, Any]
    content: dict[str, bytes]
    signature: object
    seal: str


def write_seal(
    folder: Path,
    manifest: str,
    payload: Mapping[str, Any],
    *,
    sign: Callable[[bytes], Mapping[str, str]] | None = None,
) -> None:
    """Write `manifest` into `folder`: payload, SHA-256 of every other file, and the seal.

    Args:
        sign: gives a signature of the manifest so far, which is stored in it, under the seal.
    """
    files = {
        path.name: sha256(path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.name != manifest
    }
    sealed = {**payload, "files": files}
    if sign is not None:
        sealed["signature"] = sign(canonical_json(sealed))
    sealed["seal"] = sha256(canonical_json(sealed))
    write_atomic(folder / manifest, canonical_json(sealed))


def read_manifest(folder: Path, manifest: str, *, version: int, kind: str) -> dict[str, Any]:
    """Parse a sealed folder's manifest and check kind and version, but neither seal nor files."""
    path = folder / manifest
    where = display(path)
    if not folder.is_dir():
        raise InputError(f"{display(folder)} is not a folder; expected a {kind} folder")
    try:
        payload = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{display(folder)} is no {kind}: it has no {manifest}") from None
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{where} is damaged: it is not JSON. Restore it from its source."
        ) from None
    if not isinstance(payload, dict) or payload.get("kind") != kind:
        raise InputError(f"{where} does not describe a {kind}")
    found = payload.get("version")
    if found != version:
        newer = isinstance(found, int) and found > version
        raise InputError(
            f"{where} has version {found!r}, this mpft-deploy reads version {version}. "
            + ("Upgrade mpft-deploy." if newer else f"Write the {kind} again with this version.")
        )
    return payload


def read_sealed(
    folder: Path,
    manifest: str,
    *,
    version: int,
    kind: str,
    verify: Callable[[str, bytes, object], None] | None = None,
) -> Sealed:
    """Read a sealed folder whole and check it.

    Args:
        verify: raises unless a signature is right; called before any other file is read. It takes
            the manifest's name, the signed bytes, and the stored signature or None.

    Raises:
        InputError: a file is missing, extra, altered or unreadable, or the version is another.
    """
    payload = read_manifest(folder, manifest, version=version, kind=kind)
    remedy = f"Restore the {kind} from its source or make it again."
    raw = (folder / manifest).read_bytes()
    seal = payload.pop("seal", None)
    if sha256(canonical_json(payload)) != seal or canonical_json({**payload, "seal": seal}) != raw:
        raise InputError(f"{display(folder / manifest)} was altered after it was written. {remedy}")
    signature = payload.pop("signature", None)
    if verify is not None:
        verify(display(folder / manifest), canonical_json(payload), signature)
    listed = payload.pop("files", None)
    if not isinstance(listed, dict):
        raise InputError(f"{display(folder / manifest)} lists no files. {remedy}")
    present = {path.name for path in folder.iterdir()} - {manifest}
    if missing := sorted(listed.keys() - present):
        raise InputError(f"{display(folder)} lacks {', '.join(missing)}. {remedy}")
    if extra := sorted(present - listed.keys()):
        names = ", ".join(map(display, extra))
        raise InputError(f"{display(folder)} holds files it should not: {names}. Remove them.")
    content = {}
    for name, digest in listed.items():
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{display(path)} cannot be read: {error.strerror}") from None
        if sha256(data) != digest:
            raise InputError(f"{display(path)} was altered: its SHA-256 is another. {remedy}")
        content[name] = data
    return Sealed(payload, content, signature, seal)
