"""Standard input, output and error, made safe whatever they lead to.

- What a terminal's encoding lacks is written as an escape, such as \\xe9, or a sign like "–" as one
  that it has; nothing raises for it.
- A stream that was closed is occupied, so that no file that is opened later takes its number and is
  then written to.
- Output that cannot be written is known at the end, by `lost_output`, and raises once where it is
  written. Messages that cannot be written are dropped: there is nobody to tell.
- What libraries print goes to standard error: standard output holds results alone.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
import warnings
from typing import Any

_output: _Raw | None = None

ERRORS = "mpft-terminal"
"""Name of the handler for what an encoding lacks."""

_SIGNS = {"–": "-", "−": "-", "×": "x", "…": "...", "·": "-", "≤": "<=", "≥": ">="}


def prepare() -> None:
    """Take over the three streams of this process; on Windows only their encoding."""
    global _output
    warnings.showwarning = _warn
    names = [getattr(sys.stdout, "encoding", "utf-8"), getattr(sys.stderr, "encoding", "utf-8")]
    # As if closed, in that writing to it fails; reading finds the end. In this order each takes
    # the number that is free.
    for number, access in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        if not _is_open(number):
            os.open(os.devnull, access)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115, it lives as long as we do
    if os.name != "posix":
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=ERRORS)
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.flush()
    _output = _Raw(os.dup(1), raises=True)
    os.dup2(2, 1)
    sys.stdout = _text(_output, names[0])
    sys.stderr = _text(_Raw(2, raises=False), names[1])


def lost_output() -> OSError | None:
    """Why something was not written to standard output, if so; a BrokenPipeError is a reader's
    choice."""
    return _output.failure if _output is not None else None


def fitting(text: str) -> str:
    """A text as standard output will show it, for tables that count its characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ERRORS).decode(encoding)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = [_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking]
    return "".join(shown), error.end


codecs.register_error(ERRORS, _spell)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can move its cursor and show colours."""
    try:
        return stream.isatty() and (
            os.name != "posix" or os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        )
    except (AttributeError, ValueError):
        return False


def _warn(message: Warning | str, *place: object, **more: object) -> None:
    """A warning as a line; the place in our code that it came from helps nobody."""
    print(f"warning: {message}", file=sys.stderr)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


class _Raw(io.FileIO):
    """A stream's bytes; what cannot be written is dropped, and its first failure kept."""

    def __init__(self, number: int, *, raises: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._raises = raises
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # a terminal that may not block
                select.select([], [self], [])
            return count
        except OSError as error:
            if self.failure is None:
                self.failure = error
                if self._raises:
                    raise
        return len(data)


class _Text(io.TextIOWrapper):
    """Without `buffer`, by which Click would write UTF-8 to a terminal that is ASCII."""

    buffer = None  # type: ignore[assignment]


def _text(raw: _Raw, encoding: str) -> _Text:
    return _Text(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors=ERRORS,
        line_buffering=raw is not _output or raw.isatty(),
    )
