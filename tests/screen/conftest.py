"""`mpft screen` as a person runs it, and the fault table's measurements."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import MPFT, Run, Screen

FAULTS = Path(os.environ.get("MPFT_FAULTS", "build/faults.json"))


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


@pytest.fixture(scope="session")
def faults() -> Iterator[dict[str, dict[str, Any]]]:
    """Fault → what was measured; written for the docs when the tests have run."""
    measured: dict[str, dict[str, Any]] = {}
    yield measured
    if measured:
        FAULTS.parent.mkdir(exist_ok=True)
        before = json.loads(FAULTS.read_text()) if FAULTS.exists() else {}
        FAULTS.write_text(json.dumps({**before, **measured}, indent=2, sort_keys=True) + "\n")
