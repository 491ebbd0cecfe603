"""Where outputs go: tried before the work, held while it lasts, and replaced whole or not at all.

Nothing is replaced but an earlier output of the same kind. While an output is being made there is a
hidden folder beside it, its workplace: the lock in it keeps a second run away, and what a run that
was killed left in it is put right by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.files import (
    OLD,
    TEMPORARY,
    display,
    explain_unwritable,
    sync_folder,
    user_number,
    workplace_of,
    write_synced,
)
from mpft_deploy.standing import Kind, examine, exists_already

LOCK, NEW = "lock", "new"
"""In a workplace: what is locked, and what is being made."""


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
        exists = examine(self.target, self.kind, replace=self.replace, inputs=self.inputs)
        sync_folder(self.workplace)
        try:
            if not exists and not self.kind.folder:
                _link(new, self.path)
            elif not exists or not self.kind.folder:
                new.replace(self.path)
            elif not _exchange(new, self.path):
                self._swap(new)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
                raise exists_already(self.target, self.kind) from None
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
    examine(target, kind, replace=replace, inputs=inputs)
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
            examine(target, kind, replace=replace, inputs=inputs)
            place = Place(target, path, kind, replace, inputs, workplace)
            token = _held.set((*_held.get(), place))
            try:
                yield place
            finally:
                _held.reset(token)
        finally:
            _clear(workplace)
            _unlock(workplace, lock)
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


def _require_room(folder: Path, target: Path, room: int) -> None:
    """An EnvironmentLacksError where a file system has less than `room` bytes left."""
    free = shutil.disk_usage(folder).free
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
    while True:
        with contextlib.suppress(FileExistsError):
            workplace.mkdir(0o700)
        status = workplace.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user_number():
            raise EnvironmentLacksError(
                f"{display(target)} cannot be written: {display(workplace)} is in the way and "
                "another user's"
            )
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            lock = os.open(workplace / LOCK, flags, 0o600)
        except FileNotFoundError:  # the run that had it ended just now
            continue
        try:
            _try_lock(lock)
        except BlockingIOError:
            os.close(lock)
            raise UsageError(
                f"{display(target)} is being written by another run; wait for that or name "
                "another place"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (workplace / LOCK).stat()):
                return lock
        os.close(lock)


def _try_lock(descriptor: int) -> None:
    """Lock a file, where there are locks; a BlockingIOError if another has it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        pass  # a system or file system without locks


def _unlock(workplace: Path, lock: int) -> None:
    """Remove a workplace, its lock before another can take that."""
    if os.name == "nt":  # what is open cannot be removed there, and nothing is locked
        os.close(lock)
    (workplace / LOCK).unlink(missing_ok=True)
    if os.name != "nt":
        os.close(lock)
    with contextlib.suppress(OSError):
        workplace.rmdir()


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
            access = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # that may flush there
            descriptor = os.open(Path(path, name), access)
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
    if sys.platform != "linux":
        return False
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
