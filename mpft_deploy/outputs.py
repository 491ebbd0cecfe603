"""Where outputs go: tried before the work, held while it lasts, and replaced whole or not at all.

Nothing is replaced but an earlier output of the same kind. While an output is being made there is a
hidden folder beside it, its workplace: the lock in it keeps a second run away, and what a run that
was killed left in it is put right by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.files import (
    OLD,
    TEMPORARY,
    display,
    explain_unwritable,
    is_system_name,
    sync_folder,
    workplace_of,
    write_synced,
)
from mpft_deploy.sealed import MANIFESTS, read_regular, sealed_names

HEAD = 64 * 1024
"""Bytes at the beginning of a file among which its mark is looked for."""

LOCK, NEW = "lock", "new"
"""In a workplace: what is locked, and what is being made."""


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


@dataclass(frozen=True)
class Place:
    """A place that is held for an output.

    target: as it was named. path: where that is, links followed. replace: whether something that
    stands there is replaced. inputs: what the output is made from.
    """

    target: Path
    path: Path
    kind: Kind
    replace: bool
    inputs: tuple[Path, ...]
    workplace: Path

    @contextlib.contextmanager
    def fill(self) -> Iterator[Path]:
        """An empty folder that stands at the place once the block has ended well."""
        new = self.workplace / NEW
        with explain_unwritable(self.target):
            try:
                new.mkdir()
                yield new
                _sync(new)
                self._publish(new)
            finally:
                # Whatever it holds now: the unfinished, or what the finished one took the place of.
                shutil.rmtree(new, ignore_errors=True)

    def write(self, data: bytes, mode: int = 0o666) -> None:
        """Put a file at the place; `mode` as for `write_atomic`."""
        new = self.workplace / NEW
        with explain_unwritable(self.target):
            try:
                write_synced(new, data, mode)
                self._publish(new)
            finally:
                new.unlink(missing_ok=True)

    def _publish(self, new: Path) -> None:
        """Move `new` to the place; where that fails, what stood there before stands there still."""
        # Asked again, for the work may have taken hours.
        exists = _examine(self.target, self.kind, replace=self.replace, inputs=self.inputs)
        sync_folder(self.workplace)
        try:
            if not exists and not self.kind.folder:
                _link(new, self.path)
            elif not exists or not self.kind.folder:
                new.rename(self.path)
            elif not _exchange(new, self.path):
                self._swap(new)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise _exists(self.target, self.kind) from None
            raise EnvironmentLacksError(
                f"{display(self.target)} cannot be written: {error.strerror}. What was there "
                "before is there still."
            ) from None
        sync_folder(self.path.parent)

    def _swap(self, new: Path) -> None:
        """Exchange in two steps; a run that is killed between them is mended by `_recover`."""
        old = self.workplace / OLD
        try:
            self.path.rename(old)
            new.rename(self.path)
        except BaseException:
            if old.exists() and not self.path.exists():
                old.rename(self.path)
            raise


_held: ContextVar[tuple[Place, ...]] = ContextVar("places held", default=())


@contextlib.contextmanager
def reserve(
    target: Path,
    kind: Kind,
    *,
    replace: bool = False,
    inputs: Iterable[Path] = (),
    parents: bool = False,
    room: int = 0,
) -> Iterator[Place]:
    """Try the place of an output, and keep others from it until the block ends.

    `staged_folder` and `write_output` in the block find the place held.

    Args:
        replace: whether an earlier output of the kind is replaced.
        inputs: files and folders that must survive.
        parents: whether missing folders above are made; those above a folder always are.
        room: bytes that the output will take at least.

    Raises:
        UsageError: what stands there is not to be replaced, or another run is writing there.
        EnvironmentLacksError: nothing can be written there, or the disk has no room.
    """
    inputs = tuple(inputs)
    _examine(target, kind, replace=replace, inputs=inputs)
    path = Path(os.path.realpath(target))
    if any(place.path == path for place in _held.get()):
        raise UsageError(f"{display(target)} is named for two outputs; give each its own")
    base = path if kind.into else path.parent
    missing = [one for one in (base, *base.parents) if not os.path.exists(one)]  # noqa: PTH110, as below
    if missing and not (parents or kind.folder):
        raise UsageError(
            f"{display(target)}: its folder does not exist; make it first, or name a file in a "
            "folder that exists"
        )
    try:
        try:
            for one in reversed(missing):
                one.mkdir(exist_ok=True)
            workplace = workplace_of(base, path.name)
            lock = _lock(workplace, target)
        except OSError as error:
            raise EnvironmentLacksError(
                f"{display(target)} cannot be written: {error.strerror}. Name a place that can be "
                "written, or run as its owner."
            ) from None
        try:
            _require_room(base, target, room)
            _recover(workplace, path)
            for unfinished in base.glob(f"{TEMPORARY}*.tmp") if kind.into else ():
                if unfinished != workplace:
                    unfinished.unlink()
            _examine(target, kind, replace=replace, inputs=inputs)
            place = Place(target, path, kind, replace, inputs, workplace)
            token = _held.set((*_held.get(), place))
            try:
                yield place
            finally:
                _held.reset(token)
        finally:
            _clear(workplace)
            (workplace / LOCK).unlink(missing_ok=True)
            os.close(lock)
            with contextlib.suppress(OSError):
                workplace.rmdir()
    finally:
        for one in missing:  # those that stayed empty
            with contextlib.suppress(OSError):
                one.rmdir()


@contextlib.contextmanager
def staged_folder(target: Path, kind: Kind, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `target` if the block succeeds; the place `reserve`d or not."""
    with _place(target, kind, replace) as place, place.fill() as staging:
        yield staging


def write_output(
    target: Path, data: bytes, kind: Kind, *, replace: bool = True, mode: int = 0o666
) -> None:
    """Write a file that a person named, whole or not at all; the place `reserve`d or not.

    Raises:
        UsageError, EnvironmentLacksError: as `reserve`.
    """
    with _place(target, kind, replace) as place:
        place.write(data, mode)


def _place(target: Path, kind: Kind, replace: bool) -> contextlib.AbstractContextManager[Place]:
    """The place as it is held already, or held for this alone."""
    path = Path(os.path.realpath(target))
    held = next((place for place in _held.get() if place.path == path), None)
    return contextlib.nullcontext(held) if held else reserve(target, kind, replace=replace)


def _examine(target: Path, kind: Kind, *, replace: bool, inputs: Collection[Path]) -> bool:
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
        raise _exists(target, kind)
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


def _exists(target: Path, kind: Kind) -> UsageError:
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
    mine = os.geteuid() in (0, status.st_uid, above.st_uid)
    if not os.access(path, os.W_OK) or (above.st_mode & stat.S_ISVTX and not mine):
        raise EnvironmentLacksError(
            f"{shown} is write-protected or another user's, and cannot be replaced; name another "
            "place"
        )


def _require_room(folder: Path, target: Path, room: int) -> None:
    """An EnvironmentLacksError where a file system has less than `room` bytes left."""
    system = os.statvfs(folder)
    free = system.f_bavail * system.f_frsize
    if room > free:
        raise EnvironmentLacksError(
            f"the disk is full: {display(target)} takes {room / 1e6:.1f} MB or more, and "
            f"{free / 1e6:.1f} MB are left. Free some space or choose another folder."
        )


def _lock(workplace: Path, target: Path) -> int:
    """Make a workplace and lock it: the descriptor to close when it is gone.

    Raises:
        UsageError: another run has it.
        OSError: it cannot be made.
    """
    import fcntl

    while True:
        with contextlib.suppress(FileExistsError):
            workplace.mkdir(0o700)
        status = workplace.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise EnvironmentLacksError(
                f"{display(target)} cannot be written: {display(workplace)} is in the way and "
                "another user's"
            )
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(workplace / LOCK, flags, 0o600)
        except FileNotFoundError:  # the run that had it ended just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UsageError(
                f"{display(target)} is being written by another run; wait for that or name "
                "another place"
            ) from None
        except OSError:
            pass  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (workplace / LOCK).stat()):
                return lock
        os.close(lock)


def _recover(workplace: Path, path: Path) -> None:
    """Put right what a run that was killed left in its workplace."""
    if os.path.lexists(workplace / OLD) and not os.path.lexists(path):
        (workplace / OLD).rename(path)
    _clear(workplace)


def _clear(workplace: Path) -> None:
    for name in (NEW, OLD):
        shutil.rmtree(workplace / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (workplace / name).unlink()


def _sync(folder: Path) -> None:
    """Flush all files and folders under `folder` to disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(Path(path, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(path))


def _link(one: Path, other: Path) -> None:
    """Give a file another name, which must not be there yet."""
    try:
        os.link(one, other)  # unlike a rename, a link never replaces
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.close(os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # there are no links here
        one.rename(other)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot.

    Raises:
        OSError: it can, and did not.
    """
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one))
