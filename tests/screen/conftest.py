"""`mpft screen` as a person runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from command import MPFT, Run, Screen


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
