"""Where the files of an archive lie: folders, lists, and object storages that pyarrow knows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from mpft_deploy.errors import InputError
from mpft_deploy.files import display, printable
from mpft_deploy.finding import IMAGE_SUFFIXES, find_files
from mpft_deploy.images import check_readable

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

LISTS = (".txt", ".lst")

_SECRET = re.compile("(?i)key|pass|pw|secret|sig|token")
"""In the name of an option: client_secret, or sig of a shared access signature."""


def find_sources(sources: Iterable[str], others: Counter[str]) -> Iterator[bytes]:
    """The files of some folders, lists and addresses, by the bytes of their names.

    A folder gives its images by suffix; a `.txt` is a list, one file or address a line; an address
    such as s3://bucket/folder is a folder or a file of an object storage that pyarrow knows, as a
    URI: %3F for a ?, which begins the client's options; anything else is a file.

    Args:
        others: counts the files of other kinds by suffix.

    Raises:
        InputError: a list or a storage cannot be read, or an address has a secret in it.
    """
    for source in sources:
        path = Path(source)
        if "://" in source:
            check_secrets(source)
            yield from _of_storage(source, others)
        elif path.is_dir():
            for found in find_files(path, IMAGE_SUFFIXES, others=others):
                yield os.fsencode(found)
        elif path.suffix.lower() in LISTS:
            try:
                lines = path.read_bytes().splitlines()
            except OSError as error:
                raise InputError(f"{display(path)}: {error.strerror}") from None
            for number, line in enumerate(map(bytes.strip, lines), 1):
                check_secrets(os.fsdecode(line), f"{display(path)}, line {number}: ")
                if line:
                    yield line
        else:
            yield os.fsencode(source)


def check_secrets(text: str, where: str = "") -> None:
    """Have no secret in an address, which results name; an InputError that does not tell it.

    Args:
        where: it stands.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or rest.startswith("/"):  # no host, no login
        return
    names = [unquote(one.partition("=")[0]) for one in re.split("[?&]", rest)[1:]]
    login, at, _ = rest.rpartition("@")  # a password may hold "/" or "?"
    if at and ":" in login:
        has, remedy = "a password in it", " (in a file's name, write %40 for @)"
    elif any(map(_SECRET.search, names)):
        has, remedy = "a secret among its options", ""
    else:
        return
    raise InputError(
        f"{where}an address {printable(scheme)}://… has {has}, and results name addresses: give it "
        f"in the way of its client, such as AWS_SECRET_ACCESS_KEY in the environment{remedy}"
    )


def _of_storage(address: str, others: Counter[str]) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import fs

    try:
        storage, root = _storage_of(address)
        if storage.get_file_info(root).type == fs.FileType.File:
            yield address.encode()
            return
        folder, mark, options = address.partition("?")
        for one in storage.get_file_info(fs.FileSelector(root, recursive=True)):
            if one.type == fs.FileType.File:
                suffix = Path(one.path).suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    below = quote(one.path[len(root) :].lstrip("/"))
                    yield f"{folder.rstrip('/')}/{below}{mark}{options}".encode()
                else:
                    others[suffix] += 1
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{display(address)} cannot be listed: {error}") from None


def _storage_of(address: str) -> tuple[FileSystem, str]:
    """The storage of an address and the path in it."""
    parts = urlsplit(address, allow_fragments=False)
    storage, root = _client(f"{parts.scheme}://{parts.netloc}/", parts.query)
    return storage, (root.rstrip("/") + unquote(parts.path)).rstrip("/") or "/"


@lru_cache
def _client(place: str, options: str) -> tuple[FileSystem, str]:
    """One for all files of a place: each would ask for region and credentials again."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(f"{place}?{options}" if options else place)  # type: ignore[no-any-return]


def bytes_of(name: bytes) -> bytes:
    """The bytes of a file, here or in a storage; an InputError if it cannot be read."""
    text = os.fsdecode(name)
    if "://" not in text:
        check_readable(Path(text))
        try:
            return Path(text).read_bytes()
        except OSError as error:
            raise InputError(f"{display(text)}: {error.strerror}") from None
    import pyarrow as pa

    try:
        storage, path = _storage_of(text)
        with storage.open_input_stream(path) as stream:
            return bytes(stream.read())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{display(text)}: {error}") from None
