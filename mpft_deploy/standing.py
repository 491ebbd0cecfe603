"""What stands where an output is to go, and whether it may be replaced.

Only an earlier output of the same kind may, with nothing of a person's among it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import display, is_system_name, user_number
from mpft_deploy.sealed import MANIFESTS, read_regular, sealed_names

HEAD = 64 * 1024
"""Bytes at the beginning of a file among which its mark is looked for."""


@dataclass(frozen=True)
class Kind:
    """A kind of output, by which an earlier one is told from what is a person's.

    Attributes:
        what: for messages, such as "a bundle".
        own: the names that belong to the output at a path, as `a` or `a/b`; None if it is none of
            this kind. Of a file the names do not matter.
        folder: whether it is a folder, which is replaced as a whole.
        into: names that are written one by one into a folder that may hold other things.
    """

    what: str
    own: Callable[[Path], Collection[str] | None]
    folder: bool = True
    into: Collection[str] = ()


def sealed_kind(kind: str) -> Kind:
    """Sealed folders of one of MANIFESTS."""
    return Kind(f"a {kind}", lambda path: sealed_names(path, kind))


def marked_kind(what: str, mark: bytes) -> Kind:
    """Files that hold `mark` near their beginning. An empty file is nobody's."""
    return Kind(what, lambda path: () if has_mark(path, mark) else None, folder=False)


def marked_folder(what: str, marks: Mapping[str, bytes], names: Collection[str]) -> Kind:
    """Folders that files of these names are written into, known by any that holds its mark."""

    def own(path: Path) -> Collection[str] | None:
        known = any(has_mark(path / name, mark) for name, mark in marks.items())
        return names if known else None

    return Kind(what, own, into=names)


def has_mark(path: Path, mark: bytes) -> bool:
    """Whether a file holds `mark` near its beginning, or nothing at all; False if there is none."""
    try:
        head = read_regular(path, HEAD, cut=True)
    except InputError:
        return False
    return mark in head or not head


def examine(target: Path, kind: Kind, *, replace: bool, inputs: Collection[Path]) -> bool:
    """Whether something stands at `target`; a UsageError unless an output may be written there."""
    shown = display(target)
    path = Path(os.path.realpath(target))
    try:
        status = target.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"{shown}: {error.strerror}; name another place") from None
        raise EnvironmentLacksError(f"{shown} cannot be written: {error.strerror}") from None
    for folder in (path, *path.parents) if kind.into else path.parents:
        for sealed, manifest in MANIFESTS.items():
            there = os.path.isfile(folder / manifest)  # noqa: PTH113, never a PermissionError
            if there and sealed_names(folder, sealed) is not None:
                raise UsageError(
                    f"{shown} lies in the {sealed} {display(folder)}, which must hold nothing "
                    "else; name another place"
                )
    if status is None:
        return False
    is_folder = stat.S_ISDIR(status.st_mode)
    if (kind.folder or kind.into) and not is_folder:
        raise UsageError(f"{shown} is a file; name a folder")
    if kind.into:
        present = sorted(name for name in kind.into if os.path.lexists(path / name))
        if present and kind.own(path) is None:
            raise UsageError(
                f"{shown} holds {', '.join(present)}, but is not {kind.what}: nothing in it is "
                "replaced. Name another folder."
            )
        return True
    if is_folder and not kind.folder:
        raise UsageError(f"{shown} is a folder; name a file")
    if not kind.folder and not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown} is a device or a pipe; name a file")
    for one in inputs:
        if _holds(status, one):
            raise UsageError(
                f"{shown} is or holds {display(one)}, which is read; name another place"
            )
    if is_folder and _holds(status, Path.cwd()):
        raise UsageError(f"{shown} is or holds the current directory; name a folder in it")
    if path.is_mount() or str(path) in _mounts():
        raise UsageError(f"{shown} is a mount point, which cannot be replaced; name a place in it")
    _require_own(target, path, kind, replace)
    _require_replaceable(shown, path, status)
    return True


def _require_own(target: Path, path: Path, kind: Kind, replace: bool) -> None:
    """A UsageError unless what stands at `path` is of the kind and may be replaced."""
    shown = display(target)
    there = set(_names(path)) if kind.folder else {path.name}
    if not there:
        return
    if not replace:
        raise exists_already(target, kind)
    own = kind.own(path)
    if own is None:
        raise UsageError(
            f"{shown} is not replaced, for it is not {kind.what}. Name another place, or remove it "
            "yourself."
        )
    if kind.folder and (foreign := sorted(there - set(own))):
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise UsageError(
            f"{shown} is not replaced, for it holds what does not belong to {kind.what}: "
            f"{', '.join(map(display, foreign[:5]))}{more}. Move that away or name another folder."
        )


def exists_already(target: Path, kind: Kind) -> UsageError:
    """The error where something stands that is not to be replaced."""
    return UsageError(
        f"{display(target)} exists already; name another {'folder' if kind.folder else 'file'} or "
        "pass --overwrite"
    )


def _names(folder: Path) -> Iterator[str]:
    """What a folder holds, but for what systems put there: files, links, and empty folders."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_system_name(name)]
        links = [name for name in folders if Path(path, name).is_symlink()]
        inside = [name for name in (*files, *links) if not is_system_name(name)]
        at = os.path.relpath(path, folder)
        if not inside and not folders and at != ".":
            yield f"{at}/"
        yield from (name if at == "." else f"{at}/{name}" for name in inside)


def _holds(status: os.stat_result, path: Path) -> bool:
    """Whether a file or folder is `path` or above it, by whatever name."""
    real = Path(os.path.realpath(path))
    for one in (real, *real.parents):
        with contextlib.suppress(OSError):
            if os.path.samestat(status, one.stat()):
                return True
    return False


def _mounts() -> set[str]:
    """All mount points; a folder of the same file system may be mounted on another too."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return set()
    fields = (line.split(b" ")[4] for line in lines)
    return {
        os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))
        for field in fields
    }


def _require_replaceable(shown: str, path: Path, status: os.stat_result) -> None:
    """An EnvironmentLacksError where another's file, or one that is protected, would be moved."""
    above = path.parent.stat()
    mine = user_number() in (0, status.st_uid, above.st_uid)
    if not os.access(path, os.W_OK) or (above.st_mode & stat.S_ISVTX and not mine):
        raise EnvironmentLacksError(
            f"{shown} is write-protected or another user's, and cannot be replaced; name another "
            "place"
        )
