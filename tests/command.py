"""Commands as a person runs them: in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

MPFT = [sys.executable, "-c", "from mpft_deploy.cli.main import main; main()"]


class Run(NamedTuple):
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


WITHOUT = """
import json, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
from mpft_deploy.cli.main import cli, run
for arguments in json.load(sys.stdin):
    print("code", run(cli, "mpft", arguments), flush=True)
"""


def without(modules: Iterable[str], *commands: list[object]) -> tuple[list[int], str]:
    """Exit codes and errors of commands, in one process that can import none of these modules."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *modules],
        input=json.dumps([list(map(str, one)) for one in commands]),
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    codes = [int(line[1]) for line in lines if line[:1] == ["code"]]
    assert len(codes) == len(commands), done.stderr
    return codes, done.stderr


Screen = Callable[..., Run]


class Process:
    """A running `mpft screen`; its output is read all the time."""

    def __init__(
        self, arguments: list[str], bundle: Path, cwd: Path | None = None, **environment: str
    ) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [*MPFT, "screen", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "MPFT_BUNDLE": str(bundle), **environment},
        )
        self._readers = [
            threading.Thread(target=kept.extend, args=(pipe,), daemon=True)
            for kept, pipe in (
                (self.lines, self.process.stdout),
                (self.errors, self.process.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in map(json.loads, list(self.lines)) if e["event"] == kind]

    def until(self, what: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, (self.lines[-3:], self.errors)
            assert self.process.poll() is None, (self.lines[-3:], self.errors)
            time.sleep(0.02)

    def end(self, number: int | None = signal.SIGTERM) -> float:
        """Signal it and wait; seconds that it took."""
        began = time.monotonic()
        if number is not None:
            self.process.send_signal(number)
        self.process.wait(60)
        seconds = time.monotonic() - began
        for reader in self._readers:
            reader.join(60)
        return seconds
