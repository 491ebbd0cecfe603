"""What a search measured, kept on disk line by line: an interrupted search goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mpft_deploy.errors import InputError
from mpft_deploy.files import canonical_json, display, explain_unwritable, sha256
from mpft_deploy.spec import Record

Kind = TypeVar("Kind", bound=Record)


@cache
def code_digest() -> str:
    """SHA-256 over the sources that make engines and run them: what was measured with others, by
    other settings of a session say, does not hold."""
    folders = [Path(str(files(name))) for name in ("mpft_deploy.engine", "mpft_deploy.export")]
    sources = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return sha256(b"".join(path.read_bytes() for path in sources))


class Notebook:
    """JSON lines, each a measurement under the key of what it holds for; the last one counts.

    A key is a JSON object of everything that the measurement depends on. A line that is cut off, or
    that another version wrote, is passed over: it is measured again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            text = b""
        except OSError as error:
            raise InputError(f"{display(path)} cannot be read: {error.strerror}") from None
        self._cut_off = bool(text) and not text.endswith(b"\n")
        self._found = dict(filter(None, map(_read, text.splitlines())))

    def get(self, key: Mapping[str, Any], kind: type[Kind]) -> Kind | None:
        """The measurement under `key`, or None."""
        try:
            return msgspec.convert(self._found[sha256(canonical_json(key))], kind)
        except (KeyError, msgspec.ValidationError):
            return None

    def put(self, key: Mapping[str, Any], value: Record) -> None:
        """Keep a measurement, on disk before this returns."""
        plain = msgspec.to_builtins(value)
        self._found[sha256(canonical_json(key))] = plain
        line = json.dumps({"key": key, "value": plain}, allow_nan=False) + "\n"
        with explain_unwritable(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(("\n" * self._cut_off + line).encode())
                file.flush()
                os.fsync(file.fileno())
        self._cut_off = False


def _read(line: bytes) -> tuple[str, Any] | None:
    """Digest of the key, and the value, of a line; None if it is not one of ours."""
    try:
        entry = json.loads(line)
        return sha256(canonical_json(entry["key"])), entry["value"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
