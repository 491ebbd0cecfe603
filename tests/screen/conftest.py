"""`mpft screen` in the test's folder, and the fault table's measurements."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Run, Screen

FAULTS = Path(os.environ.get("MPFT_FAULTS", "build/faults.json"))


@pytest.fixture
def screen(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mpft: Callable[..., tuple[int, str, str]],
) -> Screen:
    """Run `mpft screen` with the tiny bundle, in the test's folder."""

    def call(*arguments: str | bytes | Path, **environment: str) -> Run:
        with monkeypatch.context() as inside:
            inside.chdir(tmp_path)
            for name, value in {"MPFT_BUNDLE": str(bundle), **environment}.items():
                inside.setenv(name, value)
            run = Run(*mpft("screen", *map(os.fsdecode, arguments)))
        assert "Traceback" not in run.err
        return run

    return call


@pytest.fixture(scope="session")
def faults() -> Iterator[dict[str, dict[str, Any]]]:
    """Fault → what was measured; written for the docs when the tests have run."""
    measured: dict[str, dict[str, Any]] = {}
    yield measured
    if measured:
        FAULTS.parent.mkdir(exist_ok=True)
        before = json.loads(FAULTS.read_text()) if FAULTS.exists() else {}
        FAULTS.write_text(json.dumps({**before, **measured}, indent=2, sort_keys=True) + "\n")
