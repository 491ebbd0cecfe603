"""Write an output in a second process that is killed at its n-th system call, for every n.

Linux alone: the process is traced (ptrace), so every call counts, whoever makes it. Run as a
program, for the process that is forked must be a small one with a single thread.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mpft_deploy import outputs
from mpft_deploy.errors import InputError
from mpft_deploy.outputs import staged_folder, write_output
from mpft_deploy.sealed import read_sealed, write_seal
from mpft_deploy.standing import marked_kind, sealed_kind

PTRACE_TRACEME, PTRACE_SYSCALL = 0, 24
LIBC = ctypes.CDLL(None, use_errno=True)
TARGET = "out"
FOLDER, FILE = sealed_kind("bundle"), marked_kind("a report", b"<report>")


def trace(request: int, process: int) -> None:
    if LIBC.ptrace(request, process, None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def run_until(call: int, work: Callable[[], None]) -> bool:
    """Fork, and kill the child as it begins its `call`-th system call; False if it had fewer."""
    child = os.fork()
    if child == 0:
        try:
            trace(PTRACE_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    for stop in range(2 * call + 1):  # each call stops twice: before it and after it
        trace(PTRACE_SYSCALL, child)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return False
        if stop == 2 * call:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return True


def write_folder(folder: Path, text: str) -> None:
    with staged_folder(folder / TARGET, FOLDER, replace=True) as staging:
        (staging / "engine").write_text(text)
        write_seal(staging, {"kind": "bundle", "version": 1, "text": text})


def write_file(folder: Path, text: str) -> None:
    write_output(folder / TARGET, f"<report>{text}".encode(), FILE)


def state_of(path: Path) -> str:
    """What stands there: its text, "absent", or "broken"."""
    if path.is_file():
        return path.read_text().removeprefix("<report>")
    if not path.exists():
        return "absent"
    try:
        sealed = read_sealed(path, version=1, kind="bundle")
    except InputError:
        return "broken"
    texts = {sealed.payload["text"], *(data.decode() for data in sealed.content.values())}
    return texts.pop() if len(texts) == 1 else "broken"


def main() -> None:
    """argv: an empty folder, "folder" or "file", "exchange" or "rename".

    Prints a JSON list: for each system call what stood at the target after the kill, after the
    next run began and wrote nothing, and all names that were left then.
    """
    base, write = Path(sys.argv[1]), {"folder": write_folder, "file": write_file}[sys.argv[2]]
    if sys.argv[3] == "rename":
        outputs._exchange = lambda one, other: False  # as on a file system that cannot
    seen, call = [], 0
    while True:
        folder = base / str(call)
        folder.mkdir()
        write(folder, "old")
        os.chdir(folder)
        killed = run_until(call, lambda: write(Path(), "new"))
        os.chdir(base)
        state = state_of(folder / TARGET)
        kind = FOLDER if write is write_folder else FILE
        with outputs.reserve(folder / TARGET, kind, replace=True):
            pass
        left = sorted(path.name for path in folder.iterdir())
        seen.append([state, state_of(folder / TARGET), left])
        if not killed:
            break
        call += 1
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
