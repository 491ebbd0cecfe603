"""Files that are whole or absent, and names that can be shown."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpft_deploy.errors import EnvironmentLacksError, InputError


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The same of a file, which is not held in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def file_name(path: os.PathLike[str] | str | bytes) -> str:
    """A path as JSON can hold it: exact if it is UTF-8, else with \\xNN for the other bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def display(path: os.PathLike[str] | str | bytes) -> str:
    """A path as text that can be printed anywhere.

    Undecodable bytes become \\xNN, and so do line breaks, terminal escapes and marks that reorder
    text: a file's name must not be able to write on someone's terminal.
    """
    return printable(file_name(path))


MOST = 2**26
"""Bytes of a file of settings or results, at most; a disk's image named by mistake is larger."""


def read_small(path: Path, what: str = "") -> bytes:
    """A file of settings or results, or a pipe, whole.

    Args:
        what: stands before its name in an error, such as an option.

    Raises:
        InputError: it cannot be read, or is larger than `MOST`.
    """
    where = f"{what} {display(path)}".lstrip()
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}") from None
    if len(data) > MOST:
        raise InputError(f"{where} has more than the {MOST >> 20} MB that such a file can have")
    return data


def absolute(path: Path) -> Path:
    """Absolute and without `..`, but with links unfollowed: a loop of links has a name too."""
    return Path(os.path.abspath(path))  # noqa: PTH100, Path.resolve() fails on such a loop


def printable(text: str) -> str:
    """Text in one line, whose control and invisible characters are written as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def printable_lines(text: str) -> str:
    """As `printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))


@contextlib.contextmanager
def explain_unwritable(target: Path) -> Iterator[None]:
    """Turn what a system says while `target` is written into an error a person can act on.

    It names `target`, whatever temporary file the trouble was with.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentLacksError(
                f"the disk is full: {display(target)} was not written and nothing was left behind. "
                "Free some space or choose another folder, then run the command again."
            ) from None
        if error.errno in _UNWRITABLE:
            raise EnvironmentLacksError(
                f"{display(target)} cannot be written: {error.strerror}. Name a place that can be "
                "written, or run as its owner."
            ) from None
        raise


_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file under a temporary name, flush it to disk, and move it into place.

    For files of our own in folders of our own; what an option names goes through
    `mpft_deploy.outputs`.

    Args:
        mode: what others may do with it, at most: the process's umask takes its part.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}.tmp")
    with explain_unwritable(path):
        try:
            write_synced(temporary, data, mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


TEMPORARY = ".mpft-"
"""How names of unfinished files and folders begin; they end with `.tmp`.

They are short whatever is written: a name of 255 bytes has a temporary one too.
"""

OLD = "old"
"""In a workplace: what is being replaced, where a system cannot do that in one step."""

PICTURES = 0o640
"""The mode of files that may show people."""


def workplace_of(folder: Path, name: str) -> Path:
    """Where an output of that name in that folder is made; see `mpft_deploy.outputs`."""
    return folder / f"{TEMPORARY}{sha256(os.fsencode(name))[:12]}.tmp"


def write_synced(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that is not there yet, and flush it to disk; `mode` as for `write_atomic`."""
    # Its mode from the start: no moment in which others may read a private key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to disk, where the file system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows, which opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as some network file systems answer
            raise
    finally:
        os.close(descriptor)


_SYSTEM = re.compile(
    r"\.mpft-\w+\.tmp"
    # desktops: macOS, Windows, KDE, thumbnails, trash
    r"|\.DS_Store|\._.*|\.AppleDouble|\.AppleDB|\.AppleDesktop|\.Spotlight-V100|\.Trashes"
    r"|\.fseventsd|\.TemporaryItems|\.apdisk|\.localized|Icon\r|\.VolumeIcon\.icns"
    r"|\.DocumentRevisions-V100|\.metadata_never_index|\.com\.apple\..*"
    r"|(?i:thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin"
    r"|system volume information)"
    r"|\.directory|\.Trash(-\d+)?|\.thumbnails|\.nomedia"
    # file systems: ext, NFS, FUSE, SMB, AFS, snapshots
    r"|lost\+found|\.nfs[0-9a-fA-F]*|\.fuse_hidden[0-9a-fA-F]*|\.smbdelete[0-9a-fA-F]*|\.cifs[0-9a-fA-F]*"
    r"|\.__afs[0-9a-fA-F]*|\.snapshots?|~snapshot|\.zfs|\.glusterfs|\.trashcan"
    # storage boxes and synchronisers
    r"|@eaDir|\.@__thumb|@Recycle|\#recycle|@tmp|\.stfolder.*|\.stversions|\.stignore"
    r"|\.syncthing\..*\.tmp|~syncthing~.*\.tmp|\.dropbox(\.attr|\.cache)?|\.owncloudsync\.log|\.sync"
    # volumes of Kubernetes: the links that all others go through
    r"|\.\.data(_tmp)?|\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+",
    re.DOTALL,
)  # fmt: skip


def is_system_name(name: str) -> bool:
    """Whether systems put files of this name into anyone's folders: nobody wrote or reads them."""
    return _SYSTEM.fullmatch(name) is not None


def canonical_json(payload: Mapping[str, Any]) -> bytes:
    """The one serialisation of `payload`: indented, keys as given, ASCII, final newline."""
    return (json.dumps(payload, indent=2, allow_nan=False) + "\n").encode()


def user_number() -> int:
    """Whose files this process writes; 0 where users have no numbers, nor files' owners."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def cache_folder() -> Path:
    """Ours in the user's cache, there or not; a RuntimeError for a user without a home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, empty, or not allowed by the XDG specification
        cache = Path.home() / ".cache"
    return cache / "mpft"
