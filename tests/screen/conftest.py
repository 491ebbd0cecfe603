"""`mpft screen` as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

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


Screen = Callable[..., Run]


@pytest.fixture
def screen(bundle: Path, tmp_path: Path) -> Screen:
    """Run `mpft screen` with the tiny bundle in a process of its own."""

    def run(*arguments: str | bytes | Path, **environment: str) -> Run:
        done = subprocess.run(
            [*MPFT, "screen", *arguments],
            capture_output=True,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "MPFT_BUNDLE": str(bundle), **environment},
        )
        run = Run(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in run.err
        return run

    return run
